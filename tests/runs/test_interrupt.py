"""Tests of signals in commands, scripts and notebooks: the first one lets work finish, further ones end it at once."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from compact_hf.runs.interrupt import run_async_interruptible

CHILD = """
import asyncio, signal, sys
from compact_hf.runs.interrupt import run_async_interruptible

# The tests may run under nohup, whose children ignore SIGHUP; run_async_interruptible respects that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

async def work(stop):
    print("started", flush=True)
    try:
        await stop.wait()
        print("stopping", flush=True)
        await asyncio.sleep(float(sys.argv[2]))
        return "finished"
    finally:
        print("cleaned up", flush=True)

async def cell():
    return run_async_interruptible(work)

try:
    # As a notebook's kernel runs a cell: its loop leaves Ctrl-C to Python.
    in_cell = sys.argv[1] == "cell"
    print(asyncio.new_event_loop().run_until_complete(cell()) if in_cell else run_async_interruptible(work))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("place", ["script", "cell"])
@pytest.mark.parametrize(
    ("sent", "seconds", "told"),
    [
        ([signal.SIGINT], "0.1", "cleaned up finished"),
        ([signal.SIGTERM], "0.1", "cleaned up finished"),
        ([signal.SIGHUP], "0.1", "cleaned up finished"),
        # As `timeout` sends it: to the process and to its group.
        ([signal.SIGTERM, signal.SIGTERM], "0.3", "cleaned up finished"),
        ([signal.SIGINT, signal.SIGINT], "60", "cleaned up interrupted"),
        ([signal.SIGTERM, signal.SIGINT], "60", "cleaned up interrupted"),
    ],
)
def test_the_first_signal_lets_work_finish_and_the_second_ends_it(
    place: str, sent: list[signal.Signals], seconds: str, told: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, place, seconds], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            for expected, number in zip(("started", "stopping"), sent, strict=False):
                assert child.stdout.readline().strip() == expected
                child.send_signal(number)
            output, _ = child.communicate(timeout=30)
        finally:
            child.kill()
    assert " ".join(output.split()).removeprefix("stopping ") == told
    assert child.returncode == 0


def test_work_runs_in_any_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    async def work(stop: object) -> int:
        return 7

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run_async_interruptible, work).result() == 7
