"""Tests the comparison of two models: properties, values from scipy, and the coverage of the interval."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import EvaluationError
from compact_hf.evaluation import significance
from compact_hf.evaluation.questions import Prediction
from compact_hf.evaluation.significance import compare, mcnemar


def make_prediction(number: int, image: int, right: bool) -> Prediction:
    return Prediction(
        id=f"p{image}#{number}",
        picture=f"p{image}",
        question=f"{number}?",
        answers=("red",),
        prediction="red" if right else "blue",
        right=right,
    )


def make_predictions(outcomes: list[tuple[int, bool, bool]]) -> tuple[list[Prediction], list[Prediction]]:
    first = [make_prediction(number, image, first_right) for number, (image, first_right, _) in enumerate(outcomes)]
    second = [make_prediction(number, image, second_right) for number, (image, _, second_right) in enumerate(outcomes)]
    return first, second


outcomes = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(outcomes)
def test_the_counts_are_those_of_the_questions(made: list[tuple[int, bool, bool]]) -> None:
    first, second = make_predictions(made)
    comparison = compare(first, second)
    assert (comparison.n, comparison.pictures) == (len(made), len({image for image, _, _ in made}))
    assert comparison.only_one_right == sum(first_right and not second_right for _, first_right, second_right in made)
    assert comparison.only_other_right == sum(second_right and not first_right for _, first_right, second_right in made)
    assert comparison.difference == pytest.approx(comparison.one_accuracy - comparison.other_accuracy)
    assert -1 <= comparison.low <= comparison.high <= 1
    assert comparison.p == mcnemar(comparison.only_one_right, comparison.only_other_right)


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_questions_does_not_matter(made: list[tuple[int, bool, bool]], rng: object) -> None:
    first, second = make_predictions(made)
    shuffled = list(first)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert compare(shuffled, second) == compare(first, second)


@pytest.mark.parametrize(
    ("only_one", "only_other", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 2 / 2**6),
        (1, 9, 2 * (1 + 10) / 2**10),
        # scipy.stats.binomtest(59, 180).pvalue and binomtest(4_800, 10_000).pvalue
        (59, 121, 4.4344492637551645e-06),
        (5_200, 4_800, 6.593515598672343e-05),
    ],
)
def test_p_is_mcnemars_exact_one(only_one: int, only_other: int, p: float) -> None:
    assert mcnemar(only_one, only_other) == pytest.approx(p, rel=1e-9)
    assert mcnemar(only_other, only_one) == mcnemar(only_one, only_other)


@given(st.integers(0, 60), st.integers(0, 60))
def test_p_is_the_share_of_ways_to_part_them_so_unevenly(only_one: int, only_other: int) -> None:
    n = only_one + only_other
    gap = abs(only_one - only_other)
    ways = sum(comb(n, wins) for wins in range(n + 1) if abs(n - 2 * wins) >= gap)
    assert mcnemar(only_one, only_other) == pytest.approx(ways / 2**n)


def test_thousands_of_one_sided_questions_leave_no_doubt() -> None:
    assert mcnemar(5_000, 0) == 0.0


def test_the_interval_is_the_normal_one_where_each_question_has_its_own_picture() -> None:
    outcomes = [(number, number % 10 < 3, number % 10 == 3) for number in range(2_000)]
    comparison = compare(*make_predictions(outcomes))
    assert (comparison.difference, comparison.only_one_right, comparison.only_other_right) == (
        pytest.approx(0.2),
        600,
        200,
    )
    spread = 1.96 * ((0.4 - 0.2**2) / 2_000) ** 0.5
    assert (comparison.low, comparison.high) == (
        pytest.approx(0.2 - spread, abs=0.002),
        pytest.approx(0.2 + spread, abs=0.002),
    )


def test_questions_that_stand_and_fall_together_count_as_one() -> None:
    outcomes = [(number, number % 10 < 3, number % 10 == 3) for number in range(200)]
    repeats = [outcome for outcome in outcomes for _ in range(9)]
    alone, repeated = compare(*make_predictions(outcomes)), compare(*make_predictions(repeats))
    assert repeated.n == 9 * alone.n
    assert (repeated.low, repeated.high) == (alone.low, alone.high)
    assert repeated.p < alone.p / 1000


def test_the_interval_holds_the_truth_19_times_in_20(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(significance, "RESAMPLES", 1_000)
    rng, rounds = np.random.default_rng(7), 200
    hits = {"by picture": 0, "by question": 0}
    for _ in range(rounds):
        # 80 images with four questions each; a model that misreads an image fails on most of its questions.
        misread = rng.random((2, 80, 1)) < np.array([0.3, 0.4])[:, None, None]
        right = rng.random((2, 80, 4)) < np.where(misread, 0.1, 0.9)
        first, second = make_predictions(
            [(image, *map(bool, right[:, image, turn])) for image in range(80) for turn in range(4)]
        )
        ungrouped = [
            [replace(prediction, picture=prediction.id) for prediction in predictions]
            for predictions in (first, second)
        ]
        for name, comparison in (("by picture", compare(first, second)), ("by question", compare(*ungrouped))):
            hits[name] += comparison.low <= 0.8 * 0.1 <= comparison.high
    assert 0.92 <= hits["by picture"] / rounds <= 0.98
    assert hits["by question"] / rounds < 0.85


def test_one_picture_says_nothing_of_others() -> None:
    comparison = compare(*make_predictions([(0, True, False)] * 5))
    assert (comparison.low, comparison.high) == (-1, 1)


def test_other_questions_are_told_in_one_line() -> None:
    first, second = make_predictions([(0, True, False), (1, True, True), (2, False, False)])
    with pytest.raises(EvaluationError, match=r"questions: the second lacks 1 \(p2#2, ...\); evaluate both on the"):
        compare(first, second[:2])
    with pytest.raises(EvaluationError, match=r"second lacks 1 \(p0#0, ...\) and the first lacks 1 \(p2#2, ...\)"):
        compare(first[:2], second[1:])
    with pytest.raises(EvaluationError, match="two answers to question p1#1"):
        compare([*first, first[1]], second)
    with pytest.raises(EvaluationError, match="question p2#2 is not the same"):
        compare(first, [*second[:2], replace(second[2], answers=("green",))])
    older = [replace(prediction, matching_version="1") for prediction in first]
    newer = [replace(prediction, matching_version="2") for prediction in second]
    with pytest.raises(EvaluationError, match=r"different versions of the rule \(1 and 2\): run the compact evaluate"):
        compare(older, newer)
    with pytest.raises(EvaluationError, match="nothing to compare"):
        compare([], [])
