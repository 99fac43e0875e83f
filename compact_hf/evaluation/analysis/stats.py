"""Computes the statistics of a dataset from its counts and its sample. analysis.json, and the output of --json, is

    {"schema": 1,
     "data": [ANALYSIS],                    two if two datasets were given
     "comparison": null}                    or COMPARISON (compare.py)

    ANALYSIS = {
      "name": "release (k3)",
      "k_is": "asked",                      or "judged", see readers.py
      "pictures": 1561, "questions": 4115,  number of images and of questions
      "unlabelled_rows": 0,                 rows left out because their capabilities are unknown (instruction rows)
      "complexity": {"questions": 4115, "mean_k": 2.03, "mode_k": 2, "at_most_2": 0.68, "none_needed": 0.0,
                     "by_k": {"0": 0, "1": 1300, ...}, "by_capability": {"color": 700, ...},
                     "by_pair": [{"one": "color", "other": "shape", "questions": 100}, ...]},
      "combinations": {"color+shape": 31, ...},                    most frequent first; "" for no capability
      "question_words": LENGTHS,
      "answer_words": LENGTHS,              of answers that are not empty; null without any
      "sampled": 4115,                      questions in the sample that everything below is computed from
      "repeats": {"about_the_picture": 0.0, "question": 0.15, "question_and_answer": 0.0, "near": 0.0},   duplicates
      "answers": {"entropy": 5.6,           entropy of all answers, in bits
                  "all": ANSWERS, "by_k": {"1": ANSWERS, ...}},    ANSWERS: dataset/stats.py; null without any
      "openings": TYPES, "by_combination": TYPES,                  TYPES: text_only.py; the 100 most frequent
      "text_alone": {"overall": GUESSED, "by_k": {"1": GUESSED, ...}}}               GUESSED: text_only.py, or null

    LENGTHS = {"mean": 9.1, "median": 9, "most": 14, "longest": 20,      `most` is the 95th percentile
               "by_words": {"5": 12, ...}}                               number of words -> number of texts

Words are separated by white space. Shares are between 0 and 1. New keys may be added; a change to existing ones raises
`schema`.
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
        about_the_picture (`float`): same text about the same image.
        question (`float`): same text about any image, with any answer.
        question_and_answer (`float`): same text with the same answer.
        near (`float`): near duplicates, which have the same answer.
    """

    about_the_picture: float
    question: float
    question_and_answer: float
    near: float


def measure_repeats(questions: Sequence[SampledQuestion]) -> Repeats:
    """Return the shares of repeated questions.

    Args:
        questions (`Sequence[SampledQuestion]`): at least one question; those about the same image must be consecutive.
    """
    total = len(questions)
    texts = [normalise(question.question) for question in questions]
    # Each share is 1 - distinct / total: of equal questions, all but the first are repeats.
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
    # `groupby` joins neighbours only, which is enough because the sample is sorted by image.
    for _, image_questions in groupby(questions, key=lambda question: question.image_hash):
        # Only question and answer matter here; the other fields are placeholders.
        turns = [Turn(question.question, question.answer, (), (), 0) for question in image_questions]
        count += sum(repeat is not None for repeat in near_duplicates.add_new(turns, min_turns=0))
    return count


SCHEMA: Final = 1
# Types of questions in analysis.json; a large dataset can have thousands of openings.
_MAX_TYPES: Final = 100


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Lengths of texts in words; see LENGTHS in the module docstring."""

    mean: float
    median: int
    most: int
    longest: int
    by_words: dict[int, int]


@dataclass(frozen=True, slots=True)
class AnswerVariety:
    """The variety of answers: entropy of all answers in bits, statistics of all answers, and k -> statistics."""

    entropy: float
    all: AnswerStats
    by_k: dict[int, AnswerStats]


@dataclass(frozen=True, slots=True)
class Analysis:
    """The statistics of a dataset; see ANALYSIS in the module docstring."""

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
        """Return the statistics as JSON values, with the `_MAX_TYPES` most frequent types of questions."""
        result = asdict(self)
        for name in ("openings", "by_combination"):
            result[name]["types"] = result[name]["types"][:_MAX_TYPES]
        return result


def compute_analysis(name: str, k_is: KSource, counts: QuestionCounts, sample: Sequence[SampledQuestion]) -> Analysis:
    """Return the statistics of a dataset.

    Args:
        name (`str`): display name of the dataset.
        k_is (`str`): where k comes from, as in `readers.QuestionSource`.
        counts (`QuestionCounts`): counts over all questions, of which there must be at least one.
        sample (`Sequence[SampledQuestion]`): the sampled questions, sorted by image.
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
    """Return statistics of lengths from number of words -> number of texts."""
    total, words = counts.total(), sorted(counts)
    # Number of words -> number of texts with at most this number of words.
    cumulative = dict(zip(words, accumulate(counts[count] for count in words), strict=True))
    return LengthStats(
        mean=sum(count * frequency for count, frequency in counts.items()) / total,
        # The smallest length that covers half of the texts, then 95% of them; integers avoid rounding.
        median=next(count for count in words if 2 * cumulative[count] >= total),
        most=next(count for count in words if 100 * cumulative[count] >= 95 * total),
        longest=words[-1],
        by_words={count: counts[count] for count in words},
    )


def _answer_variety(sample: Sequence[SampledQuestion]) -> AnswerVariety | None:
    """Return the variety of the sample's answers, or None if no question has one."""
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
