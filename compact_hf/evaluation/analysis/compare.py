"""How far two datasets are apart, and what they share: counts and samples in, a `DatasetComparison` out, as JSON:

    {"distances": {"k": 0.21, "capabilities": 0.1, "pairs": 0.3, "question_words": 0.2, "answer_words": 0.1,
                   "openings": 0.4, "answers": 0.5},
     "shared_pictures": 0, "shared_questions": 12}

A distance is the total variation: half the sum over all values of |share here - share there|, 0 for the same shares, 1
where nothing is in common. Two small samples of the same data lie apart too: of n questions and m values about
sqrt(m / (pi n)).
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
    """Two datasets beside each other.

    Attributes:
        distances (`dict[str, float]`): of what -> total variation, 0 to 1. Capabilities and pairs by how often they are
            needed among all that is; openings and answers in the samples.
        shared_pictures (`int`): different images that both ask about, by the hash of their files.
        shared_questions (`int`): different questions that are in both, normalised, whatever their images and answers.
    """

    distances: dict[str, float]
    shared_pictures: int
    shared_questions: int


def compare_datasets(
    analyses: Sequence[Analysis], counts: Sequence[QuestionCounts], samples: Sequence[Sequence[SampledQuestion]]
) -> DatasetComparison:
    """Return how two datasets differ: their figures, and what these come from."""
    import numpy as np

    (first, second), (first_counts, second_counts) = analyses, counts
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
    """Return the total variation between two counts' shares, 0 to 1; 1 where just one counts nothing, 0 where both."""
    first_total, second_total = sum(first.values()), sum(second.values())
    if not (first_total and second_total):
        return float(bool(first_total) != bool(second_total))
    differences = (
        abs(first.get(value, 0) / first_total - second.get(value, 0) / second_total)
        for value in first.keys() | second.keys()
    )
    return min(1.0, sum(differences) / 2)
