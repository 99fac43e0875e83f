"""The real google-genai client with files and batches, against a server that speaks their protocol over loopback."""

from __future__ import annotations

import asyncio
import io
import json
import re
import tracemalloc
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.responses import Response

from compact_hf.errors import JournalError, SourceError, TeacherError, TeacherUnavailableError, UsageError
from compact_hf.synthesis.compact.prompts import DraftsReply
from compact_hf.teachers.gemini import Gemini
from compact_hf.teachers.gemini_batch import GeminiBatch
from compact_hf.teachers.gemini_dispatch import Limits, Pace
from compact_hf.teachers.gemini_jobs import FOLDER
from compact_hf.teachers.gemini_jsonl import write_requests
from compact_hf.teachers.teacher import Exposure, Failure, Reply, Request
from compact_hf.testing.gemini import GeminiServer, content_response, error_response
from compact_hf.testing.hub.faults import Cut
from compact_hf.testing.model import KEY
from tests.teachers.asking import draft_request, photograph, put, verdict_request

QUICK = Pace(first_s=0.02, longest_s=0.05, settle_s=0.02, patience_s=5.0)
CALLS = ("upload", "chunk", "create", "created", "get", "download")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


def batch(run: Path, server: GeminiServer, **more: Any) -> GeminiBatch:
    return GeminiBatch(state_dir=run, url=server.url, **{"pace": QUICK, **more})


def drafts(count: int) -> list[Request]:
    return [draft_request(("color", "counting"), ref=f"{number}.jpg") for number in range(count)]


def some(teacher: GeminiBatch, requests: Sequence[Request], count: int) -> list[Reply | Failure]:
    """Ask, take so many answers, and leave."""

    async def stream() -> AsyncGenerator[Request, None]:
        for request in requests:
            yield request

    async def main() -> list[Reply | Failure]:
        answers = teacher.ask(stream())
        taken = [await anext(answers) for _ in range(count)]
        await answers.aclose()
        await teacher.close()
        return taken

    return asyncio.run(main())


def kept(run: Path) -> list[str]:
    """Return the kinds of files that are kept of jobs."""
    return sorted(path.name.partition(".")[2] for path in (run / FOLDER).iterdir()) if (run / FOLDER).exists() else []


def once(call: str, response: Response) -> Callable[[str, int], Response | None]:
    return lambda called, number: response if (called, number) == (call, 0) else None


def test_a_batch_brings_what_the_same_requests_bring_one_by_one(server: GeminiServer, tmp_path: Path) -> None:
    requests = [*drafts(3), verdict_request("Which amber bucket?")]
    assert put(batch(tmp_path, server), requests) == put(Gemini(url=server.url), requests)
    assert (len(server.batches.jobs), server.answered) == (1, 8)


def test_a_request_has_the_same_settings_either_way(server: GeminiServer, tmp_path: Path) -> None:
    request = draft_request(("color", "counting"), picture=photograph(3000, 2000))
    put(batch(tmp_path, server), [request])
    put(Gemini(url=server.url), [request])
    together, alone = server.asked
    assert (together.prompt, together.picture) == (alone.prompt, alone.picture)
    assert together.body["store"] is alone.body["store"] is False
    config = together.body["generationConfig"]
    assert config["responseMimeType"] == alone.body["generationConfig"]["responseMimeType"] == "application/json"
    assert list(config["thinkingConfig"].values()) == list(alone.body["generationConfig"]["thinkingConfig"].values())
    assert "temperature" not in config
    with Image.open(io.BytesIO(together.picture)) as sent:
        assert (sent.size, dict(sent.getexif())) == ((1024, 683), {})


def test_the_schema_is_in_the_words_that_batches_keep_to(server: GeminiServer, tmp_path: Path) -> None:
    """Fields in their order, no `responseJsonSchema`, no reference to a definition elsewhere."""
    request = draft_request(("color",))
    put(batch(tmp_path, server), [replace(request, schema=DraftsReply)])
    config = server.asked[0].body["generationConfig"]
    assert "responseJsonSchema" not in config
    drafts = config["responseSchema"]["properties"]["drafts"]
    assert (config["responseSchema"]["type"], drafts["type"], drafts["items"]["type"]) == ("OBJECT", "ARRAY", "OBJECT")
    assert drafts["items"]["propertyOrdering"] == ["number", "supported", "question", "answer", "confidence"]
    assert "$ref" not in json.dumps(config)


