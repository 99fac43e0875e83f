"""Guessing without the picture: what the words give away is found, what only the picture tells is not."""

from __future__ import annotations

import random
from dataclasses import astuple

import pytest

from compact_hf.evaluation.analysis.counting import SampledQuestion
from compact_hf.evaluation.analysis.text_only import FOLDS, TextOnlyBaseline, score_text_only
from tests.evaluation.analysis.samples import sampled

COLORS = ("red", "green", "blue", "black")
THINGS = ("bus", "cat", "door", "hat", "boat", "kite")


def asked(pictures: int, answer_of: object = None, *, seed: int = 1) -> list[SampledQuestion]:
    """Two questions a picture about the color of a thing; the answer is drawn, or `answer_of(thing)`."""
    rng = random.Random(seed)
    found = []
    for _ in range(pictures):
        picture = rng.getrandbits(64)
        for thing in rng.sample(THINGS, 2):
            answer = answer_of(thing) if callable(answer_of) else rng.choice(COLORS)
            found.append(sampled(picture, f"What color is the {thing}?", answer))
    return found


def guessed(questions: list[SampledQuestion]) -> TextOnlyBaseline:
    found = score_text_only(questions)
    assert found is not None
    return found


def test_answers_that_only_pictures_tell_are_guessed_no_better_than_by_chance() -> None:
    overall = guessed(asked(1000)).overall
    assert overall.low < 0.25 < overall.high + 0.01
    assert overall.majority == pytest.approx(0.25, abs=0.03)
    assert overall.chance == pytest.approx(0.25, abs=0.01)


def test_a_word_that_gives_its_answer_away_is_found() -> None:
    overall = guessed(asked(200, lambda thing: COLORS[THINGS.index(thing) % 4])).overall
    assert overall.accuracy == 1
    assert overall.majority < 0.5


def test_a_leak_in_some_questions_shows_in_the_share() -> None:
    rng = random.Random(5)
    told = [
        one._replace(question=f"{one.question} It is {one.answer}.") if rng.random() < 0.4 else one
        for one in asked(1000)
    ]
    assert guessed(told).overall.accuracy == pytest.approx(0.4 + 0.6 / 4, abs=0.05)


def test_nothing_is_learnt_from_questions_about_the_same_picture() -> None:
    """A word for each picture, and an answer for each picture: whoever has seen the picture's other question knows."""
    rng = random.Random(2)
    told = [
        sampled(picture, f"In picture {picture}, what color is the {thing}?", color)
        for picture, color in ((rng.getrandbits(64), rng.choice(COLORS)) for _ in range(300))
        for thing in THINGS
    ]
    assert guessed(told).overall.accuracy < 0.4


def test_every_k_stands_alone_and_together_they_are_all() -> None:
    rng = random.Random(4)
    told = [
        SampledQuestion(picture, f"Question of {k}?", f"{rng.randrange(k + 1)}", ("color", "shape", "counting")[:k])
        for picture in range(400)
        for k in (0, 1, 3)
    ]
    found = guessed(told)
    assert list(found.by_k) == [0, 1, 3]
    assert found.overall.n == sum(one.n for one in found.by_k.values()) == 1200
    assert found.overall.right == sum(one.right for one in found.by_k.values())
    assert found.by_k[0].accuracy == found.by_k[0].majority == found.by_k[0].chance == 1
    assert found.by_k[3].chance == pytest.approx(0.25, abs=0.01)
    for one in (found.overall, *found.by_k.values()):
        assert 0 <= one.low <= one.accuracy <= one.high <= 1


def test_the_order_of_the_questions_does_not_matter() -> None:
    told = asked(120)
    assert astuple(guessed(told)) == astuple(guessed(random.Random(9).sample(told, len(told))))


def test_questions_without_an_answer_are_left_out_and_too_few_pictures_teach_nothing() -> None:
    few = [sampled(picture, "What?", "it") for picture in range(FOLDS - 1)]
    assert score_text_only([]) is None
    assert score_text_only([*few, sampled(9, "What?", "")]) is None
    assert guessed([*few, sampled(9, "What?", "it"), sampled(10, "?!", "")]).overall.n == FOLDS


def test_questions_of_signs_alone_can_be_asked() -> None:
    assert guessed([sampled(picture, "?!", "it") for picture in range(10)]).overall.accuracy == 1
