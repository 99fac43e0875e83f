"""What is known of a dataset's questions once they have passed by. analysis.json holds, as --json prints it:

    {"schema": 1,
     "data": [ANALYSIS],                    two of them where two datasets were given
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
      "sampled": 4115,                      questions that all below is measured on: whole images, at most 100,000
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
from compact_hf.evaluation.analysis.counting import QuestionCounts, SampledQuestion
from compact_hf.evaluation.analysis.text_only import (
    TextOnlyBaseline,
    TypeBreakdown,
    entropy,
    group_by_combination,
    group_by_opening,
    score_text_only,
)
from compact_hf.methods.base import KSource
from compact_hf.methods.compact.complexity import Complexity, measure_complexity
from compact_hf.methods.compact.statistics import AnswerStats, compute_answer_stats
from compact_hf.methods.near_duplicates import NearDuplicates
from compact_hf.records import Turn


@dataclass(frozen=True, slots=True)
class Repeats:
    """Shares, 0 to 1, of questions that repeat an earlier one.

    Attributes:
        about_the_picture (`float`): the same text about the same image.
        question (`float`): the same text about any image, whatever the answer.
        question_and_answer (`float`): the same text with the same answer.
        near (`float`): near repeats, which have the same answer.
    """

    about_the_picture: float
    question: float
    question_and_answer: float
    near: float


def measure_repeats(questions: Sequence[SampledQuestion]) -> Repeats:
    """Return how much of the questions repeats itself.

    Args:
        questions (`Sequence[SampledQuestion]`): those about an image one after the other; there must be some.
    """
    total = len(questions)
    texts = [normalise(question.question) for question in questions]
    by_image = {(question.image_hash, text) for question, text in zip(questions, texts, strict=True)}
    by_answer = {(question.answer, text) for question, text in zip(questions, texts, strict=True)}
    return Repeats(
        about_the_picture=1 - len(by_image) / total,
        question=1 - len(set(texts)) / total,
        question_and_answer=1 - len(by_answer) / total,
        near=_count_near_duplicates(questions) / total,
    )


def _count_near_duplicates(questions: Sequence[SampledQuestion]) -> int:
    near_duplicates = NearDuplicates()
    count = 0
    for _, image_questions in groupby(questions, key=lambda question: question.image_hash):
        turns = [Turn(question.question, question.answer, (), (), 0) for question in image_questions]
        count += sum(repeat is not None for repeat in near_duplicates.add_new(turns, min_turns=0))
    return count


SCHEMA: Final = 1
_MAX_TYPES: Final = 100


@dataclass(frozen=True, slots=True)
class LengthStats:
    """How long texts are, in words; see the module."""

    mean: float
    median: int
    most: int
    longest: int
    by_words: dict[int, int]


@dataclass(frozen=True, slots=True)
class AnswerVariety:
    """How varied the answers are: `entropy` in bits, all of them, and those to the questions of each k."""

    entropy: float
    all: AnswerStats
    by_k: dict[int, AnswerStats]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A dataset in figures; see the module."""

    name: str
    k_is: KSource
    pictures: int
    questions: int
    unlabelled_rows: int
    complexity: Complexity
    combinations: dict[str, int]
    question_words: LengthStats
    answer_words: LengthStats | None
    sampled: int
    repeats: Repeats
    answers: AnswerVariety | None
    openings: TypeBreakdown
    by_combination: TypeBreakdown
    text_alone: TextOnlyBaseline | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it, of types the most frequent ones."""
        result = asdict(self)
        for name in ("openings", "by_combination"):
            result[name]["types"] = result[name]["types"][:_MAX_TYPES]
        return result


def compute_analysis(name: str, k_is: KSource, counts: QuestionCounts, sample: Sequence[SampledQuestion]) -> Analysis:
    """Return a dataset in figures.

    Args:
        name, k_is (`str`): as `readers.QuestionSource` has them.
        counts (`QuestionCounts`): of all its questions; there must be some.
        sample (`Sequence[SampledQuestion]`): those whose text is looked at, by image.
    """
    combinations = sorted(counts.combination_counts.items(), key=lambda item: (-item[1], item[0]))
    return Analysis(
        name=name,
        k_is=k_is,
        pictures=len(counts.image_hashes),
        questions=counts.question_count,
        unlabelled_rows=counts.unlabelled_rows,
        complexity=measure_complexity(counts.combination_counts),
        combinations={"+".join(names): count for names, count in combinations},
        question_words=_length_stats(counts.question_words),
        answer_words=_length_stats(counts.answer_words) if counts.answer_words else None,
        sampled=len(sample),
        repeats=measure_repeats(sample),
        answers=_answer_variety(sample),
        openings=group_by_opening(sample),
        by_combination=group_by_combination(sample),
        text_alone=score_text_only(sample),
    )


def _length_stats(counts: Counter[int]) -> LengthStats:
    total, words = counts.total(), sorted(counts)
    cumulative = dict(zip(words, accumulate(counts[count] for count in words), strict=True))
    return LengthStats(
        mean=sum(count * frequency for count, frequency in counts.items()) / total,
        median=next(count for count in words if 2 * cumulative[count] >= total),
        most=next(count for count in words if 100 * cumulative[count] >= 95 * total),
        longest=words[-1],
        by_words={count: counts[count] for count in words},
    )


def _answer_variety(sample: Sequence[SampledQuestion]) -> AnswerVariety | None:
    by_k: dict[int, Counter[str]] = defaultdict(Counter)
    for question in sample:
        if question.answer:
            by_k[len(question.capabilities)][question.answer] += 1
    if not by_k:
        return None
    all_answers = sum(by_k.values(), Counter[str]())
    return AnswerVariety(
        entropy(all_answers.values()),
        compute_answer_stats(all_answers),
        {k: compute_answer_stats(by_k[k]) for k in sorted(by_k)},
    )
