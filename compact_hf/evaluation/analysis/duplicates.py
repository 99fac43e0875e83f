"""Questions that repeat others: questions in, shares out, from the same text to near repeats.

Texts are the same where they are after `answers.normalise`: case, articles, punctuation and plurals do not count. Near
repeats are what `compact assemble` drops (methods/compact/near_duplicates.py): the same answer, and more than 90% of
the words, in the same order, as an earlier question about another picture. The more questions there are, the more
repeat one: such shares compare only where they are of about as many questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from compact_hf.answers import normalise
from compact_hf.evaluation.analysis.counting import Sampled
from compact_hf.methods.compact.near_duplicates import Similar
from compact_hf.records import Turn


@dataclass(frozen=True, slots=True)
class Repeats:
    """Shares, 0 to 1, of questions that repeat an earlier one.

    Attributes:
        about_the_picture (`float`): the same text about the same picture.
        question (`float`): the same text about any picture, whatever the answer.
        question_and_answer (`float`): the same text with the same answer.
        near (`float`): near repeats, which have the same answer.
    """

    about_the_picture: float
    question: float
    question_and_answer: float
    near: float


def repeats_of(questions: Sequence[Sampled]) -> Repeats:
    """Return how much of the questions repeats itself.

    Args:
        questions (`Sequence[Sampled]`): those about a picture one after the other; there must be some.
    """
    total = len(questions)
    texts = [normalise(one.question) for one in questions]
    about = {(one.picture, text) for one, text in zip(questions, texts, strict=True)}
    answered = {(one.answer, text) for one, text in zip(questions, texts, strict=True)}
    return Repeats(
        about_the_picture=1 - len(about) / total,
        question=1 - len(set(texts)) / total,
        question_and_answer=1 - len(answered) / total,
        near=_near(questions) / total,
    )


def _near(questions: Sequence[Sampled]) -> int:
    known = Similar()
    found = 0
    for _, about in groupby(questions, key=lambda one: one.picture):
        turns = [Turn(one.question, one.answer, (), (), 0) for one in about]
        found += sum(like is not None for like in known.sift(turns, fewest=0))
    return found
