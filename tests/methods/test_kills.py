"""Tests runs that are killed, interrupted, started twice, or run out of disk space.

Nothing may be lost, and no request may be paid for twice.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from compact_hf.methods.generate import generate
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import ModelRequest
from tests import preforked
from tests.methods.runs import COMMAND, PRESETS, generate_command, hash_release, read_reply_keys, request_keys

CONCURRENCY = 4

# A fork server that has imported what a run needs starts clean processes within milliseconds.
_FORK_CONTEXT = multiprocessing.get_context("forkserver")
_FORK_CONTEXT.set_forkserver_preload(["compact_hf.methods.generate", "google.genai.types", "httpx", "pydantic"])


def generate_and_kill(number: int, delay_s: float, directory: Path, run: Path, preset: str) -> list[ModelRequest]:
    """Work on a run in a process that is killed `delay_s` seconds after request `number`; return the requests."""
    reached = threading.Event()

    def reach(request: ModelRequest, index: int) -> Response | None:
        if index == number:
            reached.set()
        return None

    with GeminiServer(accept_rate=0.7, latency_s=0.005, fault=reach) as server:
        work = partial(generate, teacher_url=server.url, preset=preset, concurrency=CONCURRENCY)
        process = _FORK_CONTEXT.Process(target=work, args=(str(directory), run))
        process.start()
        while process.is_alive() and not reached.wait(0.02):
            pass
        process.join(delay_s)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)  # it may have finished before the kill
        process.close()
    return server.requests


# Each example starts several processes, so failing examples are not shrunk; that would take minutes.
def with_random_kills(examples: int) -> Callable[[Any], Any]:
    """Run a test with random presets and up to three kills each: (number of the request, delay in seconds)."""
    moments = st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.03)), min_size=1, max_size=3)
    with_examples = given(preset=st.sampled_from(PRESETS), kills=moments)
    return lambda test: settings(max_examples=examples, phases=[Phase.generate])(with_examples(test))


@with_random_kills(1)
def test_kill_9_loses_nothing_and_pays_for_nothing_twice(
    tiny: Path, clean: dict[str, dict[str, str]], preset: str, kills: list[tuple[int, float]]
) -> None:
    check_kill_and_resume(tiny, clean[preset], preset, kills)


@pytest.mark.slow
@with_random_kills(30)
def test_kill_9_at_any_moments_loses_nothing_and_pays_for_nothing_twice(
    tiny: Path, clean: dict[str, dict[str, str]], preset: str, kills: list[tuple[int, float]]
) -> None:
    check_kill_and_resume(tiny, clean[preset], preset, kills)


def check_kill_and_resume(tiny: Path, clean: dict[str, str], preset: str, kills: list[tuple[int, float]]) -> None:
    """Kill a run at these moments, resume it until it is finished, and compare it with a run without failures."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        send_counts: Counter[str] = Counter()
        for number, delay_s in kills:
            before = read_reply_keys(run)
            sent_keys = request_keys(tiny, generate_and_kill(number, delay_s, tiny, run, preset))
            assert not before & set(sent_keys), "a journalled request was sent again"
            send_counts.update(sent_keys)
        before = read_reply_keys(run)
        with GeminiServer(accept_rate=0.7) as server:
            generate(str(tiny), run, teacher_url=server.url, preset=preset)
        sent_keys = request_keys(tiny, server.requests)
        assert not before & set(sent_keys), "a journalled request was sent again"
        send_counts.update(sent_keys)
        # Only requests that were in flight at a kill are sent again.
        assert send_counts.total() - len(send_counts) <= CONCURRENCY * len(kills)
        assert hash_release(run) == clean


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("preset", [pytest.param("paper", marks=pytest.mark.slow), "efficient"])
def test_ctrl_c_and_sigterm_finish_what_is_in_flight_and_say_how_to_resume(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]], preset: str, sent: signal.Signals
) -> None:
    run, pressed = tmp_path / "run", threading.Event()
    with GeminiServer(accept_rate=0.7, latency_s=0.2, fault=call_at_request(6, pressed.set)) as server:
        command = generate_command(tiny, run, server, "--preset", preset, "--concurrency", "4")
        with preforked.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            assert pressed.wait(60)
            child.send_signal(sent)
            _, stderr = child.communicate(timeout=60)
    assert child.returncode == 3
    assert re.search(r"^compact: finishing [1-4] requests?, press again to stop now$", stderr, re.MULTILINE)
    assert stderr.splitlines()[-1].startswith("compact: stopped after")
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    assert read_reply_keys(run) == set(request_keys(tiny, server.requests))  # the command waited for requests in flight
    assert len(server.requests) <= 7 + 4
    before = read_reply_keys(run)
    with GeminiServer(accept_rate=0.7) as server:
        generate(str(tiny), run, teacher_url=server.url, preset=preset)
    assert not before & set(request_keys(tiny, server.requests))
    assert hash_release(run) == clean[preset]


