"""Tests means over seeds and their intervals: known values, both levels of the bootstrap, and errors."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.ablation.results import compare_seeds, compare_variants
from compact_hf.evaluation.tasks.compact.records import CompactPrediction as Prediction

NUM_IMAGES = 120


def make_predictions(right: Callable[[int, int], bool]) -> list[Prediction]:
    """Return predictions for a question of k = 1 and one of k = 2 per image; `right(image, k)` says which are right."""
    return [
        Prediction(
            id=f"{image}#k{k}",
            picture=str(image),
            k=k,
            capabilities=("color", "shape")[:k],
            question="What?",
            answers=("yes" if image % 4 else "no",),
            prediction="",
            right=right(image, k),
        )
        for image in range(NUM_IMAGES)
        for k in (1, 2)
    ]


def sample_predictions(share: float, seed: int) -> list[Prediction]:
    """Return the predictions of a model that answers both questions about an image correctly with this probability."""
    rng = random.Random(seed)
    is_known = [rng.random() < share for _ in range(NUM_IMAGES)]
    return make_predictions(lambda image, k: is_known[image])


def test_means_are_those_of_the_seeds_and_lines_are_all_and_each_k() -> None:
    answers = {
        "one": {0: make_predictions(lambda image, k: k == 1), 1: make_predictions(lambda image, k: False)},
        "other": {0: make_predictions(lambda image, k: True), 1: make_predictions(lambda image, k: k == 2)},
    }
    lines = compare_variants(answers, baseline="one")
    assert [(line.label, line.n, line.pictures) for line in lines] == [
        ("all", 2 * NUM_IMAGES, NUM_IMAGES),
        ("k = 1", NUM_IMAGES, NUM_IMAGES),
        ("k = 2", NUM_IMAGES, NUM_IMAGES),
    ]
    assert lines[0].accuracy["one"].by_seed == (0.5, 0)
    assert (lines[0].accuracy["one"].mean, lines[0].accuracy["other"].mean) == (0.25, 0.75)
    assert lines[0].difference.keys() == {"other"}
    assert lines[0].difference["other"].by_seed == (0.5, 0.5)
    assert lines[0].majority == 0.75
    assert [pair.comparison.difference for pair in compare_seeds(answers, baseline="one")] == [0.5, 0.5]


def test_what_all_find_hard_cancels_out_of_a_difference() -> None:
    answers = {name: {0: sample_predictions(0.5, 7)} for name in ("one", "other")}
    line = compare_variants(answers, baseline="one")[0]
    assert line.accuracy["one"].high - line.accuracy["one"].low > 0.1
    assert (line.difference["other"].low, line.difference["other"].high) == (0, 0)


def test_seeds_that_differ_widen_the_interval() -> None:
    stable = {
        "one": {seed: sample_predictions(0.5, 7) for seed in range(3)},
        "other": {seed: sample_predictions(0.5, 8) for seed in range(3)},
    }
    varied = {**stable, "other": {seed: sample_predictions(share, 8) for seed, share in enumerate((0.1, 0.5, 0.9))}}
    widths = []
    for answers in (stable, varied):
        difference = compare_variants(answers, baseline="one")[0].difference["other"]
        widths.append(difference.high - difference.low)
    assert widths[1] > 1.5 * widths[0]


def test_whole_pictures_are_drawn() -> None:
    """Two questions per image that are always right or wrong together carry no more information than one."""
    answers = {"one": {0: sample_predictions(0.5, 1)}, "other": {0: sample_predictions(0.5, 2)}}
    overall, single, _ = (line.difference["other"] for line in compare_variants(answers, baseline="one"))
    assert overall.high - overall.low == pytest.approx(single.high - single.low, rel=0.05)


def test_the_same_answers_give_the_same_intervals() -> None:
    answers = {"one": {0: sample_predictions(0.4, 1)}, "other": {0: sample_predictions(0.6, 2)}}
    assert compare_variants(answers, baseline="one") == compare_variants(answers, baseline="one")


def test_models_that_were_asked_other_questions_are_not_compared() -> None:
    answers = {"one": {0: sample_predictions(0.5, 1)}, "other": {0: sample_predictions(0.5, 2)[:-1]}}
    with pytest.raises(EvaluationError, match="other, seed 0 and one, seed 0 were asked different questions"):
        compare_variants(answers, baseline="one")
