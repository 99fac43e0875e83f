"""Checks that the output of a training process becomes one error."""

from __future__ import annotations

import pytest

from compact_hf.errors import CompactError, StoppedEarly, TuningError, UsageError
from compact_hf.training.child_output import ChildOutput


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
