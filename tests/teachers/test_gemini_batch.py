"""Tests of batches: requests and results, with the real google-genai client and a local server."""

from __future__ import annotations

import asyncio
import io
import json
import re
import tracemalloc
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from starlette.responses import Response

from compact_hf.errors import SourceError, UsageError
from compact_hf.methods.compact.prompts import DraftsReply
from compact_hf.teachers.base import EncodedImage, Failure, FailureKind, Reply, Request
from compact_hf.teachers.gemini import Gemini
from compact_hf.teachers.gemini_batch.scheduler import BatchLimits
from compact_hf.teachers.gemini_batch.store import write_requests
from compact_hf.teachers.gemini_batch.teacher import GeminiBatch
from compact_hf.testing.gemini import GeminiServer, content_response, error_response
from compact_hf.testing.scripted_model import KEY
from tests.teachers.asking import ask_all, draft_request, photograph, verdict_request
from tests.teachers.batching import QUICK, batch_teacher, draft_requests


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


def test_a_batch_brings_what_the_same_requests_bring_one_by_one(server: GeminiServer, tmp_path: Path) -> None:
    requests = [*draft_requests(3), verdict_request("Which amber bucket?")]
    assert ask_all(batch_teacher(tmp_path, server), requests) == ask_all(Gemini(url=server.url), requests)
    assert (len(server.batches.jobs), server.request_count) == (1, 8)


def test_a_request_has_the_same_settings_either_way(server: GeminiServer, tmp_path: Path) -> None:
    request = draft_request(("color", "counting"), image=photograph(3000, 2000))
    ask_all(batch_teacher(tmp_path, server), [request])
    ask_all(Gemini(url=server.url), [request])
    batched, single = server.requests
    assert (batched.prompt, batched.image) == (single.prompt, single.image)
    assert batched.body["store"] is single.body["store"] is False
    config = batched.body["generationConfig"]
    assert config["responseMimeType"] == single.body["generationConfig"]["responseMimeType"] == "application/json"
    assert list(config["thinkingConfig"].values()) == list(single.body["generationConfig"]["thinkingConfig"].values())
    assert "temperature" not in config
    with Image.open(io.BytesIO(batched.image)) as image:
        assert (image.size, dict(image.getexif())) == ((1024, 683), {})


def test_the_schema_is_in_the_words_that_batches_keep_to(server: GeminiServer, tmp_path: Path) -> None:
    """The fields are in order, and there is no `responseJsonSchema` and no reference to a definition."""
    request = draft_request(("color",))
    ask_all(batch_teacher(tmp_path, server), [replace(request, schema=DraftsReply)])
    config = server.requests[0].body["generationConfig"]
    assert "responseJsonSchema" not in config
    drafts_schema = config["responseSchema"]["properties"]["drafts"]
    assert (config["responseSchema"]["type"], drafts_schema["type"], drafts_schema["items"]["type"]) == (
        "OBJECT",
        "ARRAY",
        "OBJECT",
    )
    assert drafts_schema["items"]["propertyOrdering"] == ["number", "supported", "question", "answer", "confidence"]
    assert "$ref" not in json.dumps(config)


def test_nothing_is_left_here_or_there_once_all_was_handed_over(server: GeminiServer, tmp_path: Path) -> None:
    ask_all(batch_teacher(tmp_path, server), draft_requests(3))
    assert list(tmp_path.iterdir()) == []
    assert server.batches.files == {}


@pytest.mark.parametrize("limits", [BatchLimits(max_requests=3), BatchLimits(max_bytes=7_000)])
def test_a_job_holds_no_more_than_it_may(limits: BatchLimits, server: GeminiServer, tmp_path: Path) -> None:
    answers = ask_all(batch_teacher(tmp_path, server, limits=limits), draft_requests(8))
    assert all(isinstance(answer, Reply) for answer in answers)
    assert [len(job.results) for job in server.batches.jobs] == [3, 3, 2]