def test_ctrl_c_says_what_it_waits_for_and_the_second_stops_at_once(tiny: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [*COMMAND, "generate", str(tiny), "--out", str(tmp_path / "run"), "--teacher-url", url]
        command += ["--concurrency", "4"]
        with preforked.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            listener.settimeout(60)
            # A server that accepts requests and never answers.
            connections = [stack.enter_context(listener.accept()[0]) for _ in range(4)]
            assert all(connection.recv(1) for connection in connections)
            child.send_signal(signal.SIGINT)
            assert child.stderr is not None
            assert child.stderr.readline() == "compact: finishing 4 requests, press again to stop now\n"
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=20)
    assert child.returncode == 3
    assert stderr.splitlines() == ["compact: interrupted; finished work is kept: run the same command again to resume"]


def call_at_request(number: int, callback: Callable[[], object]) -> Callable[[ModelRequest, int], Response | None]:
    def fault(request: ModelRequest, index: int) -> Response | None:
        if index == number:
            callback()
        return None

    return fault


def test_a_second_process_on_a_run_is_told_to_wait_and_asks_nothing(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]]
) -> None:
    run, working = tmp_path / "run", threading.Event()
    with (
        GeminiServer(accept_rate=0.7, latency_s=0.05, fault=call_at_request(3, working.set)) as server,
        GeminiServer() as unused_server,
        preforked.Popen(generate_command(tiny, run, server), stderr=subprocess.DEVNULL) as first,
    ):
        assert working.wait(60)
        first.send_signal(signal.SIGSTOP)  # a stopped process keeps its lock on the run
        second = preforked.run(generate_command(tiny, run, unused_server))
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"compact: {run} is in use by another process: wait until it ends, or give another --out"
    ]
    assert unused_server.requests == []
    assert hash_release(run) == clean["paper"]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_room_for_more_is_said_in_one_line_and_with_room_the_same_command_goes_on(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]], preset: str
) -> None:
    """A limit on file sizes makes writes fail like on a full disk, but needs no privileges."""
    run = tmp_path / "run"
    with GeminiServer(accept_rate=0.7) as server:
        command = generate_command(tiny, run, server, "--preset", preset, "--concurrency", "4")
        result = preforked.run(limit_file_size(300_000, command))
    check_disk_full_error(result, run)
    check_resume(tiny, run, preset, server.requests, clean)


def limit_file_size(max_bytes: int, command: list[str]) -> list[str]:
    """Return the command with a limit, in bytes, on the size of each file that it writes."""
    limit_source = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({max_bytes}, resource.RLIM_INFINITY))"
    python, flag, source, *arguments = command
    return [python, flag, f"{limit_source}\n{source}", *arguments]


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        return not subprocess.run(
            [unshare, "-rm", "mount", "-t", "tmpfs", "none", directory], capture_output=True, check=False
        ).returncode


@pytest.mark.skipif(not can_mount(), reason="file systems cannot be mounted here; the test above stands in for it")
@pytest.mark.slow
def test_a_disk_that_is_really_full_is_said_so_and_with_room_the_same_command_goes_on(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    run = disk / "run"
    script = 'mount -t tmpfs -o size=200k none "$1" && shift && "$@"; s=$?; cp -r "$0"/. "$KEPT"; exit $s'
    with GeminiServer(accept_rate=0.7) as server:
        command = generate_command(tiny, run, server, "--concurrency", "4")
        result = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, str(disk), str(disk), *command],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "KEPT": str(tmp_path)},
        )
    check_disk_full_error(result, run)
    check_resume(tiny, tmp_path / "run", "paper", server.requests, clean)


def check_disk_full_error(result: subprocess.CompletedProcess[str], run: Path) -> None:
    assert result.returncode == 1, result.stderr
    *progress_lines, line = result.stderr.splitlines()
    # On a slow machine progress lines come before the error.
    assert all(progress_line.startswith("images: ") for progress_line in progress_lines), progress_lines
    assert line.startswith(f"compact: the disk of {run} is full or failing")
    assert line.endswith("free some space and run the same command again")


def check_resume(
    tiny: Path, run: Path, preset: str, requests: list[ModelRequest], clean: dict[str, dict[str, str]]
) -> None:
    before = read_reply_keys(run)
    assert before
    # Only replies that arrived when the disk was full are lost: at most as many as were in flight.
    assert len(set(request_keys(tiny, requests)) - before) <= 4
    with GeminiServer(accept_rate=0.7) as server:
        generate(str(tiny), run, teacher_url=server.url, preset=preset)
    assert not before & set(request_keys(tiny, server.requests))
    assert hash_release(run) == clean[preset]


def test_a_disk_without_room_for_a_run_at_all_is_said_so(tiny: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        result = preforked.run(limit_file_size(0, generate_command(tiny, tmp_path / "run", server)))
    check_disk_full_error(result, tmp_path / "run")
    assert server.requests == []


def test_status_of_a_run_that_was_killed_reads_what_is_there(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    generate_and_kill(12, 0.0, tiny, run, "paper")
    result = preforked.run([*COMMAND, "status", str(run)])
    assert result.returncode == 0
    assert result.stderr == ""
    assert f"{len(read_reply_keys(run))}" in result.stdout