def test_nothing_is_left_here_or_there_once_all_was_handed_over(server: GeminiServer, tmp_path: Path) -> None:
    put(batch(tmp_path, server), drafts(3))
    assert list(tmp_path.iterdir()) == []
    assert server.batches.files == {}


@pytest.mark.parametrize("limits", [Limits(max_requests=3), Limits(max_bytes=7_000)])
def test_a_job_holds_no_more_than_it_may(limits: Limits, server: GeminiServer, tmp_path: Path) -> None:
    answers = put(batch(tmp_path, server, limits=limits), drafts(8))
    assert all(isinstance(answer, Reply) for answer in answers)
    assert [len(job.results) for job in server.batches.jobs] == [3, 3, 2]


def test_pictures_are_encoded_one_at_a_time_and_forgotten(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((1024, 1024), 90).save(file, "JPEG", quality=95)
    requests = [draft_request(("color",), ref=f"{number}.jpg", picture=file.getvalue()) for number in range(40)]
    tracemalloc.start()
    try:
        keys, _ = asyncio.run(write_requests(tmp_path / "f", deque(requests), max_bytes=10**9, max_requests=100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    written = (tmp_path / "f").stat().st_size
    assert len(keys) == 40
    assert peak < 8 * written / 40, f"{peak:,} bytes in memory for a file of {written:,}"


def test_a_picture_that_is_gone_fails_alone(server: GeminiServer, tmp_path: Path) -> None:
    def gone() -> bytes:
        raise SourceError("b.jpg cannot be read any more")

    there = draft_request(("color",))
    exposure = Exposure(gone, ref="b.jpg", max_edge=64)
    lost = Request("lost", "teacher", "1" * 32, exposure, there.prompt, there.schema, there.subject)
    assert put(batch(tmp_path, server), [lost]) == [
        Failure("lost", "b.jpg cannot be read any more", worth_retrying=False)
    ]
    assert server.batches.calls.total() == 0
    reply, failure = put(batch(tmp_path, server), [there, lost])
    assert isinstance(reply, Reply)
    assert isinstance(failure, Failure)


@pytest.mark.parametrize(
    ("response", "worth_retrying"),
    [
        (error_response(429, "RESOURCE_EXHAUSTED", "slow down", retry_delay_s=9), True),
        (error_response(503, "UNAVAILABLE", "overloaded"), True),
        (error_response(14, "UNAVAILABLE", "overloaded, in gRPC's numbers"), True),
        (error_response(8, "RESOURCE_EXHAUSTED", "too many, in gRPC's numbers"), True),
        (error_response(400, "INVALID_ARGUMENT", "Unable to process input image"), False),
        (error_response(3, "INVALID_ARGUMENT", "the same, in gRPC's numbers"), False),
        (error_response(7, "PERMISSION_DENIED", "not this one"), False),
    ],
)
def test_one_request_of_a_batch_may_fail(response: Response, worth_retrying: bool, tmp_path: Path) -> None:
    response.status_code = 500  # of what would be the HTTP answer; the line says what the body says
    with GeminiServer(fault=lambda asked, number: response if number == 1 else None) as server:
        first, failure, last = put(batch(tmp_path, server), drafts(3))
    assert isinstance(first, Reply)
    assert isinstance(last, Reply)
    assert isinstance(failure, Failure)
    # Never overloaded: the engine would hold everybody, and send one request as a probe, in a batch of its own.
    assert (failure.overloaded, failure.worth_retrying) == (False, worth_retrying)


def test_an_answer_that_was_refused_is_final_and_says_why(tmp_path: Path) -> None:
    with GeminiServer(fault=lambda asked, number: content_response(None, finish="SAFETY")) as server:
        (reply,) = put(batch(tmp_path, server), drafts(1))
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
    server.batches.ends_as = lambda number: "SUCCEEDED" if number else state
    first, second = put(batch(tmp_path, server), drafts(2))
    assert (first, second) == (Failure(first.key, said), Failure(second.key, said))
    assert all(isinstance(answer, Reply) for answer in put(batch(tmp_path, server), drafts(2)))
    assert len(server.batches.jobs) == 2


def test_lines_that_are_missing_fail_and_foreign_ones_are_passed_over(server: GeminiServer, tmp_path: Path) -> None:
    foreign = ["", "{", "null", "[1]", '{"key": 5}', '{"response": {}}', '{"key": "nobody", "response": {}}']
    server.batches.edit = lambda lines: [*foreign, lines[2], lines[0], lines[0], *foreign]
    first, missing, last = put(batch(tmp_path, server), drafts(3))
    assert isinstance(first, Reply)
    assert isinstance(last, Reply)
    assert missing == Failure(missing.key, "the batch left this request out")


@pytest.mark.parametrize("response", [None, 5, "text", {"candidates": 5}, {}, {"unheard-of": 1}])
def test_a_response_that_is_none_is_a_failure(response: object, server: GeminiServer, tmp_path: Path) -> None:
    server.batches.edit = lambda lines: [json.dumps({"key": json.loads(lines[0])["key"], "response": response})]
    (failure,) = put(batch(tmp_path, server), drafts(1))
    assert isinstance(failure, Failure)
    assert failure.worth_retrying


def test_what_a_newer_service_adds_to_a_response_is_no_harm(server: GeminiServer, tmp_path: Path) -> None:
    def newer(lines: list[str]) -> list[str]:
        found = json.loads(lines[0])
        found["response"]["candidates"][0]["mood"] = found["response"]["mood"] = found["mood"] = {"good": True}
        return [json.dumps(found)]

    server.batches.edit = newer
    (reply,) = put(batch(tmp_path, server), drafts(1))
    assert isinstance(reply, Reply)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("trouble", [error_response(503, "UNAVAILABLE", "overloaded"), Cut()], ids=["503", "cut"])
def test_trouble_in_any_call_costs_nothing_but_time(
    call: str, trouble: Response, server: GeminiServer, tmp_path: Path
) -> None:
    """Also where the job was made and only the answer was lost: it is found by its name, not made again."""
    told: list[str] = []
    if call == "chunk" and not isinstance(trouble, Cut):
        trouble.headers["X-Goog-Upload-Status"] = "cancelled"  # or the SDK waits seven seconds for a better one
    server.batches.fault = once(call, trouble)
    answers = put(batch(tmp_path, server, on_wait=told.append), drafts(3))
    assert all(isinstance(answer, Reply) for answer in answers)
    assert (len(server.batches.jobs), server.answered) == (1, 3)
    assert any("trying again" in line for line in told)


def test_a_key_that_is_revoked_ends_all_at_once_and_a_new_one_goes_on(server: GeminiServer, tmp_path: Path) -> None:
    revoked = error_response(403, "PERMISSION_DENIED", f"the key {KEY} was revoked")
    server.batches.fault = lambda call, number: revoked if call == "get" else None
    with pytest.raises(TeacherError, match="refuses the key") as refused:
        put(batch(tmp_path, server), drafts(3))
    assert KEY not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert all(KEY not in path.read_text() for path in (tmp_path / FOLDER).iterdir())
    server.batches.fault = lambda call, number: None
    assert all(isinstance(answer, Reply) for answer in put(batch(tmp_path, server), drafts(3)))
    assert (len(server.batches.jobs), server.answered) == (1, 3)


def test_an_unknown_model_is_refused(server: GeminiServer, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="a model that exists with --teacher gemini-batch:MODEL"):
        put(GeminiBatch("no-such-model", state_dir=tmp_path, url=server.url, pace=QUICK), drafts(1))


def test_a_batch_that_is_refused_says_how_to_do_without(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = once("create", error_response(400, "FAILED_PRECONDITION", "no batches on the free tier"))
    with pytest.raises(TeacherError, match=r"no batches on the free tier.*--teacher gemini:gemini-3.8-flash"):
        put(batch(tmp_path, server), drafts(1))


def test_a_service_out_of_reach_is_waited_for_only_so_long(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = lambda call, number: error_response(500, "INTERNAL", "oops")
    with pytest.raises(TeacherUnavailableError, match="500 oops; nothing is lost, run the same command later"):
        put(batch(tmp_path, server, pace=Pace(0.02, 0.02, 0.02, patience_s=0.1)), drafts(1))


def test_a_new_job_waits_for_room_as_long_as_others_run(server: GeminiServer, tmp_path: Path) -> None:
    full = error_response(429, "RESOURCE_EXHAUSTED", "too many batches")
    server.batches.looks = 12
    server.batches.fault = lambda call, number: (
        full if call == "create" and number and server.batches.jobs[0].looked_at < 12 else None
    )
    pace = Pace(0.02, 0.02, 0.02, patience_s=0.1)
    answers = put(batch(tmp_path, server, limits=Limits(max_requests=2), pace=pace), drafts(4))
    assert all(isinstance(answer, Reply) for answer in answers)
    assert (len(server.batches.jobs), server.answered) == (2, 4)


def test_a_job_that_somebody_deleted_is_asked_for_once_more(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = once("get", error_response(404, "NOT_FOUND", "there is no such batch"))
    (failure,) = put(batch(tmp_path, server), drafts(1))
    assert failure == Failure(failure.key, "the batch is not at the service any more (there is no such batch)")


def test_results_that_are_gone_are_asked_for_once_more(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = once("download", error_response(403, "PERMISSION_DENIED", "files are kept for two days"))
    (failure,) = put(batch(tmp_path, server), drafts(1))
    assert isinstance(failure, Failure)
    assert kept(tmp_path) == []


def test_what_was_not_handed_over_yet_is_there_the_next_time(server: GeminiServer, tmp_path: Path) -> None:
    requests = drafts(5)
    taken = some(batch(tmp_path, server), requests, 2)
    assert kept(tmp_path) == ["handed", "json", "results.jsonl"]
    rest = [request for request in requests if request.key not in {answer.key for answer in taken}]
    assert len(put(batch(tmp_path, server), rest)) == 3
    assert kept(tmp_path) == []
    assert (len(server.batches.jobs), server.answered) == (1, 5)


def test_what_was_handed_over_but_lost_on_the_way_is_there_the_next_time(server: GeminiServer, tmp_path: Path) -> None:
    requests = drafts(5)
    some(batch(tmp_path, server), requests, 5)
    assert all(isinstance(answer, Reply) for answer in put(batch(tmp_path, server), requests[4:]))
    assert kept(tmp_path) == []
    assert (len(server.batches.jobs), server.answered) == (1, 5)


def test_what_was_handed_over_whole_is_forgotten_by_the_next_session(server: GeminiServer, tmp_path: Path) -> None:
    some(batch(tmp_path, server), drafts(5), 5)
    assert kept(tmp_path) == ["handed", "json", "results.jsonl"]
    put(batch(tmp_path, server), [])
    assert kept(tmp_path) == []


def test_answers_that_nobody_asks_for_are_kept_until_somebody_does(server: GeminiServer, tmp_path: Path) -> None:
    requests = drafts(5)
    some(batch(tmp_path, server), requests, 1)
    put(batch(tmp_path, server), requests[1:2])
    put(batch(tmp_path, server), [])
    assert kept(tmp_path) == ["handed", "json", "results.jsonl"]
    put(batch(tmp_path, server), requests[2:])
    assert (len(server.batches.jobs), server.answered) == (1, 5)
    assert kept(tmp_path) == []


def test_another_teacher_leaves_these_jobs_alone(server: GeminiServer, tmp_path: Path) -> None:
    requests = drafts(2)
    some(batch(tmp_path, server), requests, 1)
    put(GeminiBatch("gemini-other", state_dir=tmp_path, url=server.url, pace=QUICK), requests)
    assert len(server.batches.jobs) == 2
    assert kept(tmp_path) == ["handed", "json", "results.jsonl"]


def test_an_upload_that_the_service_no_longer_keeps_is_sent_again(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = lambda call, number: error_response(403, "DENIED", "stop here") if call == "create" else None
    with pytest.raises(TeacherError, match="stop here"):
        put(batch(tmp_path, server), drafts(2))
    server.batches.fault = lambda call, number: None
    (file,) = (tmp_path / FOLDER).glob("*.json")
    job = json.loads(file.read_text())
    assert job["stage"] == "uploaded"
    file.write_text(json.dumps({**job, "since": job["since"] - 41 * 3600}))
    server.batches.files.clear()
    assert all(isinstance(answer, Reply) for answer in put(batch(tmp_path, server), drafts(2)))
    assert (len(server.batches.jobs), server.answered) == (1, 2)


def test_what_is_waited_for_is_told(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.looks = 4
    told: list[str] = []
    put(batch(tmp_path, server, on_wait=told.append), drafts(4))
    assert told == [
        "batch 1: writing, 4 requests to go",
        told[1],
        "batch 1 of 1: PENDING for 0 min, 0 of 4 answered",
        "batch 1 of 1: RUNNING for 0 min, 2 of 4 answered",
        "batch 1 of 1: RUNNING for 0 min, 2 of 4 answered",
    ]
    assert re.fullmatch(r"batch 1 of 1: sending \d\.\d MB", told[1])
    told.clear()
    put(batch(tmp_path, server, on_wait=told.append, limits=Limits(max_requests=2)), drafts(4))
    assert "2 of 2 batches: 2 RUNNING for 0 min, 2 of 4 answered" in told


def test_leaving_is_prompt_and_says_what_goes_on(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.looks = 10**9
    told: list[str] = []

    async def main() -> float:
        teacher = batch(tmp_path, server, on_wait=told.append, pace=Pace(60, 60, 0.02, 60))

        async def stream() -> AsyncGenerator[Request, None]:
            for request in drafts(2):
                yield request
            await asyncio.Event().wait()

        async def wait() -> None:
            async for answer in teacher.ask(stream()):
                raise AssertionError(answer)

        waiting = asyncio.create_task(wait())
        while not teacher._asked:
            await asyncio.sleep(0.01)
        await teacher.flush()
        while not any("PENDING" in line for line in told):
            await asyncio.sleep(0.01)
        started = asyncio.get_running_loop().time()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await teacher.close()
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(main()) < 1
    assert told[-1] == f"1 batch left running at {server.url}; the same command collects what comes of it"
    server.batches.looks = 1
    assert all(isinstance(answer, Reply) for answer in put(batch(tmp_path, server), drafts(2)))
    assert (len(server.batches.jobs), server.answered) == (1, 2)


def test_requests_that_come_meanwhile_go_out_with_the_next_flush(server: GeminiServer, tmp_path: Path) -> None:
    """Those that follow from one answer wait for those that follow from the next: one batch, not one each."""
    requests = drafts(6)

    async def main() -> None:
        teacher = batch(tmp_path, server)
        queue: asyncio.Queue[Request] = asyncio.Queue()

        async def stream() -> AsyncGenerator[Request, None]:
            while True:
                yield await queue.get()

        for request in requests[:3]:
            queue.put_nowait(request)
        await teacher.flush()
        answers = teacher.ask(stream())
        for request in requests[3:]:
            await anext(answers)
            queue.put_nowait(request)
            await teacher.flush()
        for _ in range(3):
            await anext(answers)
        await answers.aclose()
        await teacher.close()

    asyncio.run(main())
    assert [len(job.results) for job in server.batches.jobs] == [3, 3]


def test_a_folder_that_cannot_be_written_is_said_in_one_line(server: GeminiServer, tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(JournalError, match=r"cannot keep batches in .* and run the same command"):
        put(batch(tmp_path, server), drafts(1))
    assert server.batches.calls.total() == 0


def test_a_damaged_job_is_said_in_one_line(server: GeminiServer, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "compact-1.json").write_text("{")
    with pytest.raises(JournalError, match=r"compact-1.json is damaged .* or remove it"):
        put(batch(tmp_path, server), drafts(1))


def test_what_was_being_written_at_a_kill_is_cleared_away(server: GeminiServer, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name in ("compact-1.requests.jsonl", "compact-2.requests.jsonl.part", "compact-2.json.part"):
        (tmp_path / FOLDER / name).write_text("half")
    put(batch(tmp_path, server), drafts(1))
    assert list(tmp_path.iterdir()) == []


def test_no_key_says_which_variable_to_set_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    GeminiBatch(state_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UsageError, match="set GEMINI_API_KEY"):
        GeminiBatch(state_dir=tmp_path)
