"""Tests the counting of repeated questions, for each kind of repeat."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from compact_hf.evaluation.analysis.counting import SampledQuestion
from compact_hf.evaluation.analysis.stats import measure_repeats
from tests.evaluation.analysis.samples import make_question

LONG = "On which side of the tall gray house with a red roof stands the small brown dog in the picture"


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([make_question(2, "Where is the dog now?", "left")], (0, 0, 0, 0)),
        ([make_question(1, f"{LONG}?!", "right")], (0.5, 0.5, 0, 0)),
        ([make_question(2, LONG.lower(), "right")], (0, 0.5, 0, 0)),
        ([make_question(2, LONG, "left")], (0, 0.5, 0.5, 0.5)),
        ([make_question(2, f"{LONG} frame", "left")], (0, 0, 0, 0.5)),
        ([make_question(2, f"{LONG} frame", "right")], (0, 0, 0, 0)),
        (
            [make_question(2, LONG, "left"), make_question(3, LONG, "left"), make_question(3, LONG, "left")],
            (0.25, 0.75, 0.75, 0.75),
        ),
    ],
)
def test_each_kind_of_repeat_is_counted_as_such(others: list[SampledQuestion], expected: tuple[float, ...]) -> None:
    assert astuple(measure_repeats([make_question(1, LONG, "left"), *others])) == pytest.approx(expected)
