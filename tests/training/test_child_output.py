"""Checks that the output of a training process becomes one error."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

import pytest

from compact_hf.errors import CompactError, StoppedEarly, TuningError, UsageError
from compact_hf.training.child_output import ChildOutput
from compact_hf.training.sft import run


@pytest.mark.parametrize(
    ("lines", "kind", "told"),
    [
        (
            ["compact tune: error: argument --max_steps: invalid int value: 'two'"],
            UsageError,
            "argument --max_steps: invalid int value: 'two'; settings are those of trl sft: see trl sft --help",
        ),
        (
            ["compact_hf.errors.TuningError: no row is left", "RuntimeError: process group was not destroyed"],
            TuningError,
            "no row is left",
        ),
        (["[rank1]: compact_hf.errors.StoppedEarly: stopped after step 3"], StoppedEarly, "stopped after step 3"),
        (
            ["Traceback (most recent call last):", "ValueError: no such thing", "subprocess.CalledProcessError: died"],
            TuningError,
            "training ended with status 1: ValueError: no such thing",
        ),
        (["bye"], TuningError, "training ended with status 1: bye"),
    ],
)
def test_the_line_that_tells_why_is_told_in_its_own_class(
    lines: list[str], kind: type[CompactError], told: str
) -> None:
    output = ChildOutput()
    for line in lines:
        output.add_line(line)
    error = output.build_error(1, None)
    assert (type(error), str(error)) == (kind, told)


def fail_at_a_step(_: Sequence[str]) -> None:
    sys.stderr.write(" 50%|#####     | 2/4 [00:09<00:09,  4.60s/it]")
    raise TuningError("training diverged")


def fill_the_disk(_: Sequence[str]) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/cache/rows.arrow")


@pytest.mark.parametrize(
    ("main", "told"),
    [
        (fail_at_a_step, "training diverged"),
        (fill_the_disk, "training cannot write a file ([Errno 28] No space left on device: '/cache/rows.arrow'): free"),
    ],
)
def test_an_error_in_a_step_is_a_line_of_its_own_beside_the_progress_bar(
    main: Callable[[Sequence[str]], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, []) == 1
    output = ChildOutput()
    for line in capsys.readouterr().err.splitlines():
        output.add_line(line)
    error = output.build_error(1, None)
    assert isinstance(error, TuningError)
    assert str(error).startswith(told)
