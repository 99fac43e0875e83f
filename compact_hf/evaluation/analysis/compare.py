"""How far two data sets lie apart, and what they share: their counts and samples in, a `Comparison` out, as JSON:

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

from compact_hf.evaluation.analysis.counting import Counts, Sampled
from compact_hf.evaluation.analysis.stats import Analysis

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two data sets beside each other.

    Attributes:
        distances (`dict[str, float]`): of what -> total variation, 0 to 1. Capabilities and pairs by how often they are
            needed among all that is; openings and answers in the samples.
        shared_pictures (`int`): different pictures that both ask about, by the hash of their files.
        shared_questions (`int`): different questions that are in both, normalised, whatever their pictures and answers.
    """

    distances: dict[str, float]
    shared_pictures: int
    shared_questions: int


def compared(
    analyses: Sequence[Analysis], counts: Sequence[Counts], samples: Sequence[Sequence[Sampled]]
) -> Comparison:
    """Return how two data sets differ: their figures, and what these come from."""
    import numpy as np

    (one, other), (counted, others) = analyses, counts
    answers = [Counter(sampled.answer for sampled in sample if sampled.answer) for sample in samples]
    openings = [{type_.name: type_.questions for type_ in analysis.openings.types} for analysis in analyses]
    pairs = [{(pair.one, pair.other): pair.questions for pair in found.complexity.by_pair} for found in analyses]
    return Comparison(
        distances={
            "k": distance(one.complexity.by_k, other.complexity.by_k),
            "capabilities": distance(one.complexity.by_capability, other.complexity.by_capability),
            "pairs": distance(*pairs),
            "question_words": distance(counted.question_words, others.question_words),
            "answer_words": distance(counted.answer_words, others.answer_words),
            "openings": distance(*openings),
            "answers": distance(*answers),
        },
        shared_pictures=len(np.intersect1d(counted.pictures, others.pictures, assume_unique=True)),
        shared_questions=len(np.intersect1d(counted.texts, others.texts, assume_unique=True)),
    )


def distance(one: Mapping[T, int], other: Mapping[T, int]) -> float:
    """Return the total variation between two counts' shares, 0 to 1; 1 where just one counts nothing, 0 where both."""
    total, others = sum(one.values()), sum(other.values())
    if not (total and others):
        return float(bool(total) != bool(others))
    apart = (abs(one.get(value, 0) / total - other.get(value, 0) / others) for value in one.keys() | other.keys())
    return min(1.0, sum(apart) / 2)
