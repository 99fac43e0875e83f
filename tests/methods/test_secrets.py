"""Tests that a key is only in the environment and in requests, never in files, output or process arguments."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.responses import Response

from compact_hf.methods.generate import generate
from compact_hf.runs.journal import Journal
from compact_hf.teachers.gemini_batch.store import JOBS_DIRECTORY
from compact_hf.testing import gemini, openai
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.openai import OpenAIServer
from compact_hf.testing.scripted_model import ModelRequest, ModelServer
from tests import preforked
from tests.methods.runs import COMMAND, generate_command, hash_release, read_reply_keys, request_keys

OLD_KEY, NEW_KEY = "sesame-0451-revoked-key", "sesame-0452-second-key"
KEY_PREFIX = "sesame-045"  # of both keys


@dataclass(frozen=True)
class Service:
    variable: str
    server: Callable[..., ModelServer]
    error: Callable[[int, str], Response]
    arguments: tuple[str, ...]


SERVICES = {
    "gemini": Service(
        "GEMINI_API_KEY", GeminiServer, lambda code, said: gemini.error_response(code, "DENIED", said), ()
    ),
    "openai": Service("OPENAI_API_KEY", OpenAIServer, openai.error_response, ("--teacher", "openai:double")),
}


def read_all_files(*directories: Path) -> str:
    """Return the contents of all files, with those of Parquet files decoded."""
    parts: list[str] = []
    for file in (file for directory in directories for file in sorted(directory.rglob("*")) if file.is_file()):
        parts += [str(file), file.read_bytes().decode(errors="replace")]
        if file.suffix == ".parquet":
            parts += [str(pq.read_schema(file).metadata), str(pq.read_table(file).to_pylist())]
    return "\n".join(parts)


def run_command(arguments: list[str], status: int, **environment: str) -> str:
    result = preforked.run(arguments, env={**os.environ, **environment})
    assert result.returncode == status, result.stderr
    return result.stdout + result.stderr


def read_process_info(pid: int) -> str:
    """Return the command line of a process, and the command lines and environments of its children."""
    proc = Path("/proc")
    children = [child for task in (proc / f"{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    files = [proc / f"{pid}/cmdline", *(proc / child / name for child in children for name in ("cmdline", "environ"))]
    return "\n".join(file.read_bytes().decode() for file in files)


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(SERVICES["gemini"], id="gemini"),
        pytest.param(SERVICES["openai"], id="openai", marks=pytest.mark.slow),
    ],
)
def test_nothing_that_a_run_leaves_or_says_shows_the_key(tiny: Path, tmp_path: Path, service: Service) -> None:
    """A server quotes the key in every kind of error, with tracebacks; a second server accepts a new key."""
    run, release = tmp_path / "run", tmp_path / "release"
    request_received, inspection_done, outputs = threading.Event(), threading.Event(), []

    def echo(request: ModelRequest, number: int) -> Response | None:
        if number == 5:
            request_received.set()
            inspection_done.wait(60)
        codes = {1: 500, 2: 400, 3: 429, 25: 403}
        return service.error(codes[number], f"no entry with {OLD_KEY} here: key={OLD_KEY}") if number in codes else None

    with service.server(key=OLD_KEY, fault=echo) as server:
        command = generate_command(tiny, run, server, "--concurrency", "2", "--debug", *service.arguments)
        environment = {**os.environ, service.variable: OLD_KEY}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
            assert request_received.wait(60)
            outputs.append(read_process_info(child.pid))
            inspection_done.set()
            outputs.append(child.communicate(timeout=60)[1])
    assert child.returncode == 1
    assert "Traceback" in outputs[-1]
    assert "403" in outputs[-1]
    with service.server(key=NEW_KEY) as server:
        # The old key is refused at once; the new one resumes the run.
        command = generate_command(tiny, run, server, *service.arguments)
        outputs.append(run_command(command, 1, **{service.variable: OLD_KEY}))
        outputs.append(run_command(command, 0, **{service.variable: NEW_KEY}))
    later_commands = (
        ["status", str(run)],
        ["status", str(run), "--json"],
        ["assemble", str(run), "--out", str(release), "--version", "1.0.0"],
        ["validate", str(release)],
    )
    outputs += [run_command([*COMMAND, *arguments], 0, **{service.variable: NEW_KEY}) for arguments in later_commands]
    assert KEY_PREFIX not in "\n".join(outputs)
    assert KEY_PREFIX not in read_all_files(run, release)


def test_nor_does_what_a_batch_leaves_in_the_run_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("GEMINI_API_KEY", OLD_KEY)
    arguments = ("--teacher", "gemini-batch", "--preset", "efficient", "--debug")
    with GeminiServer(key=OLD_KEY) as server:
        server.batches.fault = lambda call, number: (
            gemini.error_response(403, "DENIED", f"no looks with {OLD_KEY}") if call == "get" else None
        )
        output = run_command(generate_command(tiny, run, server, *arguments), 1)
        assert list((run / JOBS_DIRECTORY).iterdir())
        assert KEY_PREFIX not in output + read_all_files(run)
        assert "403" in output


@pytest.fixture
def debug_log() -> Iterator[io.StringIO]:
    """Everything that is logged at debug level."""
    root, output = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(output), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield output
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_nor_do_the_clients_logs_at_their_most_talkative(
    tiny: Path,
    tmp_path: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    debug_log: io.StringIO,
) -> None:
    monkeypatch.setenv(service.variable, OLD_KEY)
    teacher = service.arguments[-1] if service.arguments else None
    with service.server(key=OLD_KEY) as server:
        generate(str(tiny), tmp_path / "run", teacher=teacher, teacher_url=server.url, limit=1)
    assert debug_log.getvalue()
    assert KEY_PREFIX not in debug_log.getvalue()


@pytest.mark.parametrize("preset", [pytest.param("paper", marks=pytest.mark.slow), "efficient"])
def test_a_key_that_is_revoked_half_way_is_one_clear_line_and_a_new_one_goes_on(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]], preset: str
) -> None:
    run = tmp_path / "run"

    def revoke(request: ModelRequest, number: int) -> Response | None:
        return gemini.error_response(403, "PERMISSION_DENIED", f"{OLD_KEY} was revoked") if number >= 10 else None

    with GeminiServer(key=OLD_KEY, accept_rate=0.7, fault=revoke) as server:
        command = generate_command(tiny, run, server, "--preset", preset, "--concurrency", "4")
        *progress_lines, line = run_command(command, 1, GEMINI_API_KEY=OLD_KEY).splitlines()
    assert all(line.startswith("images: ") for line in progress_lines)  # progress lines occur on slow machines
    assert line.startswith("compact: this key gives no access to gemini:gemini-3.8-flash at http://127.0.0.1:")
    assert line.endswith("set another GEMINI_API_KEY or name another model")
    before = read_reply_keys(run)
    # The run stops at once, without waiting for requests in flight, of which there are at most 4.
    assert 10 - 4 <= len(before) <= 10
    with GeminiServer(key=NEW_KEY, accept_rate=0.7) as server:
        command = generate_command(tiny, run, server, "--preset", preset)
        run_command(command, 0, GEMINI_API_KEY=NEW_KEY)
    assert not before & set(request_keys(tiny, server.requests))
    assert hash_release(run) == clean[preset]
    with Journal.read(run) as journal:
        assert KEY_PREFIX not in str(journal.identity)
