"""How long a visitor waits for a Space that was asleep, and that nothing more is needed for it than stands there."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.spaces_demo.conftest import running, uploaded

# Wall time on 2 cores of its own is promised to be under 20 s. The processor time that it takes, which 2 cores cannot
# spend faster than at twice the wall time, depends less on what else runs, but not on that alone: cores that share a
# processor slow each other down. So this is one of the slow tests, for a quiet machine.
MOST_CPU_S = 40.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="children's processor time is POSIX's")
def test_the_first_answer_comes_within_the_time_that_is_promised(tmp_path: Path) -> None:
    from compact_hf.scenes.source import SceneSource

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with running(tmp_path / "running", start=subprocess.Popen, OMP_NUM_THREADS="2") as space:
        page_after = time.monotonic() - began
        answer = space.call("ask", uploaded(space, SceneSource(0, 4).read("scene:3")), "What color is the cat?")
        answer_after = time.monotonic() - began
    assert "base: finished; tuned: finished" in answer.text
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    told = f"page after {page_after:.1f} s, first answer after {answer_after:.1f} s, {cpu:.1f} s of processor time"
    assert cpu < MOST_CPU_S, told
    assert page_after < answer_after
