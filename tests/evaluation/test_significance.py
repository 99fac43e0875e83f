"""Two models on the same questions: laws, figures that others have computed, and a coverage that was counted."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import EvaluationError
from compact_hf.evaluation import significance
from compact_hf.evaluation.scoring import Prediction
from compact_hf.evaluation.significance import compare, mcnemar


def prediction(number: int, picture: int, right: bool) -> Prediction:
    return Prediction(
        f"p{picture}#{number}", f"p{picture}", 1, ("color",), f"{number}?", ("red",), "red" if right else "blue", right
    )


def both(outcomes: list[tuple[int, bool, bool]]) -> tuple[list[Prediction], list[Prediction]]:
    one = [prediction(number, picture, mine) for number, (picture, mine, _) in enumerate(outcomes)]
    other = [prediction(number, picture, theirs) for number, (picture, _, theirs) in enumerate(outcomes)]
    return one, other


outcomes = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(outcomes)
def test_the_counts_are_those_of_the_questions(made: list[tuple[int, bool, bool]]) -> None:
    one, other = both(made)
    found = compare(one, other)
    assert (found.n, found.pictures) == (len(made), len({picture for picture, _, _ in made}))
    assert found.only_one_right == sum(mine and not theirs for _, mine, theirs in made)
    assert found.only_other_right == sum(theirs and not mine for _, mine, theirs in made)
    assert found.difference == pytest.approx(found.one_accuracy - found.other_accuracy)
    assert -1 <= found.low <= found.high <= 1
    assert found.p == mcnemar(found.only_one_right, found.only_other_right)


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_questions_does_not_matter(made: list[tuple[int, bool, bool]], rng: object) -> None:
    one, other = both(made)
    mixed = list(one)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert compare(mixed, other) == compare(one, other)


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
    apart = abs(only_one - only_other)
    ways = sum(comb(n, chosen) for chosen in range(n + 1) if abs(n - 2 * chosen) >= apart)
    assert mcnemar(only_one, only_other) == pytest.approx(ways / 2**n)


def test_thousands_of_one_sided_questions_leave_no_doubt() -> None:
    assert mcnemar(5_000, 0) == 0.0


def test_the_interval_is_the_normal_one_where_each_question_has_its_own_picture() -> None:
    made = [(number, number % 10 < 3, number % 10 == 3) for number in range(2_000)]
    found = compare(*both(made))
    assert (found.difference, found.only_one_right, found.only_other_right) == (pytest.approx(0.2), 600, 200)
    spread = 1.96 * ((0.4 - 0.2**2) / 2_000) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.2 - spread, abs=0.002), pytest.approx(0.2 + spread, abs=0.002))


def test_questions_that_stand_and_fall_together_count_as_one() -> None:
    apart = [(number, number % 10 < 3, number % 10 == 3) for number in range(200)]
    together = [question for question in apart for _ in range(9)]
    alone, repeated = compare(*both(apart)), compare(*both(together))
    assert repeated.n == 9 * alone.n
    assert (repeated.low, repeated.high) == (alone.low, alone.high)
    assert repeated.p < alone.p / 1000


def test_the_interval_holds_the_truth_19_times_in_20(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(significance, "RESAMPLES", 1_000)
    rng, rounds = np.random.default_rng(7), 200
    held = {"by picture": 0, "by question": 0}
    for _ in range(rounds):
        # 80 pictures with four questions each; a model that misreads a picture misses most of them.
        misread = rng.random((2, 80, 1)) < np.array([0.3, 0.4])[:, None, None]
        right = rng.random((2, 80, 4)) < np.where(misread, 0.1, 0.9)
        one, other = both(
            [(picture, *map(bool, right[:, picture, turn])) for picture in range(80) for turn in range(4)]
        )
        apart = [[replace(asked, picture=asked.id) for asked in each] for each in (one, other)]
        for name, found in (("by picture", compare(one, other)), ("by question", compare(*apart))):
            held[name] += found.low <= 0.8 * 0.1 <= found.high
    assert 0.92 <= held["by picture"] / rounds <= 0.98
    assert held["by question"] / rounds < 0.85


def test_one_picture_says_nothing_of_others() -> None:
    found = compare(*both([(0, True, False)] * 5))
    assert (found.low, found.high) == (-1, 1)


def test_other_questions_are_told_in_one_line() -> None:
    one, other = both([(0, True, False), (1, True, True), (2, False, False)])
    with pytest.raises(EvaluationError, match=r"other questions: the second lacks 1 \(p2#2, ...\); judge both on the"):
        compare(one, other[:2])
    with pytest.raises(EvaluationError, match=r"second lacks 1 \(p0#0, ...\) and the first lacks 1 \(p2#2, ...\)"):
        compare(one[:2], other[1:])
    with pytest.raises(EvaluationError, match="answers question p1#1 twice"):
        compare([*one, one[1]], other)
    with pytest.raises(EvaluationError, match="question p2#2 is another one"):
        compare(one, [*other[:2], replace(other[2], answers=("green",))])
    with pytest.raises(EvaluationError, match="nothing to compare"):
        compare([], [])
