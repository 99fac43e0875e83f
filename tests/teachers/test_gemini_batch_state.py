"""Tests of what a batch survives: failures of each call, refusals, interruptions, and damaged run directories."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest
from starlette.responses import Response, StreamingResponse

from compact_hf.errors import JournalError, TeacherError, TeacherUnavailableError
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.gemini_batch.scheduler import BatchLimits, BatchTiming
from compact_hf.teachers.gemini_batch.store import JOBS_DIRECTORY
from compact_hf.teachers.gemini_batch.teacher import GeminiBatch
from compact_hf.testing.gemini import GeminiServer, error_response
from compact_hf.testing.scripted_model import KEY
from tests.doubles.hub.http import DroppedConnection
from tests.teachers.asking import ask_all
from tests.teachers.batching import QUICK, ask_some, batch_teacher, draft_requests, list_job_file_kinds


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


def fail_first_call(call: str, response: Response) -> Callable[[str, int], Response | None]:
    return lambda called, number: response if (called, number) == (call, 0) else None


@pytest.mark.parametrize("call", ["upload", "chunk", "create", "created", "get", "download"])
@pytest.mark.parametrize(
    "trouble", [error_response(503, "UNAVAILABLE", "overloaded"), DroppedConnection()], ids=["503", "cut"]
)
def test_trouble_in_any_call_costs_nothing_but_time(
    call: str, trouble: Response, server: GeminiServer, tmp_path: Path
) -> None:
    """If the job was created and only the response was lost, the job is found by its name, not created again."""
    messages: list[str] = []
    if call == "chunk" and not isinstance(trouble, DroppedConnection):
        trouble.headers["X-Goog-Upload-Status"] = "cancelled"  # otherwise google-genai retries for 7 s
    server.batches.fault = fail_first_call(call, trouble)
    answers = ask_all(batch_teacher(tmp_path, server, on_wait=messages.append), draft_requests(3))
    assert all(isinstance(answer, Reply) for answer in answers)
    assert (len(server.batches.jobs), server.request_count) == (1, 3)
    assert any("will retry" in line for line in messages)


def endless_body() -> Response:
    return StreamingResponse(itertools.repeat(bytes(2**20)))


def dripping_body() -> Response:
    async def drip() -> AsyncGenerator[bytes, None]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(drip())


@pytest.mark.parametrize(
    ("call", "make_response", "reason"),
    [
        ("get", endless_body, "is larger than 8,388,608 bytes"),
        ("create", lambda: Response(b"x", headers={"Content-Encoding": "br"}), "is compressed (br)"),
        ("download", lambda: Response(b"x", headers={"Content-Encoding": "gzip"}), "is compressed (gzip)"),
        ("get", dripping_body, "gave no complete answer within 0.5 s"),
        ("get", lambda: Response("[" * 200_000), "is not Gemini's JSON"),
    ],
)
def test_a_reply_of_unusual_size_costs_nothing_but_time(
    call: str, make_response: Callable[[], Response], reason: str, server: GeminiServer, tmp_path: Path
) -> None:
    messages: list[str] = []
    server.batches.fault = lambda called, number: make_response() if (called, number) == (call, 0) else None
    teacher = batch_teacher(tmp_path, server, on_wait=messages.append, timeout_s=0.5 if "0.5" in reason else 60)
    assert all(isinstance(answer, Reply) for answer in ask_all(teacher, draft_requests(2)))
    assert any(reason in line for line in messages), messages


@pytest.mark.parametrize("call", ["upload", "chunk", "create", "get", "download"])
def test_no_redirect_is_followed(call: str, server: GeminiServer, tmp_path: Path) -> None:
    with GeminiServer() as other:
        redirect = Response(status_code=307, headers={"Location": f"{other.url}/elsewhere?key={KEY}"})
        server.batches.fault = fail_first_call(call, redirect)
        with pytest.raises(TeacherError) as excinfo:
            ask_all(batch_teacher(tmp_path, server), draft_requests(1))
        assert other.batches.calls == {}
    assert f"redirects requests to {other.url}/elsewhere (307)" in str(excinfo.value)


def test_a_line_of_results_that_is_too_long_is_left_out(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.edit_results = lambda lines: [lines[0], f"{lines[1]}{' ' * 9 * 2**20}", "[" * 200_000, lines[2]]
    first, failure, last = ask_all(batch_teacher(tmp_path, server), draft_requests(3))
    assert isinstance(first, Reply)
    assert isinstance(failure, Failure)
    assert isinstance(last, Reply)


def test_a_key_that_is_revoked_ends_all_at_once_and_a_new_one_goes_on(server: GeminiServer, tmp_path: Path) -> None:
    revoked = error_response(403, "PERMISSION_DENIED", f"the key {KEY} was revoked")
    server.batches.fault = lambda call, number: revoked if call == "get" else None
    with pytest.raises(TeacherError, match="this key gives no access") as excinfo:
        ask_all(batch_teacher(tmp_path, server), draft_requests(3))
    assert KEY not in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
    assert all(KEY not in path.read_text() for path in (tmp_path / JOBS_DIRECTORY).iterdir())
    server.batches.fault = lambda call, number: None
    assert all(isinstance(answer, Reply) for answer in ask_all(batch_teacher(tmp_path, server), draft_requests(3)))
    assert (len(server.batches.jobs), server.request_count) == (1, 3)


def test_an_unknown_model_is_refused(server: GeminiServer, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="check the model's name in --teacher gemini-batch:MODEL"):
        ask_all(GeminiBatch("no-such-model", state_dir=tmp_path, url=server.url, timing=QUICK), draft_requests(1))


def test_a_batch_that_is_refused_says_how_to_do_without(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = fail_first_call(
        "create", error_response(400, "FAILED_PRECONDITION", "no batches on the free tier")
    )
    with pytest.raises(TeacherError, match=r"no batches on the free tier.*--teacher gemini:gemini-3.8-flash"):
        ask_all(batch_teacher(tmp_path, server), draft_requests(1))


def test_a_service_out_of_reach_is_waited_for_only_so_long(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = lambda call, number: error_response(500, "INTERNAL", "oops")
    with pytest.raises(TeacherUnavailableError, match="500 oops; nothing is lost, run the same command later"):
        ask_all(
            batch_teacher(tmp_path, server, timing=BatchTiming(0.02, 0.02, 0.02, max_outage_s=0.1)), draft_requests(1)
        )


def test_a_new_job_waits_for_room_as_long_as_others_run(server: GeminiServer, tmp_path: Path) -> None:
    full = error_response(429, "RESOURCE_EXHAUSTED", "too many batches")
    server.batches.polls_to_finish = 12
    server.batches.fault = lambda call, number: (
        full if call == "create" and number and server.batches.jobs[0].poll_count < 12 else None
    )
    timing = BatchTiming(0.02, 0.02, 0.02, max_outage_s=0.1)
    answers = ask_all(
        batch_teacher(tmp_path, server, limits=BatchLimits(max_requests=2), timing=timing), draft_requests(4)
    )
    assert all(isinstance(answer, Reply) for answer in answers)
    assert (len(server.batches.jobs), server.request_count) == (2, 4)


def test_a_job_that_somebody_deleted_is_asked_for_once_more(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = fail_first_call("get", error_response(404, "NOT_FOUND", "there is no such batch"))
    (failure,) = ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert failure == Failure(failure.key, "the batch no longer exists at the service (there is no such batch)")


def test_results_that_are_gone_are_asked_for_once_more(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = fail_first_call(
        "download", error_response(403, "PERMISSION_DENIED", "files are kept for two days")
    )
    (failure,) = ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert isinstance(failure, Failure)
    assert list_job_file_kinds(tmp_path) == []


def test_what_was_not_handed_over_yet_is_there_the_next_time(server: GeminiServer, tmp_path: Path) -> None:
    requests = draft_requests(5)
    received = ask_some(batch_teacher(tmp_path, server), requests, 2)
    assert list_job_file_kinds(tmp_path) == ["handed", "json", "results.jsonl"]
    rest = [request for request in requests if request.key not in {answer.key for answer in received}]
    assert len(ask_all(batch_teacher(tmp_path, server), rest)) == 3
    assert list_job_file_kinds(tmp_path) == []
    assert (len(server.batches.jobs), server.request_count) == (1, 5)


def test_what_was_handed_over_but_lost_on_the_way_is_there_the_next_time(server: GeminiServer, tmp_path: Path) -> None:
    requests = draft_requests(5)
    ask_some(batch_teacher(tmp_path, server), requests, 5)
    assert all(isinstance(answer, Reply) for answer in ask_all(batch_teacher(tmp_path, server), requests[4:]))
    assert list_job_file_kinds(tmp_path) == []
    assert (len(server.batches.jobs), server.request_count) == (1, 5)


def test_what_was_handed_over_whole_is_forgotten_by_the_next_session(server: GeminiServer, tmp_path: Path) -> None:
    ask_some(batch_teacher(tmp_path, server), draft_requests(5), 5)
    assert list_job_file_kinds(tmp_path) == ["handed", "json", "results.jsonl"]
    ask_all(batch_teacher(tmp_path, server), [])
    assert list_job_file_kinds(tmp_path) == []


def test_answers_that_nobody_asks_for_are_kept_until_somebody_does(server: GeminiServer, tmp_path: Path) -> None:
    requests = draft_requests(5)
    ask_some(batch_teacher(tmp_path, server), requests, 1)
    ask_all(batch_teacher(tmp_path, server), requests[1:2])
    ask_all(batch_teacher(tmp_path, server), [])
    assert list_job_file_kinds(tmp_path) == ["handed", "json", "results.jsonl"]
    ask_all(batch_teacher(tmp_path, server), requests[2:])
    assert (len(server.batches.jobs), server.request_count) == (1, 5)
    assert list_job_file_kinds(tmp_path) == []


def test_another_teacher_leaves_these_jobs_alone(server: GeminiServer, tmp_path: Path) -> None:
    requests = draft_requests(2)
    ask_some(batch_teacher(tmp_path, server), requests, 1)
    ask_all(GeminiBatch("gemini-other", state_dir=tmp_path, url=server.url, timing=QUICK), requests)
    assert len(server.batches.jobs) == 2
    assert list_job_file_kinds(tmp_path) == ["handed", "json", "results.jsonl"]


def test_an_upload_that_the_service_no_longer_keeps_is_sent_again(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.fault = lambda call, number: error_response(403, "DENIED", "stop here") if call == "create" else None
    with pytest.raises(TeacherError, match="stop here"):
        ask_all(batch_teacher(tmp_path, server), draft_requests(2))
    server.batches.fault = lambda call, number: None
    (file,) = (tmp_path / JOBS_DIRECTORY).glob("*.json")
    job = json.loads(file.read_text())
    assert job["stage"] == "uploaded"
    file.write_text(json.dumps({**job, "since": job["since"] - 41 * 3600}))
    server.batches.files.clear()
    assert all(isinstance(answer, Reply) for answer in ask_all(batch_teacher(tmp_path, server), draft_requests(2)))
    assert (len(server.batches.jobs), server.request_count) == (1, 2)


def test_leaving_is_prompt_and_says_what_goes_on(server: GeminiServer, tmp_path: Path) -> None:
    server.batches.polls_to_finish = 10**9
    messages: list[str] = []

    async def main() -> float:
        teacher = batch_teacher(tmp_path, server, on_wait=messages.append, timing=BatchTiming(60, 60, 0.02, 60))

        async def stream() -> AsyncGenerator[Request, None]:
            for request in draft_requests(2):
                yield request
            await asyncio.Event().wait()

        async def wait() -> None:
            async for answer in teacher.ask(stream()):
                raise AssertionError(answer)

        wait_task = asyncio.create_task(wait())
        await teacher.flush()
        while not any("PENDING" in line for line in messages):
            await asyncio.sleep(0.01)
        started = asyncio.get_running_loop().time()
        wait_task.cancel()
        await asyncio.gather(wait_task, return_exceptions=True)
        await teacher.close()
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(main()) < 1
    assert messages[-1] == f"1 batch left running at {server.url}; run the same command again to collect the results"
    server.batches.polls_to_finish = 1
    assert all(isinstance(answer, Reply) for answer in ask_all(batch_teacher(tmp_path, server), draft_requests(2)))
    assert (len(server.batches.jobs), server.request_count) == (1, 2)


def test_a_folder_that_cannot_be_written_is_said_in_one_line(server: GeminiServer, tmp_path: Path) -> None:
    (tmp_path / JOBS_DIRECTORY).write_text("in the way")
    with pytest.raises(JournalError, match=r"cannot store batches in .* and run the same command"):
        ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert server.batches.calls.total() == 0


def test_a_damaged_job_is_said_in_one_line(server: GeminiServer, tmp_path: Path) -> None:
    (tmp_path / JOBS_DIRECTORY).mkdir()
    (tmp_path / JOBS_DIRECTORY / "compact-1.json").write_text("{")
    with pytest.raises(JournalError, match=r"compact-1.json is damaged .* or delete it"):
        ask_all(batch_teacher(tmp_path, server), draft_requests(1))


def test_what_was_being_written_at_a_kill_is_cleared_away(server: GeminiServer, tmp_path: Path) -> None:
    (tmp_path / JOBS_DIRECTORY).mkdir()
    for name in ("compact-1.requests.jsonl", "compact-2.requests.jsonl.part", "compact-2.json.part"):
        (tmp_path / JOBS_DIRECTORY / name).write_text("half")
    ask_all(batch_teacher(tmp_path, server), draft_requests(1))
    assert list(tmp_path.iterdir()) == []
