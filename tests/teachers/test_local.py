"""Tests of the teacher `local` with an untrained model: schemas, batches, flushes, halving and interruption."""

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
from compact_hf.teachers.base import EncodedImage, Failure, FailureKind, Reply, Request
from compact_hf.teachers.local import Local
from compact_hf.teachers.local_model import TOKENS_PER_QUESTION, load_network
from tests.teachers.asking import ask_all, photograph
from tests.teachers.other_models import save_gemma, save_idefics
from tests.teachers.tiny_teacher import build_untrained, use_llama_byte_tokenizer

SCHEMAS = (DraftReply, DraftsReply, VerdictReply, VerdictsReply, BlindReply, BlindAnswersReply)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained(tmp_path_factory.mktemp("local") / "tiny", ["What is it?"])


@pytest.fixture(scope="module")
def llamas_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return use_llama_byte_tokenizer(build_untrained(tmp_path_factory.mktemp("local") / "llama"))


@pytest.fixture(scope="module")
def gemmas(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return save_gemma(tmp_path_factory.mktemp("local") / "gemma", folder)


@pytest.fixture(scope="module")
def idefics_too(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return save_idefics(tmp_path_factory.mktemp("local") / "idefics", folder)


class NetworkSpy:
    """Runs the real network, which would repeat one character endlessly, and records its batches.

    `batches` has the number of rows of each batch, and whether it has images. `before_step` is called with the number
    of rows before each step, and `on_images` with the images before they are used. A reply ends after `tokens` tokens
    per question.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        before_step: Callable[[int], object] = lambda rows: None,
        on_images: Callable[[torch.Tensor], object] = lambda pictures: None,
        *,
        tokens: int = 24,
    ) -> None:
        self.batches: list[tuple[int, bool]] = []
        self.steps = 0
        self._before_step = before_step
        self._on_images = on_images
        patch.setattr(local_model, "load_network", self._load)
        patch.setattr(local_model, "TOKENS_PER_QUESTION", tokens)

    def _load(self, location: Any) -> Any:
        network = load_network(location)
        letter = json.loads((Path(location.model) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"][
            "a"
        ]
        network.lm_head.register_forward_hook(partial(_prefer_letter, letter))
        network.register_forward_pre_hook(self._step, with_kwargs=True)
        network.model.vision_tower.register_forward_pre_hook(
            lambda tower, args, kwargs: self._on_images(kwargs.get("pixel_values", *args)), with_kwargs=True
        )
        return network

    def _step(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.steps += 1
        tokens = kwargs["input_ids"]
        if tokens.shape[1] > 1:
            self.batches.append((len(tokens), bool((tokens == network.config.image_token_id).any())))
        self._before_step(len(tokens))


def _prefer_letter(letter: int, head: Any, arguments: Any, scores: torch.Tensor) -> torch.Tensor:
    """Make a letter the most probable token, so that no text ends."""
    scores[..., letter] += 1000
    return scores


def make_request(
    number: int,
    schema: type[BaseModel] = BlindReply,
    *,
    blind: bool = False,
    num_questions: int = 1,
    image: bytes = b"",
) -> Request:
    encoded_image = None if blind else EncodedImage(lambda: image or photograph(), ref="a.jpg", max_edge=64)
    return Request(f"key {number}", "verifier", "0" * 32, encoded_image, "What is it?", schema, num_parts=num_questions)


def random_network_loader(directory: Path) -> Callable[[Any], Any]:
    """Return a loader of a network with random scores, higher ones for tokens that close texts, lists and objects."""
    vocabulary = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    closing_tokens = [number for token, number in vocabulary.items() if set(token) & set('"]}')]

    def load(location: Any) -> Any:
        network = load_network(location)
        generator = torch.Generator().manual_seed(0)

        def randomize(head: Any, arguments: Any, scores: torch.Tensor) -> torch.Tensor:
            scores = 10 * torch.rand(scores.shape, generator=generator)
            scores[..., closing_tokens] += 3
            return scores

        network.lm_head.register_forward_hook(randomize)
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
    monkeypatch.setattr(local_model, "load_network", random_network_loader(model))
    sent = [make_request(number, SCHEMAS[number % 6], blind=number % 5 == 4) for number in range(48)]
    replies_by_schema: dict[str, list[BaseModel]] = {schema.__name__: [] for schema in SCHEMAS}
    for sent_request, reply in zip(sent, ask_all(Local(str(model), batch_size=24), sent), strict=True):
        assert isinstance(reply, Reply)
        if reply.refused:
            assert (reply.refused, reply.text) == ("finish reason MAX_TOKENS", "")
        else:
            replies_by_schema[sent_request.schema.__name__].append(sent_request.schema.model_validate_json(reply.text))
    assert all(len(parsed_replies) > 2 for parsed_replies in replies_by_schema.values()), replies_by_schema
    texts = {parsed.model_dump_json() for parsed_replies in replies_by_schema.values() for parsed in parsed_replies}
    assert len(texts) > 20
    assert any("[{" in text for text in texts), texts


def test_a_reply_without_an_end_is_refused_and_never_repaired(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NetworkSpy(monkeypatch, tokens=40)
    single, triple = ask_all(Local(str(folder)), [make_request(1), make_request(2, num_questions=3)])
    assert single == Reply("key 1", "", f"local:{folder.name}", "finish reason MAX_TOKENS", single.input_tokens, 40)
    assert triple.output_tokens == 3 * 40
    assert 10 < single.input_tokens < 100


def test_requests_with_and_without_a_picture_go_in_batches_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = NetworkSpy(monkeypatch)
    answers = ask_all(Local(str(folder), batch_size=2), [make_request(number, blind=number > 4) for number in range(8)])
    assert [answer.key for answer in answers] == [f"key {number}" for number in range(8)]
    assert sorted(spy.batches) == [(1, False), (1, True), (2, False), (2, True), (2, True)]


class OpenStream:
    """Sends requests to a teacher in a stream that stays open, as the dispatcher does."""

    def __init__(self, teacher: Local) -> None:
        self.teacher = teacher
        self.answers: list[str] = []
        self._queue: asyncio.Queue[Request] = asyncio.Queue()
        self._stream = teacher.ask(self._requests())
        self._read_task = asyncio.ensure_future(self._read())

    def send(self, *requests: Request) -> None:
        for request in requests:
            self._queue.put_nowait(request)

    async def wait_for_answers(self, count: int, *, timeout_s: float = 60) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and len(self.answers) < count and not self._read_task.done():
            await asyncio.sleep(0.02)
        return len(self.answers) >= count

    async def close(self) -> None:
        self._read_task.cancel()
        await asyncio.wait([self._read_task])
        await self._stream.aclose()
        await self.teacher.close()

    async def _requests(self) -> AsyncGenerator[Request, None]:
        while True:
            yield await self._queue.get()

    async def _read(self) -> None:
        async for answer in self._stream:
            self.answers.append(answer.key)


def test_a_batch_runs_when_it_is_full_and_after_a_flush_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = NetworkSpy(monkeypatch)

    async def main() -> None:
        stream = OpenStream(Local(str(folder), batch_size=3))
        stream.send(make_request(1), make_request(2))
        assert not await stream.wait_for_answers(1, timeout_s=0.5)
        stream.send(make_request(3), make_request(4))
        assert await stream.wait_for_answers(3)
        assert not await stream.wait_for_answers(4, timeout_s=0.5)
        # A flush may arrive before its last request, which is still in a queue or whose image is being decoded.
        decoding = hold_decoding(monkeypatch)
        stream.send(make_request(5))
        await stream.teacher.flush()
        assert not await stream.wait_for_answers(4, timeout_s=0.5)
        decoding.set()
        assert await stream.wait_for_answers(5)
        # The flush ends with its replies.
        stream.send(make_request(6))
        assert not await stream.wait_for_answers(6, timeout_s=0.5)
        await stream.teacher.flush()
        assert await stream.wait_for_answers(6)
        await stream.close()

    asyncio.run(main())
    assert spy.batches == [(3, True), (2, True), (1, True)]


def hold_decoding(patch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event, and delay the decoding of images until it is set."""
    released, decode = threading.Event(), local.decode_rgb

    def wait(jpeg: bytes) -> Any:
        assert released.wait(60)
        return decode(jpeg)

    patch.setattr(local, "decode_rgb", wait)
    return released


def test_requests_that_replies_lead_to_fill_the_next_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush ends with its first replies: the requests left over wait for others that fill their batch."""
    spy = NetworkSpy(monkeypatch)

    async def main() -> None:
        stream = OpenStream(Local(str(folder), batch_size=3))
        stream.send(*[make_request(number) for number in range(4)])
        await stream.teacher.flush()
        assert await stream.wait_for_answers(3)
        assert not await stream.wait_for_answers(4, timeout_s=0.5)
        stream.send(make_request(4), make_request(5))
        assert await stream.wait_for_answers(6)
        await stream.close()

    asyncio.run(main())
    assert spy.batches == [(3, True), (3, True)]


def test_what_does_not_fit_into_the_memory_is_asked_in_halves_from_then_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_memory(rows: int) -> None:
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    spy = NetworkSpy(monkeypatch, run_out_of_memory)
    answers = ask_all(Local(str(folder), batch_size=8), [make_request(number) for number in range(12)])
    assert all(isinstance(answer, Reply) for answer in answers)
    assert [size for size, _ in spy.batches] == [8, 4, 2, 2, 4, 2, 2, 2, 2]


def test_a_request_that_does_not_even_fit_alone_fails_without_being_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_memory(images: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    NetworkSpy(monkeypatch, on_images=run_out_of_memory)
    fits, too_large = ask_all(Local(str(folder)), [make_request(1, blind=True), make_request(2)])
    assert isinstance(fits, Reply)
    assert too_large == Failure(
        "key 2",
        f"{folder.name}: too large for the memory of cpu: CUDA out of memory. Tried to allocate 2.00 GiB.",
        kind=FailureKind.LOST,
    )


def test_one_picture_that_the_model_cannot_take_does_not_cost_the_others_of_its_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin_image, batch_sizes = photograph(300, 3), []

    def reject_thin_images(images: torch.Tensor) -> None:
        batch_sizes.append(len(images))
        # Padded to a square, a thin image is almost only CLIP's mean colour.
        if images.flatten(1).std(dim=1).min() < 0.5:
            raise ValueError("absolute aspect ratio must be smaller than 50")

    NetworkSpy(monkeypatch, on_images=reject_thin_images)
    answers = ask_all(
        Local(str(folder)), [make_request(1), make_request(2), make_request(3, image=thin_image), make_request(4)]
    )
    assert [type(answer) for answer in answers] == [Reply, Reply, Failure, Reply]
    assert answers[2] == Failure(
        "key 3", f"{folder.name}: absolute aspect ratio must be smaller than 50", kind=FailureKind.LOST
    )
    # Halved, and the half with the thin image halved again; the order depends on the order of the requests.
    assert sorted(batch_sizes, reverse=True) == [4, 2, 2, 1, 1]


def test_a_picture_that_is_gone_fails_alone(folder: Path) -> None:
    def raise_source_error() -> bytes:
        raise SourceError("b.jpg is gone")

    bad_request = Request(
        "lost",
        "verifier",
        "0" * 32,
        EncodedImage(raise_source_error, ref="b.jpg", max_edge=64),
        "What?",
        BlindReply,
    )
    assert ask_all(Local(str(folder)), [bad_request, make_request(1, blind=True)])[0] == Failure(
        "lost", "b.jpg is gone", kind=FailureKind.LOST
    )
    with pytest.raises(SourceError, match="is gone"):
        asyncio.run(Local(str(folder)).prepare(bad_request))


def test_the_event_loop_lives_while_the_model_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = NetworkSpy(monkeypatch, lambda rows: time.sleep(0.005), tokens=TOKENS_PER_QUESTION)

    async def main() -> int:
        stream = OpenStream(Local(str(folder)))
        stream.send(make_request(1))
        await stream.teacher.flush()
        iterations = 0
        while not stream.answers:
            iterations += 1
            await asyncio.sleep(0.01)
        await stream.close()
        return iterations

    assert asyncio.run(main()) > 20
    assert spy.steps == TOKENS_PER_QUESTION


def test_closing_ends_a_reply_that_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = NetworkSpy(monkeypatch, lambda rows: time.sleep(0.01))

    async def main() -> None:
        stream = OpenStream(Local(str(folder)))
        stream.send(make_request(1, num_questions=100))
        await stream.teacher.flush()
        while spy.steps < 5:
            await asyncio.sleep(0.01)
        await stream.close()
        assert stream.answers == []

    asyncio.run(main())
    time.sleep(0.2)
    last_step = spy.steps
    time.sleep(0.3)
    assert spy.steps == last_step < 100
