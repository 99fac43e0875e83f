"""What is known of a data set's questions once they have passed by. analysis.json holds, as --json prints it:

    {"schema": 1,
     "data": [ANALYSIS],                    two of them where two data sets were given
     "comparison": null}                    or COMPARISON (compare.py)

    ANALYSIS = {
      "name": "release (k3)",
      "k_is": "asked",                      or "judged", see readers.py
      "pictures": 1561, "questions": 4115,
      "unlabelled_rows": 0,                 rows left out, because nobody said what they need (instruction rows)
      "complexity": {"questions": 4115, "mean_k": 2.03, "mode_k": 2, "at_most_2": 0.68, "none_needed": 0.0,
                     "by_k": {"0": 0, "1": 1300, ...}, "by_capability": {"color": 700, ...},
                     "by_pair": [{"one": "color", "other": "shape", "questions": 100}, ...]},
      "combinations": {"color+shape": 31, ...},                    most frequent first; "" needs none
      "question_words": LENGTHS,
      "answer_words": LENGTHS,              of answers that are not empty; null without any
      "sampled": 4115,                      questions that all below is measured on: whole pictures, at most 100,000
      "repeats": {"about_the_picture": 0.0, "question": 0.15, "question_and_answer": 0.0, "near": 0.0},   duplicates
      "answers": {"entropy": 5.6,           bits of the answer where nothing is known of the question
                  "all": ANSWERS, "by_k": {"1": ANSWERS, ...}},    ANSWERS: dataset/stats.py; null without any
      "openings": TYPES, "by_combination": TYPES,                  TYPES: text_only.py; the 100 most frequent
      "text_alone": {"overall": GUESSED, "by_k": {"1": GUESSED, ...}}}               GUESSED: text_only.py, or null

    LENGTHS = {"mean": 9.1, "median": 9, "most": 14, "longest": 20,      `most`: 95% have no more words
               "by_words": {"5": 12, ...}}                               words, parted by white space -> texts

Shares lie from 0 to 1. What is new is added; a change of what is there raises `schema`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby
from typing import Any, Final

from compact_hf.answers import normalise
from compact_hf.dataset.stats import Answers, answers_of
from compact_hf.evaluation.analysis.counting import Counts, Sampled
from compact_hf.evaluation.analysis.readers import Kind
from compact_hf.evaluation.analysis.text_only import Blind, Types, blind, by_combination, by_opening, entropy
from compact_hf.methods.compact.complexity import Complexity, complexity_of
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


SCHEMA: Final = 1
_MAX_TYPES: Final = 100


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts are, in words; see the module."""

    mean: float
    median: int
    most: int
    longest: int
    by_words: dict[int, int]


@dataclass(frozen=True, slots=True)
class Variety:
    """How varied the answers are: `entropy` in bits, all of them, and those to the questions of each k."""

    entropy: float
    all: Answers
    by_k: dict[int, Answers]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A data set in figures; see the module."""

    name: str
    k_is: Kind
    pictures: int
    questions: int
    unlabelled_rows: int
    complexity: Complexity
    combinations: dict[str, int]
    question_words: Lengths
    answer_words: Lengths | None
    sampled: int
    repeats: Repeats
    answers: Variety | None
    openings: Types
    by_combination: Types
    text_alone: Blind | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it, of types the most frequent ones."""
        found = asdict(self)
        for name in ("openings", "by_combination"):
            found[name]["types"] = found[name]["types"][:_MAX_TYPES]
        return found


def analysis_of(name: str, k_is: Kind, counts: Counts, sample: Sequence[Sampled]) -> Analysis:
    """Return a data set in figures.

    Args:
        name, k_is (`str`): as `asked.Readable` has them.
        counts (`Counts`): of all its questions; there must be some.
        sample (`Sequence[Sampled]`): those whose text is looked at, by picture.
    """
    needed = sorted(counts.needed.items(), key=lambda item: (-item[1], item[0]))
    return Analysis(
        name=name,
        k_is=k_is,
        pictures=len(counts.pictures),
        questions=counts.questions,
        unlabelled_rows=counts.unlabelled,
        complexity=complexity_of(counts.needed),
        combinations={"+".join(names): count for names, count in needed},
        question_words=_lengths(counts.question_words),
        answer_words=_lengths(counts.answer_words) if counts.answer_words else None,
        sampled=len(sample),
        repeats=repeats_of(sample),
        answers=_variety(sample),
        openings=by_opening(sample),
        by_combination=by_combination(sample),
        text_alone=blind(sample),
    )


def _lengths(counts: Counter[int]) -> Lengths:
    total, words = counts.total(), sorted(counts)
    up_to = dict(zip(words, accumulate(counts[count] for count in words), strict=True))
    return Lengths(
        mean=sum(count * times for count, times in counts.items()) / total,
        median=next(count for count in words if 2 * up_to[count] >= total),
        most=next(count for count in words if 100 * up_to[count] >= 95 * total),
        longest=words[-1],
        by_words={count: counts[count] for count in words},
    )


def _variety(sample: Sequence[Sampled]) -> Variety | None:
    by_k: dict[int, Counter[str]] = defaultdict(Counter)
    for one in sample:
        if one.answer:
            by_k[len(one.capabilities)][one.answer] += 1
    if not by_k:
        return None
    every = sum(by_k.values(), Counter[str]())
    return Variety(entropy(every.values()), answers_of(every), {k: answers_of(by_k[k]) for k in sorted(by_k)})
