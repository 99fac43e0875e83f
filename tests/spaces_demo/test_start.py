"""How long a visitor waits for a Space that was asleep, and that nothing more is needed for it than stands there."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.spaces_demo.conftest import run_space, upload

# Wall time on 2 cores of its own is promised to be under 20 s. The processor time that it takes, which 2 cores cannot
# spend faster than at twice the wall time, depends less on what else runs, but not on that alone: cores that share a
# processor slow each other down. So this is one of the slow tests, for a quiet machine.
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
    assert "base: finished; tuned: finished" in answer.text
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    timings = f"page after {page_after:.1f} s, first answer after {answer_after:.1f} s, {cpu:.1f} s of processor time"
    assert cpu < MAX_CPU_S, timings
    assert page_after < answer_after
