"""The words of a question must not give its answer away: a classifier that sees no picture learns next to nothing."""

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

from .reader import read

NUMBER = 10_000
MOST_GAIN = 0.05


class Asked(NamedTuple):
    """A question without its picture; `type` is what it asks, about which sort of thing."""

    seed: int
    type: str
    text: str
    answer: str


@cache
def asked() -> list[Asked]:
    """Return 10,000 questions of k = 1 to 3, at most six of a scene."""
    found: list[Asked] = []
    rng = random.Random(7)
    names = list(CAPABILITIES)
    seed = 0
    while len(found) < NUMBER:
        scene = build_scene(seed)
        for _ in range(6):
            question = make_question(scene, tuple(rng.sample(names, rng.choice((1, 2, 3)))), rng)
            if question is not None:
                reading = read(scene, question.question)
                sort = reading.pool[0]["category"] if reading.pool else "place"
                form = (
                    "depth"
                    if question.answer.endswith("ground")
                    else "side"
                    if question.answer in ("left", "right")
                    else ""
                )
                kind = f"{reading.asked} {form} {sort} {reading.count > 0}"
                found.append(Asked(seed, kind, question.question, question.answer))
        seed += 1
    return found[:NUMBER]


def gain(questions: list[Asked]) -> float:
    """Return by how much a linear classifier of words beats the majority answer of each question type.

    Trained on three scenes of four, tested on the fourth.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import RidgeClassifier

    by_type: dict[str, list[Asked]] = defaultdict(list)
    for question in questions:
        by_type[question.type].append(question)
    right = majority = total = 0
    for members in by_type.values():
        train = [question for question in members if question.seed % 4]
        test = [question for question in members if question.seed % 4 == 0]
        if not train or not test:
            continue
        answers = np.array([question.answer for question in test])
        words: Any = CountVectorizer(binary=True, token_pattern=r"[\w-]+", ngram_range=(1, 2), min_df=2)
        seen = words.fit_transform([question.text for question in train])
        known = [question.answer for question in train]
        usual = Counter(known).most_common(1)[0][0]
        guess = (
            RidgeClassifier(alpha=20).fit(seen, known).predict(words.transform([question.text for question in test]))
            if len(set(known)) > 1
            else usual
        )
        right += int((answers == guess).sum())
        majority += int((answers == usual).sum())
        total += len(test)
    return (right - majority) / total


@pytest.mark.slow
def test_text_alone_gains_at_most_five_points_over_the_majority_answer() -> None:
    assert gain(asked()) <= MOST_GAIN


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_the_classifier_would_notice_a_leak(share: float) -> None:
    rng = random.Random(1)
    told = [
        question._replace(text=f"{question.text} {question.answer.upper()}") if rng.random() < share else question
        for question in asked()
    ]
    assert gain(told) > MOST_GAIN