def test_pictures_are_encoded_one_at_a_time_and_forgotten(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((1024, 1024), 90).save(buffer, "JPEG", quality=95)
    requests = [draft_request(("color",), ref=f"{number}.jpg", image=buffer.getvalue()) for number in range(40)]
    asyncio.run(
        write_requests(tmp_path / "f", deque(draft_requests(1)), max_bytes=1, max_requests=1)
    )  # import everything before memory is measured
    tracemalloc.start()
    try:
        keys, _ = asyncio.run(write_requests(tmp_path / "f", deque(requests), max_bytes=10**9, max_requests=100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    file_bytes = (tmp_path / "f").stat().st_size
    assert len(keys) == 40
    assert peak < 8 * file_bytes / 40, f"{peak:,} bytes in memory for a file of {file_bytes:,}"


def test_a_picture_that_is_gone_fails_alone(server: GeminiServer, tmp_path: Path) -> None:
    def raise_source_error() -> bytes:
        raise SourceError("b.jpg cannot be read any more")

    good_request = draft_request(("color",))
    encoded_image = EncodedImage(raise_source_error, ref="b.jpg", max_edge=64)
    bad_request = Request(
        "lost", "teacher", "1" * 32, encoded_image, good_request.prompt, good_request.schema, good_request.subject
    )
    assert ask_all(batch_teacher(tmp_path, server), [bad_request]) == [
        Failure("lost", "b.jpg cannot be read any more", FailureKind.LOST)
    ]
    assert server.batches.calls.total() == 0
    reply, failure = ask_all(batch_teacher(tmp_path, server), [good_request, bad_request])
    assert isinstance(reply, Reply)
    assert isinstance(failure, Failure)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (error_response(429, "RESOURCE_EXHAUSTED", "slow down", retry_delay_s=9), FailureKind.TRANSIENT),
        (error_response(503, "UNAVAILABLE", "overloaded"), FailureKind.TRANSIENT),
        (error_response(14, "UNAVAILABLE", "overloaded, in gRPC's numbers"), FailureKind.TRANSIENT),
        (error_response(8, "RESOURCE_EXHAUSTED", "too many, in gRPC's numbers"), FailureKind.TRANSIENT),
        (error_response(3, "INVALID_ARGUMENT", "the same, in gRPC's numbers"), FailureKind.REJECTED),
        (error_response(7, "PERMISSION_DENIED", "not this one"), FailureKind.REJECTED),
    ],
)
def test_one_request_of_a_batch_may_fail(response: Response, kind: FailureKind, tmp_path: Path) -> None:
    response.status_code = 500  # status of a single response; in a batch only the body counts
    with GeminiServer(fault=lambda request, number: response if number == 1 else None) as server:
        first, failure, last = ask_all(batch_teacher(tmp_path, server), draft_requests(3))
    assert isinstance(first, Reply)
    assert isinstance(last, Reply)
    assert isinstance(failure, Failure)
    # Not reported as overload: the dispatcher would hold all requests and send one as a probe, in a batch of its own.
    assert failure.kind is kind


def test_an_image_that_the_service_cannot_read_is_refused_in_a_batch_too(tmp_path: Path) -> None:
    response = error_response(400, "INVALID_ARGUMENT", "Unable to process input image")
    with GeminiServer(fault=lambda request, number: response if number == 1 else None) as server:
        _, refusal, _ = ask_all(batch_teacher(tmp_path, server), draft_requests(3))
    assert isinstance(refusal, Reply)
    assert refusal.refused == "refused by the teacher (Unable to process input image)"


def test_an_answer_that_was_refused_is_final_and_says_why(tmp_path: Path) -> None:
    with GeminiServer(fault=lambda request, number: content_response(None, finish="SAFETY")) as server:
        (reply,) = ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert isinstance(reply, Reply)
    assert (reply.refused, reply.text) == ("finish reason SAFETY", "")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("EXPIRED", "the batch expired before this request was answered (the batch expired)"),
        ("FAILED", "the batch failed (internal error)"),
        ("CANCELLED", "the batch was cancelled before this request was answered (cancelled)"),
    ],
)
def test_a_batch_without_results_is_asked_for_once_more(
    state: str, said: str, server: GeminiServer, tmp_path: Path
) -> None:
    server.batches.final_state = lambda number: "SUCCEEDED" if number else state
    first, second = ask_all(batch_teacher(tmp_path, server), draft_requests(2))
    assert (first, second) == (Failure(first.key, said), Failure(second.key, said))
    assert all(isinstance(answer, Reply) for answer in ask_all(batch_teacher(tmp_path, server), draft_requests(2)))
    assert len(server.batches.jobs) == 2


