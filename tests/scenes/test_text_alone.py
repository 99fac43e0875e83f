"""Tests that the words of a question do not reveal its answer: a text classifier hardly beats the majority answer."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from compact_hf.capabilities import CAPABILITIES
from compact_hf.scenes.questions import make_question
from compact_hf.scenes.scene import build_scene

from .reader import parse_question

NUM_QUESTIONS = 10_000
MAX_GAIN = 0.05


class QuestionText(NamedTuple):
    """A question without its image; `type` says what it asks, and about which category of thing."""

    seed: int
    type: str
    text: str
    answer: str


@cache
def make_questions(num_questions: int) -> list[QuestionText]:
    """Return `num_questions` questions with k from 1 to 3, at most six per scene."""
    questions: list[QuestionText] = []
    rng = random.Random(7)
    names = list(CAPABILITIES)
    seed = 0
    while len(questions) < num_questions:
        scene = build_scene(seed)
        for _ in range(6):
            question = make_question(scene, tuple(rng.sample(names, rng.choice((1, 2, 3)))), rng)
            if question is not None:
                reading = parse_question(scene, question.question)
                category = reading.pool[0]["category"] if reading.pool else "place"
                answer_form = (
                    "depth"
                    if question.answer.endswith("ground")
                    else "side"
                    if question.answer in ("left", "right")
                    else ""
                )
                question_type = f"{reading.asked_capability} {answer_form} {category} {reading.count > 0}"
                questions.append(QuestionText(seed, question_type, question.question, question.answer))
        seed += 1
    return questions[:num_questions]


def compute_gain(questions: list[QuestionText]) -> float:
    """Return by how much a linear classifier of words is better than the majority answer of each question type.

    It is trained on three of four scenes and tested on the others.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import RidgeClassifier

    by_type: dict[str, list[QuestionText]] = defaultdict(list)
    for question in questions:
        by_type[question.type].append(question)
    right = majority = total = 0
    for members in by_type.values():
        train = [question for question in members if question.seed % 4]
        test = [question for question in members if question.seed % 4 == 0]
        if not train or not test:
            continue
        answers = np.array([question.answer for question in test])
        vectorizer: Any = CountVectorizer(binary=True, token_pattern=r"[\w-]+", ngram_range=(1, 2), min_df=2)
        features = vectorizer.fit_transform([question.text for question in train])
        train_answers = [question.answer for question in train]
        majority_answer = Counter(train_answers).most_common(1)[0][0]
        predictions = (
            RidgeClassifier(alpha=20)
            .fit(features, train_answers)
            .predict(vectorizer.transform([question.text for question in test]))
            if len(set(train_answers)) > 1
            else majority_answer
        )
        right += int((answers == predictions).sum())
        majority += int((answers == majority_answer).sum())
        total += len(test)
    return (right - majority) / total


@pytest.mark.slow
def test_text_alone_gains_at_most_five_points_over_the_majority_answer() -> None:
    assert compute_gain(make_questions(NUM_QUESTIONS)) <= MAX_GAIN


@pytest.mark.slow
@pytest.mark.parametrize(("share", "num_questions"), [(0.2, 4000), (1.0, NUM_QUESTIONS)])
def test_the_classifier_would_notice_a_leak(share: float, num_questions: int) -> None:
    rng = random.Random(1)
    leaky_questions = [
        question._replace(text=f"{question.text} {question.answer.upper()}") if rng.random() < share else question
        for question in make_questions(num_questions)
    ]
    assert compute_gain(leaky_questions) > MAX_GAIN
