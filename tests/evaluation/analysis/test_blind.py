"""Tests the text-only baseline: it finds answers that the wording gives away, and no others."""

from __future__ import annotations

import random
from dataclasses import astuple

import pytest

from compact_hf.evaluation.analysis.counting import SampledQuestion
from compact_hf.evaluation.analysis.text_only import FOLDS, TextOnlyBaseline, score_text_only
from tests.evaluation.analysis.samples import make_question

COLORS = ("red", "green", "blue", "black")
NOUNS = ("bus", "cat", "door", "hat", "boat", "kite")


def make_questions(num_images: int, answer_of: object = None, *, seed: int = 1) -> list[SampledQuestion]:
    """Return two questions per image about the color of a thing; the answer is random, or `answer_of(thing)`."""
    rng = random.Random(seed)
    questions = []
    for _ in range(num_images):
        image_hash = rng.getrandbits(64)
        for noun in rng.sample(NOUNS, 2):
            answer = answer_of(noun) if callable(answer_of) else rng.choice(COLORS)
            questions.append(make_question(image_hash, f"What color is the {noun}?", answer))
    return questions


def score_guesses(questions: list[SampledQuestion]) -> TextOnlyBaseline:
    baseline = score_text_only(questions)
    assert baseline is not None
    return baseline


def test_answers_that_only_pictures_tell_are_guessed_no_better_than_by_chance() -> None:
    overall = score_guesses(make_questions(1000)).overall
    assert overall.low < 0.25 < overall.high + 0.01
    assert overall.majority == pytest.approx(0.25, abs=0.03)
    assert overall.chance == pytest.approx(0.25, abs=0.01)


def test_a_word_that_gives_its_answer_away_is_found() -> None:
    overall = score_guesses(make_questions(200, lambda noun: COLORS[NOUNS.index(noun) % 4])).overall
    assert overall.accuracy == 1
    assert overall.majority < 0.5


def test_a_leak_in_some_questions_shows_in_the_share() -> None:
    rng = random.Random(5)
    questions = [
        question._replace(question=f"{question.question} It is {question.answer}.") if rng.random() < 0.4 else question
        for question in make_questions(1000)
    ]
    assert score_guesses(questions).overall.accuracy == pytest.approx(0.4 + 0.6 / 4, abs=0.05)


def test_nothing_is_learnt_from_questions_about_the_same_picture() -> None:
    """Each image has its own word and answer, which training on other questions about this image would reveal."""
    rng = random.Random(2)
    questions = [
        make_question(image, f"In picture {image}, what color is the {noun}?", color)
        for image, color in ((rng.getrandbits(64), rng.choice(COLORS)) for _ in range(300))
        for noun in NOUNS
    ]
    assert score_guesses(questions).overall.accuracy < 0.4


def test_every_k_stands_alone_and_together_they_are_all() -> None:
    rng = random.Random(4)
    questions = [
        SampledQuestion(image, f"Question of {k}?", f"{rng.randrange(k + 1)}", ("color", "shape", "counting")[:k])
        for image in range(400)
        for k in (0, 1, 3)
    ]
    baseline = score_guesses(questions)
    assert list(baseline.by_k) == [0, 1, 3]
    assert baseline.overall.n == sum(score.n for score in baseline.by_k.values()) == 1200
    assert baseline.overall.right == sum(score.right for score in baseline.by_k.values())
    assert baseline.by_k[0].accuracy == baseline.by_k[0].majority == baseline.by_k[0].chance == 1
    assert baseline.by_k[3].chance == pytest.approx(0.25, abs=0.01)
    for score in (baseline.overall, *baseline.by_k.values()):
        assert 0 <= score.low <= score.accuracy <= score.high <= 1


def test_the_order_of_the_questions_does_not_matter() -> None:
    questions = make_questions(120)
    assert astuple(score_guesses(questions)) == astuple(
        score_guesses(random.Random(9).sample(questions, len(questions)))
    )


def test_questions_without_an_answer_are_left_out_and_too_few_pictures_teach_nothing() -> None:
    few = [make_question(image, "What?", "it") for image in range(FOLDS - 1)]
    assert score_text_only([]) is None
    assert score_text_only([*few, make_question(9, "What?", "")]) is None
    assert score_guesses([*few, make_question(9, "What?", "it"), make_question(10, "?!", "")]).overall.n == FOLDS


def test_questions_of_signs_alone_can_be_asked() -> None:
    assert score_guesses([make_question(image, "?!", "it") for image in range(10)]).overall.accuracy == 1
