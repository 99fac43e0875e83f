"""Measures how long a visitor waits for a Space that was asleep, and checks that it starts without configuration."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.spaces_demo.conftest import run_space, upload

# The first answer has to come within 20 s on 2 idle cores, so after at most 40 s of processor time. The test limits the
# processor time, because it depends less on other processes than the wall time. It still depends on them, because cores
# of one processor slow each other down, so this is a slow test, for an otherwise idle machine.
MAX_CPU_S = 40.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="children's processor time is POSIX's")
def test_the_first_answer_comes_within_the_time_that_is_promised(tmp_path: Path) -> None:
    from compact_hf.scenes.source import SceneSource

    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with run_space(tmp_path / "running", popen=subprocess.Popen, OMP_NUM_THREADS="2") as space:
        page_after = time.monotonic() - start
        answer = space.call("ask", upload(space, SceneSource(0, 4).read("scene:3")), "What color is the cat?")
        answer_after = time.monotonic() - start
    assert "Answered in" in answer.text
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    timings = f"page after {page_after:.1f} s, first answer after {answer_after:.1f} s, {cpu:.1f} s of processor time"
    assert cpu < MAX_CPU_S, timings
    assert page_after < answer_after
