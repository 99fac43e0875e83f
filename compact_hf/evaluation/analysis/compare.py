"""Computes the distances between two datasets and what they share. In analysis.json a comparison is

    {"distances": {"k": 0.21, "capabilities": 0.1, "pairs": 0.3, "question_words": 0.2, "answer_words": 0.1,
                   "openings": 0.4, "answers": 0.5},
     "shared_pictures": 0, "shared_questions": 12}

A distance is the total variation distance: half the sum over all values of |share in one - share in the other|. It is 0
for equal shares, and 1 if the datasets have no value in common. Two small samples of the same data also have a distance
above 0: about sqrt(m / (pi n)) for n questions and m values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from compact_hf.evaluation.analysis.counting import QuestionCounts, SampledQuestion
from compact_hf.evaluation.analysis.stats import Analysis

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class DatasetComparison:
    """The comparison of two datasets.

    Attributes:
        distances (`dict[str, float]`): quantity -> total variation distance, 0 to 1. For capabilities and pairs, shares
            are among all needed capabilities or pairs. Openings and answers are from the samples.
        shared_pictures (`int`): number of distinct images in both datasets, by the hash of their files.
        shared_questions (`int`): number of distinct questions in both datasets, normalised; their images and answers
            may differ.
    """

    distances: dict[str, float]
    shared_pictures: int
    shared_questions: int


def compare_datasets(
    analyses: Sequence[Analysis], counts: Sequence[QuestionCounts], samples: Sequence[Sequence[SampledQuestion]]
) -> DatasetComparison:
    """Compare two datasets.

    Args:
        analyses (`Sequence[Analysis]`): the statistics of both datasets.
        counts (`Sequence[QuestionCounts]`): the counts that the statistics are computed from.
        samples (`Sequence[Sequence[SampledQuestion]]`): the sampled questions of both datasets.
    """
    import numpy as np

    (first, second), (first_counts, second_counts) = analyses, counts
    # From samples of about the same size; the number of distinct answers depends on it.
    answers = [Counter(question.answer for question in sample if question.answer) for sample in samples]
    openings = [
        {question_type.name: question_type.questions for question_type in analysis.openings.types}
        for analysis in analyses
    ]
    pairs = [{(pair.one, pair.other): pair.questions for pair in item.complexity.by_pair} for item in analyses]
    return DatasetComparison(
        distances={
            "k": distance(first.complexity.by_k, second.complexity.by_k),
            "capabilities": distance(first.complexity.by_capability, second.complexity.by_capability),
            "pairs": distance(*pairs),
            "question_words": distance(first_counts.question_words, second_counts.question_words),
            "answer_words": distance(first_counts.answer_words, second_counts.answer_words),
            "openings": distance(*openings),
            "answers": distance(*answers),
        },
        shared_pictures=len(np.intersect1d(first_counts.image_hashes, second_counts.image_hashes, assume_unique=True)),
        shared_questions=len(
            np.intersect1d(first_counts.question_hashes, second_counts.question_hashes, assume_unique=True)
        ),
    )


def distance(first: Mapping[T, int], second: Mapping[T, int]) -> float:
    """Return the total variation distance between two counts, 0 to 1; it is 1 if only one is empty, 0 if both are."""
    first_total, second_total = sum(first.values()), sum(second.values())
    if not (first_total and second_total):
        return float(bool(first_total) != bool(second_total))
    differences = (
        abs(first.get(value, 0) / first_total - second.get(value, 0) / second_total)
        for value in first.keys() | second.keys()
    )
    return min(1.0, sum(differences) / 2)
