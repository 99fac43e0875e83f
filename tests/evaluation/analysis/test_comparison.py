"""Tests the distances between datasets, by the properties of a metric, and the counts of shared items."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.evaluation.analysis.compare import DatasetComparison, compare_datasets, distance
from compact_hf.evaluation.analysis.counting import QuestionCounts
from compact_hf.evaluation.analysis.readers import LabelledQuestion, QuestionRow
from compact_hf.evaluation.analysis.stats import compute_analysis

counts = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 50))


@given(counts, counts, counts)
def test_it_is_a_distance_between_shares(one: dict[str, int], other: dict[str, int], third: dict[str, int]) -> None:
    assert distance(one, one) == distance(one, {name: 3 * count for name, count in one.items()}) == pytest.approx(0)
    assert distance(one, other) == pytest.approx(distance(other, one))
    assert 0 <= distance(one, other) <= 1
    assert distance(one, third) <= distance(one, other) + distance(other, third) + 1e-9


def test_it_is_half_of_what_the_shares_differ_by() -> None:
    assert distance({"a": 1, "b": 1}, {"a": 1}) == 0.5
    assert distance({"a": 2, "b": 1, "c": 1}, {"a": 1, "b": 1, "d": 2}) == pytest.approx(0.5)
    assert distance({"a": 5}, {"b": 9}) == distance({"a": 5}, {}) == 1
    assert distance({}, {}) == 0


def compare_rows(first: list[QuestionRow], second: list[QuestionRow]) -> DatasetComparison:
    sides = [QuestionCounts(), QuestionCounts()]
    for side, rows in zip(sides, (first, second), strict=True):
        for row in rows:
            side.add_row(row)
    samples = [side.sample.sorted_questions() for side in sides]
    analyses = [compute_analysis("x", "asked", side, sample) for side, sample in zip(sides, samples, strict=True)]
    return compare_datasets(analyses, sides, samples)


def test_the_same_data_lie_nowhere_apart_and_share_everything() -> None:
    rows = [
        QuestionRow(f"{number}", (LabelledQuestion(f"What is number {number}?", f"{number}", ("color", "shape")),))
        for number in range(9)
    ]
    comparison = compare_rows(rows, rows[::-1])
    assert set(comparison.distances.values()) == {0}
    assert (comparison.shared_pictures, comparison.shared_questions) == (9, 9)


def test_each_distance_is_of_what_it_is_called_after() -> None:
    first = [
        QuestionRow(
            "a",
            (
                LabelledQuestion("What color?", "red", ("color",)),
                LabelledQuestion("What form?", "red", ("color", "shape")),
            ),
        )
    ]
    second = [
        QuestionRow("a", (LabelledQuestion("WHAT color", "red", ("color", "shape", "counting")),)),
        QuestionRow("b", (LabelledQuestion("Where is it then?", "at the very left", ("counting",)),)),
    ]
    comparison = compare_rows(first, second)
    assert (comparison.shared_pictures, comparison.shared_questions) == (1, 1)
    assert comparison.distances == pytest.approx(
        {
            "k": 0.5,  # k of 1, 2 against 3, 1
            "capabilities": 0.5,  # shares of 2/3, 1/3, 0 against 1/4, 1/4, 1/2
            "pairs": 2 / 3,  # one pair against three
            "question_words": 0.5,
            "answer_words": 0.5,
            "openings": 0.5,  # "what color", "what form" against "what color", "where is"
            "answers": 0.5,
        }
    )
