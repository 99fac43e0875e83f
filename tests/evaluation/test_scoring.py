"""Tests scoring: properties that hold for any predictions, and values from publications."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import EvaluationError
from compact_hf.evaluation.scoring import SHORT_ANSWER_RULES, majority_answers, wilson_interval
from compact_hf.evaluation.tasks.compact.records import CompactPrediction as Prediction
from tests.evaluation.samples import score

EXACT = SHORT_ANSWER_RULES["exact"]
ANSWERS = ("red", "Red.", "two", "2", "left", "a dog", "dogs")


def make_prediction(k: int, names: tuple[str, ...], answers: tuple[str, ...], prediction: str) -> Prediction:
    return Prediction(
        id="id",
        picture="picture",
        k=k,
        capabilities=names,
        question="Which?",
        answers=answers,
        prediction=prediction,
        right=EXACT.is_right(prediction, answers),
    )


predictions = st.lists(
    st.builds(
        make_prediction,
        st.integers(1, 5),
        st.lists(st.sampled_from(sorted(CAPABILITIES)), min_size=1, max_size=3, unique=True).map(tuple),
        st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=3).map(tuple),
        st.sampled_from(ANSWERS),
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_the_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_inside_0_to_1_and_is_the_same_from_the_other_side(
    counts: tuple[int, int],
) -> None:
    right, n = counts
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert low < high
    assert wilson_interval(n - right, n) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))


@given(predictions, st.randoms(use_true_random=False))
def test_the_order_of_predictions_does_not_matter(made: list[Prediction], rng: object) -> None:
    shuffled = list(made)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert score(made, model="m", dataset="d") == score(shuffled, model="m", dataset="d")


@given(predictions)
def test_the_scores_by_k_weigh_up_to_the_overall_one(made: list[Prediction]) -> None:
    results = score(made, model="m", dataset="d")
    assert sum(item.n for item in results.by_k.values()) == results.overall.n == len(made)
    weighted = sum(item.n * item.accuracy for item in results.by_k.values()) / len(made)
    assert results.overall.accuracy == pytest.approx(weighted)
    majority = sum(item.majority.right for item in results.by_k.values())
    assert results.overall.majority.right == majority
    num_capabilities = sum(len(item.capabilities) for item in made)
    assert sum(item.n for item in results.by_capability.values()) == num_capabilities


@given(predictions)
def test_a_pair_has_the_questions_that_need_both(made: list[Prediction]) -> None:
    results = score(made, model="m", dataset="d")
    together = {
        f"{first}+{second}": [
            prediction.right for prediction in made if {first, second} <= set(prediction.capabilities)
        ]
        for first, second in combinations(CAPABILITIES, 2)
    }
    expected = {pair: (len(right), sum(right)) for pair, right in together.items() if right}
    assert {pair: (pair_score.n, pair_score.right) for pair, pair_score in results.by_pair.items()} == expected
    assert list(results.by_pair) == list(expected)


@given(predictions)
def test_no_constant_answer_per_k_beats_the_baseline(made: list[Prediction]) -> None:
    results = score(made, model="m", dataset="d")
    for k, k_score in results.by_k.items():
        k_answers = [prediction.answers for prediction in made if prediction.k == k]
        assert k_score.majority.right == max(
            sum(EXACT.is_right(guess, answers) for answers in k_answers) for guess in ANSWERS
        )


def test_the_majority_answer_is_the_most_frequent_of_its_k_and_ties_go_by_the_alphabet() -> None:
    reference = [(1, ["Red"]), (1, ["blue", "azure"]), (1, ["red."]), (2, ["two"]), (2, ["one", "one."])]
    assert majority_answers(reference) == {1: "red", 2: "1"}


def test_the_majority_answer_is_judged_by_the_rule_of_the_predictions() -> None:
    predictions = [make_prediction(1, ("counting",), (answer,), "0") for answer in ("100", "100", "104", "106")]
    right_counts = [
        score(predictions, model="m", dataset="d", matching=rule).overall.majority.right
        for rule in ("exact", "relaxed")
    ]
    assert right_counts == [2, 3]


def test_results_are_the_documented_json() -> None:
    predictions = [
        make_prediction(2, ("counting", "color"), ("two",), "2"),
        make_prediction(1, ("color",), ("red",), "blue"),
        make_prediction(1, ("color",), ("red",), "red"),
        make_prediction(1, ("shape",), ("round",), "round"),
    ]
    results = score(predictions, model="student", dataset="set").to_json()
    assert json.loads(json.dumps(results)) == results
    head = {"schema": 3, "task": "compact", "task_version": "1", "model": "student", "dataset": "set"}
    assert list(results) == [
        *head,
        "matching",
        "matching_version",
        "headline",
        "overall",
        "by_k",
        "by_capability",
        "by_pair",
    ]
    assert results.items() >= {**head, "matching": "exact", "matching_version": "2"}.items()
    overall_low, overall_high = wilson_interval(3, 4)
    assert results["headline"] == {
        "metric": "accuracy",
        "n": 4,
        "value": 0.75,
        "low": overall_low,
        "high": overall_high,
    }
    low, high = wilson_interval(2, 3)
    assert results["by_k"]["1"] == {
        "n": 3,
        "right": 2,
        "accuracy": 2 / 3,
        "low": low,
        "high": high,
        "majority": {"right": 2, "accuracy": 2 / 3},
    }
    assert list(results["by_k"]) == ["1", "2"]
    assert list(results["by_capability"]) == ["color", "shape", "counting"]
    assert list(results["by_pair"]) == ["color+counting"]


def test_nothing_to_score_is_an_error_not_a_nought() -> None:
    with pytest.raises(EvaluationError, match="nothing to score"):
        score([], model="m", dataset="set")
