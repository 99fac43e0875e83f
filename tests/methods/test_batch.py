"""Tests runs in batches over real photographs: the real client over HTTP, and kills in every state of a batch job."""

from __future__ import annotations

import hashlib
import signal
import sys
from pathlib import Path

import pytest
from starlette.responses import Response

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.validate import validate
from compact_hf.errors import UsageError
from compact_hf.methods.generate import generate
from compact_hf.runs.journal import Journal
from compact_hf.teachers.gemini_batch.store import JOBS_DIRECTORY
from compact_hf.testing.gemini import GeminiServer, error_response
from compact_hf.testing.scripted_model import ModelRequest
from tests import preforked

# Runs in a separate process, which kills itself when the journal has this number of replies.
_CHILD = """
import os, signal, sys
from compact_hf.runs.journal import Journal
from compact_hf.methods.generate import generate

folder, run, url, replies = sys.argv[1:]
record = Journal.record_reply

def record_and_die(journal, *reply):
    record(journal, *reply)
    if len(list(journal.replies())) == int(replies):
        os.kill(os.getpid(), signal.SIGKILL)

Journal.record_reply = record_and_die
generate(folder, run, teacher="gemini-batch", preset="efficient", teacher_url=url)
"""


def generate_in_batches(directory: Path, run: Path, server: GeminiServer) -> None:
    generate(str(directory), run, teacher="gemini-batch", preset="efficient", teacher_url=server.url)


def make_batch_server(**options: object) -> GeminiServer:
    """Return a server whose jobs are finished at the first poll, because the client's pauses are long."""
    server = GeminiServer(accept_rate=0.5, **options)  # type: ignore[arg-type]
    server.batches.polls_to_finish = 1
    return server


def hash_release(run: Path) -> dict[str, str]:
    """Assemble a run and return each Parquet file's name with its hash."""
    out = run.parent / f"{run.name}-release"
    assemble([run], out, version="1.0.0")
    assert validate(out).problems == ()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.parquet")}


@pytest.fixture(scope="module")
def clean_run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A run without failures, and its number of requests and batches."""
    run = tmp_path_factory.mktemp("clean") / "run"
    with pytest.MonkeyPatch.context() as patch, make_batch_server() as server:
        patch.setenv("GEMINI_API_KEY", "test-key")
        generate_in_batches(few, run, server)
    return run, server.request_count, len(server.batches.jobs)


def test_two_rounds_are_four_batches_and_leave_nothing_behind(few: Path, clean_run: tuple[Path, int, int]) -> None:
    run, requests, batches = clean_run
    image_count = len(list(few.iterdir()))
    assert 2 * image_count < requests < 4 * image_count
    assert batches == 4
    assert not (run / JOBS_DIRECTORY).exists()
    with Journal.read(run) as journal:
        assert journal.identity["teacher"] == "gemini-batch:gemini-3.8-flash"
        assert len(list(journal.replies())) == requests
    assert hash_release(run)


def test_twenty_rounds_in_batches_are_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"up to 24 hours each\): use --preset efficient"):
        generate(str(few), tmp_path / "run", teacher="gemini-batch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "calls",
    [
        ["created"],
        pytest.param(["upload", "chunk", "create", "created", "get", "download"], marks=pytest.mark.slow),
    ],
)
def test_kill_9_in_every_state_pays_nothing_twice(
    few: Path, clean_run: tuple[Path, int, int], tmp_path: Path, calls: list[str]
) -> None:
    """Kills the run in each state of a job.

    The states are: written, uploading, uploaded, created without a response, submitted, collecting, and half of the
    replies recorded.
    """
    run = tmp_path / "run"
    fatal_calls = list(calls)
    processes: list[preforked.Popen] = []

    def kill(call: str, number: int) -> Response | None:
        if not fatal_calls or call != fatal_calls[0]:
            return None
        fatal_calls.pop(0)
        processes[-1].kill()
        processes[-1].wait()
        # The killed process's request is not carried out either; otherwise "create" would equal "created".
        return Response(status_code=499)

    with make_batch_server() as server:
        server.batches.fault = kill
        image_count = len(list(few.iterdir()))
        for replies in (*(0 for _ in calls), image_count // 2, image_count + 2):
            arguments = [str(few), str(run), server.url, str(replies)]
            processes.append(preforked.Popen([sys.executable, "-c", _CHILD, *arguments]))
            assert processes[-1].wait(60) == -signal.SIGKILL
        generate_in_batches(few, run, server)
    assert fatal_calls == []
    _, requests, batches = clean_run
    assert (server.request_count, len(server.batches.jobs)) == (requests, batches)
    assert not (run / JOBS_DIRECTORY).exists()
    assert hash_release(run) == hash_release(clean_run[0])


def test_what_fails_or_expires_goes_into_a_later_batch(
    few: Path, clean_run: tuple[Path, int, int], tmp_path: Path
) -> None:
    expired_images: list[bytes] = []

    def fault(request: ModelRequest, number: int) -> Response | None:
        """Let the seven requests of the first batch expire, and two of the second fail, always for the same images."""
        if number < 7:
            expired_images.append(request.image)
        elif number < 14 and request.image in sorted(expired_images)[:2]:
            return error_response(503, "UNAVAILABLE", "overloaded")
        return None

    with make_batch_server(fault=fault) as server:
        server.batches.final_state = lambda number: "SUCCEEDED" if number else "EXPIRED"
        generate_in_batches(few, tmp_path / "run", server)
    assert (server.request_count, len(server.batches.jobs)) == (clean_run[1] + 9, clean_run[2] + 2)
    assert hash_release(tmp_path / "run") == hash_release(clean_run[0])
