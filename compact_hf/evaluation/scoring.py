"""Scoring: predictions in, accuracy by k and by capability out, each with n, its 95% interval and a baseline. Pure.

`results.json` is `Results.to_json()`:

    {"schema": 1,
     "model": "student", "dataset": "release (compositional, validation)",
     "overall": SCORE, "by_k": {"1": SCORE, ...}, "by_capability": {"color": SCORE, ...}}

    SCORE = {"n": 120,            questions
             "right": 54,         exact matches after `answers.normalise`
             "accuracy": 0.45,    right / n, 0 to 1
             "low": 0.364, "high": 0.539,                the 95% Wilson interval of accuracy
             "majority": {"right": 40, "accuracy": 0.333}}   the same questions answered by the majority answer

A question counts once in `overall`, once under its k and once under each of its capabilities; keys of `by_k` and
`by_capability` stand only where n > 0, in ascending and in the paper's order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final

from compact_hf.answers import normalise, same_answer
from compact_hf.capabilities import canonical
from compact_hf.errors import EvaluationError

SCHEMA: Final = 1
_Z95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Prediction:
    """A question with the answer that is right and the one the model gave.

    Attributes:
        id (`str`): the question's, unique in its data set.
        k (`int`): how many capabilities it needs.
        capabilities (`tuple[str, ...]`): which, in the paper's order.
        question, answer, prediction (`str`): as they stand, not normalised.
        right (`bool`): whether prediction and answer are the same after `answers.normalise`.
    """

    id: str
    k: int
    capabilities: tuple[str, ...]
    question: str
    answer: str
    prediction: str
    right: bool


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of some questions, and their share, 0 to 1."""

    right: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Score:
    """`right` of `n` questions, with the 95% Wilson interval `low` to `high` and the majority answer's share."""

    n: int
    right: int
    accuracy: float
    low: float
    high: float
    majority: Share


@dataclass(frozen=True, slots=True)
class Results:
    """The scores of one model on one data set; see the module for their JSON."""

    model: str
    dataset: str
    overall: Score
    by_k: dict[int, Score]
    by_capability: dict[str, Score]

    def to_json(self) -> dict[str, Any]:
        """Return the results as `results.json` has them."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "dataset": self.dataset,
            "overall": asdict(self.overall),
            "by_k": {str(k): asdict(score) for k, score in self.by_k.items()},
            "by_capability": {name: asdict(score) for name, score in self.by_capability.items()},
        }


def is_right(prediction: str, answer: str) -> bool:
    """Whether a model's answer counts as right: exact match after `answers.normalise`."""
    return same_answer(prediction, answer)


def score(predictions: Sequence[Prediction], *, model: str, dataset: str) -> Results:
    """Return the accuracies of `predictions`, whatever their order.

    The baseline gives, for each k, the answer that is most frequent among these very predictions' right answers:
    in hindsight, so that no constant answer per k does better. A model that has only learnt which answers are
    common can reach it, hardly pass it.

    Raises:
        EvaluationError: there are no predictions.
        UnknownCapabilityError: a capability is not one of the ten.
    """
    if not predictions:
        raise EvaluationError(f"{dataset} gave no questions with known answers; there is nothing to score")
    majority = majority_answers((prediction.k, prediction.answer) for prediction in predictions)
    by_k: dict[int, list[Prediction]] = defaultdict(list)
    by_capability: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_k[prediction.k].append(prediction)
        for name in prediction.capabilities:
            by_capability[name].append(prediction)
    return Results(
        model,
        dataset,
        overall=_score(predictions, majority),
        by_k={k: _score(by_k[k], majority) for k in sorted(by_k)},
        by_capability={name: _score(by_capability[name], majority) for name in canonical(by_capability)},
    )


def majority_answers(reference: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Return each k's most frequent answer, normalised, among the (k, answer) pairs; ties go by the alphabet."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for k, answer in reference:
        counts[k][normalise(answer)] += 1
    return {k: min(found, key=lambda answer: (-found[answer], answer)) for k, found in counts.items()}


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share of `right` in `n` > 0 (Wilson 1927), within 0 to 1.

    Unlike the textbook interval it stays inside 0 to 1 and does not shrink to nothing at 0 or n right.
    """
    share = right / n
    spread = _Z95 * sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    middle = share + _Z95**2 / (2 * n)
    # Rounding may leave the bound beside the exact 0, 1 or share by one part in 10^16.
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))


def _score(predictions: Sequence[Prediction], majority: Mapping[int, str]) -> Score:
    n = len(predictions)
    right = sum(prediction.right for prediction in predictions)
    low, high = wilson(right, n)
    constant = sum(same_answer(majority[prediction.k], prediction.answer) for prediction in predictions)
    return Score(n, right, right / n, low, high, Share(constant, constant / n))