def test_lines_that_are_missing_fail_and_foreign_ones_are_passed_over(server: GeminiServer, tmp_path: Path) -> None:
    foreign = ["", "{", "null", "[1]", '{"key": 5}', '{"response": {}}', '{"key": "unknown", "response": {}}']
    server.batches.edit_results = lambda lines: [*foreign, lines[2], lines[0], lines[0], *foreign]
    first, missing, last = ask_all(batch_teacher(tmp_path, server), draft_requests(3))
    assert isinstance(first, Reply)
    assert isinstance(last, Reply)
    assert missing == Failure(missing.key, "the batch has no answer to this request")


@pytest.mark.parametrize("response", [None, 5, "text", {"candidates": 5}, {}, {"unheard-of": 1}])
def test_a_response_that_is_none_is_a_failure(response: object, server: GeminiServer, tmp_path: Path) -> None:
    server.batches.edit_results = lambda lines: [json.dumps({"key": json.loads(lines[0])["key"], "response": response})]
    (failure,) = ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TRANSIENT


def test_what_a_newer_service_adds_to_a_response_is_no_harm(server: GeminiServer, tmp_path: Path) -> None:
    def add_unknown_fields(lines: list[str]) -> list[str]:
        result = json.loads(lines[0])
        result["response"]["candidates"][0]["mood"] = result["response"]["mood"] = result["mood"] = {"good": True}
        return [json.dumps(result)]

    server.batches.edit_results = add_unknown_fields
    (reply,) = ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert isinstance(reply, Reply)


def test_what_is_waited_for_is_told(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.polls_to_finish = 4
    messages: list[str] = []
    ask_all(batch_teacher(tmp_path, server, on_wait=messages.append), draft_requests(4))
    assert messages == [
        "batch 1: writing, 4 requests left",
        messages[1],
        "batch 1 of 1: PENDING for 0 min, 0 of 4 answered",
        "batch 1 of 1: RUNNING for 0 min, 2 of 4 answered",
        "batch 1 of 1: RUNNING for 0 min, 2 of 4 answered",
    ]
    assert re.fullmatch(r"batch 1 of 1: uploading \d\.\d MB", messages[1])
    messages.clear()
    ask_all(
        batch_teacher(tmp_path, server, on_wait=messages.append, limits=BatchLimits(max_requests=2)), draft_requests(4)
    )
    assert "2 of 2 batches: 2 RUNNING for 0 min, 2 of 4 answered" in messages


def test_requests_that_come_meanwhile_go_out_with_the_next_flush(server: GeminiServer, tmp_path: Path) -> None:
    """Requests that follow from different answers are sent in one batch, not in a batch each."""
    requests = draft_requests(6)

    async def main() -> None:
        teacher = batch_teacher(tmp_path, server)
        queue: asyncio.Queue[Request] = asyncio.Queue()

        async def stream() -> AsyncGenerator[Request, None]:
            while True:
                yield await queue.get()

        for request in requests[:3]:
            queue.put_nowait(request)
        await teacher.flush()
        answers = teacher.ask(stream())
        for request in requests[3:5]:
            await anext(answers)
            queue.put_nowait(request)
            await teacher.flush()
        await anext(answers)
        # The request that follows from the third answer is late: the earlier flushes no longer count.
        fourth = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(20 * QUICK.settle_s)
        assert len(server.batches.jobs) == 1
        queue.put_nowait(requests[5])
        await teacher.flush()
        await fourth
        for _ in range(2):
            await anext(answers)
        await answers.aclose()
        await teacher.close()

    asyncio.run(main())
    assert [len(job.results) for job in server.batches.jobs] == [3, 3]


def test_no_key_says_which_variable_to_set_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    GeminiBatch(state_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UsageError, match="set GEMINI_API_KEY"):
        GeminiBatch(state_dir=tmp_path)
