"""The local teacher with a model that has learnt nothing: held to the schema, batched, flushed, halved, ended."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from compact_hf.errors import SourceError
from compact_hf.methods.compact.prompts import (
    BlindAnswersReply,
    BlindReply,
    DraftReply,
    DraftsReply,
    VerdictReply,
    VerdictsReply,
)
from compact_hf.teachers import local, local_model
from compact_hf.teachers.base import EncodedImage, Failure, Reply, Request
from compact_hf.teachers.local import Local
from compact_hf.teachers.local_model import TOKENS_PER_QUESTION, load_network
from tests.teachers.asking import photograph, put
from tests.teachers.other_models import gemma, idefics
from tests.teachers.tiny_teacher import untaught, with_bytes_as_llama_has_them

SCHEMAS = (DraftReply, DraftsReply, VerdictReply, VerdictsReply, BlindReply, BlindAnswersReply)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untaught(tmp_path_factory.mktemp("local") / "tiny", ["What is it?"])


@pytest.fixture(scope="module")
def llamas_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_bytes_as_llama_has_them(untaught(tmp_path_factory.mktemp("local") / "llama"))


@pytest.fixture(scope="module")
def gemmas(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return gemma(tmp_path_factory.mktemp("local") / "gemma", folder)


@pytest.fixture(scope="module")
def idefics_too(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return idefics(tmp_path_factory.mktemp("local") / "idefics", folder)


class Watched:
    """Lets the real network run, which would say the same sign for ever, and notes its batches: how many rows, and
    whether with pictures.

    `before` is called with the number of rows before each step, `seen` with the pictures before they are looked at.
    A reply ends after `tokens` for each question.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        before: Callable[[int], object] = lambda rows: None,
        seen: Callable[[torch.Tensor], object] = lambda pictures: None,
        *,
        tokens: int = 24,
    ) -> None:
        self.batches: list[tuple[int, bool]] = []
        self.steps = 0
        self._before = before
        self._seen = seen
        patch.setattr(local_model, "load_network", self._load)
        patch.setattr(local_model, "TOKENS_PER_QUESTION", tokens)

    def _load(self, place: Any) -> Any:
        network = load_network(place)
        letter = json.loads((Path(place.model) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]["a"]
        network.lm_head.register_forward_hook(partial(_for_ever, letter))
        network.register_forward_pre_hook(self._step, with_kwargs=True)
        network.model.vision_tower.register_forward_pre_hook(
            lambda tower, arguments, given: self._seen(given.get("pixel_values", *arguments)), with_kwargs=True
        )
        return network

    def _step(self, network: Any, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        self.steps += 1
        tokens = given["input_ids"]
        if tokens.shape[1] > 1:
            self.batches.append((len(tokens), bool((tokens == network.config.image_token_id).any())))
        self._before(len(tokens))


def _for_ever(letter: int, head: Any, arguments: Any, scores: torch.Tensor) -> torch.Tensor:
    """Prefer a letter, which ends no text."""
    scores[..., letter] += 1000
    return scores


def asking(
    number: int, schema: type[BaseModel] = BlindReply, *, blind: bool = False, asks: int = 1, picture: bytes = b""
) -> Request:
    exposure = None if blind else EncodedImage(lambda: picture or photograph(), ref="a.jpg", max_edge=64)
    questions = ("What is it?",) * asks
    return Request(f"key {number}", "verifier", "0" * 32, exposure, "What is it?", schema, questions)


def babbling(folder: Path) -> Callable[[Any], Any]:
    """A network that gives random scores, and good ones to what closes texts, lists and objects."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    closing = [number for token, number in vocabulary.items() if set(token) & set('"]}')]

    def load(place: Any) -> Any:
        network = load_network(place)
        chance = torch.Generator().manual_seed(0)

        def babble(head: Any, arguments: Any, scores: torch.Tensor) -> torch.Tensor:
            scores = 10 * torch.rand(scores.shape, generator=chance)
            scores[..., closing] += 3
            return scores

        network.lm_head.register_forward_hook(babble)
        return network

    return load


@pytest.mark.parametrize(
    "kind",
    ["folder", "gemmas", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llamas_bytes", "idefics_too"))],
)
def test_whatever_a_model_would_say_its_reply_has_the_schema(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(kind)
    monkeypatch.setattr(local_model, "load_network", babbling(model))
    asked = [asking(number, SCHEMAS[number % 6], blind=number % 5 == 4) for number in range(48)]
    read: dict[str, list[BaseModel]] = {schema.__name__: [] for schema in SCHEMAS}
    for one, reply in zip(asked, put(Local(str(model), batch_size=24), asked), strict=True):
        assert isinstance(reply, Reply)
        if reply.refused:
            assert (reply.refused, reply.text) == ("finish reason MAX_TOKENS", "")
        else:
            read[one.schema.__name__].append(one.schema.model_validate_json(reply.text))
    assert all(len(found) > 2 for found in read.values()), read
    texts = {said.model_dump_json() for found in read.values() for said in found}
    assert len(texts) > 20
    assert any("[{" in text for text in texts), texts


def test_a_reply_without_an_end_is_refused_and_never_repaired(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Watched(monkeypatch, tokens=TOKENS_PER_QUESTION)
    one, three = put(Local(str(folder)), [asking(1), asking(2, asks=3)])
    assert one == Reply(
        "key 1", "", f"local:{folder.name}", "finish reason MAX_TOKENS", one.input_tokens, TOKENS_PER_QUESTION
    )
    assert three.output_tokens == 3 * TOKENS_PER_QUESTION
    assert 10 < one.input_tokens < 100


def test_requests_with_and_without_a_picture_go_in_batches_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    answers = put(Local(str(folder), batch_size=2), [asking(number, blind=number > 4) for number in range(8)])
    assert [answer.key for answer in answers] == [f"key {number}" for number in range(8)]
    assert sorted(watched.batches) == [(1, False), (1, True), (2, False), (2, True), (2, True)]


class Open:
    """A teacher that is asked by a stream which stays open, as the engine's does."""

    def __init__(self, teacher: Local) -> None:
        self.teacher = teacher
        self.answers: list[str] = []
        self._queue: asyncio.Queue[Request] = asyncio.Queue()
        self._stream = teacher.ask(self._requests())
        self._reading = asyncio.ensure_future(self._read())

    def send(self, *requests: Request) -> None:
        for one in requests:
            self._queue.put_nowait(one)

    async def answered(self, count: int, *, within_s: float = 60) -> bool:
        until = time.monotonic() + within_s
        while time.monotonic() < until and len(self.answers) < count and not self._reading.done():
            await asyncio.sleep(0.02)
        return len(self.answers) >= count

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._stream.aclose()
        await self.teacher.close()

    async def _requests(self) -> AsyncGenerator[Request, None]:
        while True:
            yield await self._queue.get()

    async def _read(self) -> None:
        async for answer in self._stream:
            self.answers.append(answer.key)


def test_a_batch_runs_when_it_is_full_and_after_a_flush_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)

    async def main() -> None:
        stream = Open(Local(str(folder), batch_size=3))
        stream.send(asking(1), asking(2))
        assert not await stream.answered(1, within_s=0.5)
        stream.send(asking(3), asking(4))
        assert await stream.answered(3)
        assert not await stream.answered(4, within_s=0.5)
        # A flush may overtake the request that it is for, in the queue of the engine and while an image is decoded.
        decoding = hold_decoding(monkeypatch)
        stream.send(asking(5))
        await stream.teacher.flush()
        assert not await stream.answered(4, within_s=0.5)
        decoding.set()
        assert await stream.answered(5)
        # The flush is over with its replies.
        stream.send(asking(6))
        assert not await stream.answered(6, within_s=0.5)
        await stream.teacher.flush()
        assert await stream.answered(6)
        await stream.close()

    asyncio.run(main())
    assert watched.batches == [(3, True), (2, True), (1, True)]


def hold_decoding(patch: pytest.MonkeyPatch) -> threading.Event:
    """Let images be decoded only once the event is set."""
    released, decode = threading.Event(), local._decode_image

    def wait(jpeg: bytes) -> Any:
        assert released.wait(60)
        return decode(jpeg)

    patch.setattr(local, "_decode_image", wait)
    return released


def test_requests_that_replies_lead_to_fill_the_next_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush ends with the replies to it: a rest of it does not run beside a batch that could be full."""
    watched = Watched(monkeypatch)

    async def main() -> None:
        stream = Open(Local(str(folder), batch_size=3))
        stream.send(*[asking(number) for number in range(4)])
        await stream.teacher.flush()
        assert await stream.answered(3)
        assert not await stream.answered(4, within_s=0.5)
        stream.send(asking(4), asking(5))
        assert await stream.answered(6)
        await stream.close()

    asyncio.run(main())
    assert watched.batches == [(3, True), (3, True)]


def test_what_does_not_fit_into_the_memory_is_asked_in_halves_from_then_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(rows: int) -> None:
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    watched = Watched(monkeypatch, fill)
    answers = put(Local(str(folder), batch_size=8), [asking(number) for number in range(12)])
    assert all(isinstance(answer, Reply) for answer in answers)
    assert [size for size, _ in watched.batches] == [8, 4, 2, 2, 4, 2, 2, 2, 2]


def test_a_request_that_does_not_even_fit_alone_fails_without_being_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(pictures: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    Watched(monkeypatch, seen=fill)
    fits, too_large = put(Local(str(folder)), [asking(1, blind=True), asking(2)])
    assert isinstance(fits, Reply)
    assert too_large == Failure(
        "key 2",
        f"{folder.name}: too large for the memory of cpu: CUDA out of memory. Tried to allocate 2.00 GiB.",
        is_retryable=False,
    )


def test_one_picture_that_the_model_cannot_take_does_not_cost_the_others_of_its_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, batches = photograph(300, 3), []

    def refuse(pictures: torch.Tensor) -> None:
        batches.append(len(pictures))
        # Padded to a square, hardly anything is left but CLIP's mean colour.
        if pictures.flatten(1).std(dim=1).min() < 0.5:
            raise ValueError("absolute aspect ratio must be smaller than 50")

    Watched(monkeypatch, seen=refuse)
    answers = put(Local(str(folder)), [asking(1), asking(2), asking(3, picture=line), asking(4)])
    assert [type(answer) for answer in answers] == [Reply, Reply, Failure, Reply]
    assert answers[2] == Failure(
        "key 3", f"{folder.name}: absolute aspect ratio must be smaller than 50", is_retryable=False
    )
    # Halved, and the half with the picture halved again; which half comes first depends on which question did.
    assert sorted(batches, reverse=True) == [4, 2, 2, 1, 1]


def test_a_picture_that_is_gone_fails_alone(folder: Path) -> None:
    def gone() -> bytes:
        raise SourceError("b.jpg is gone")

    lost = Request(
        "lost", "verifier", "0" * 32, EncodedImage(gone, ref="b.jpg", max_edge=64), "What?", BlindReply, ("?",)
    )
    assert put(Local(str(folder)), [lost, asking(1, blind=True)])[0] == Failure(
        "lost", "b.jpg is gone", is_retryable=False
    )
    with pytest.raises(SourceError, match="is gone"):
        asyncio.run(Local(str(folder)).prepare(lost))


def test_the_event_loop_lives_while_the_model_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, lambda rows: time.sleep(0.005), tokens=TOKENS_PER_QUESTION)

    async def main() -> int:
        stream = Open(Local(str(folder)))
        stream.send(asking(1))
        await stream.teacher.flush()
        turns = 0
        while not stream.answers:
            turns += 1
            await asyncio.sleep(0.01)
        await stream.close()
        return turns

    assert asyncio.run(main()) > 20
    assert watched.steps == TOKENS_PER_QUESTION


def test_closing_ends_a_reply_that_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, lambda rows: time.sleep(0.01))

    async def main() -> None:
        stream = Open(Local(str(folder)))
        stream.send(asking(1, asks=100))
        await stream.teacher.flush()
        while watched.steps < 5:
            await asyncio.sleep(0.01)
        await stream.close()
        assert stream.answers == []

    asyncio.run(main())
    time.sleep(0.2)
    ended_at = watched.steps
    time.sleep(0.3)
    assert watched.steps == ended_at < 100
