"""Two models on the same questions: their predictions in, how they differ and how surely out. Pure.

    compare(tuned, base).difference      accuracy of the first less that of the second

Paired: what both get right or both get wrong says nothing about their difference, so it is told far more sharply
than by two separate intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.scoring import Prediction

RESAMPLES: Final = 10_000
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How model `one` differs from model `other` on the questions that both answered.

    Attributes:
        n (`int`): questions.
        pictures (`int`): that they are about.
        one_accuracy, other_accuracy (`float`): 0 to 1.
        difference (`float`): the first less the second, -1 to 1.
        low, high (`float`): its 95% interval.
        only_one_right, only_other_right (`int`): questions that one model alone answered rightly.
        p (`float`): McNemar's exact p-value, two-sided, of there being no difference.
    """

    n: int
    pictures: int
    one_accuracy: float
    other_accuracy: float
    difference: float
    low: float
    high: float
    only_one_right: int
    only_other_right: int
    p: float


def compare(one: Sequence[Prediction], other: Sequence[Prediction]) -> Comparison:
    """Compare two models that were asked the same questions, in whatever order.

    The interval is that of the paired percentile bootstrap, 10,000 times from a fixed seed. Whole pictures are drawn,
    because a model that misreads one tends to miss all of its questions. With one picture it is -1 to 1: nothing is
    known of others. McNemar's p takes the questions for independent; where it and the interval disagree on few
    pictures with many questions each, trust the interval.

    Args:
        one, other (`Sequence[Prediction]`): of each model, judged by the same rule.

    Raises:
        EvaluationError: there are none, an id occurs twice, or the questions are not the same.
    """
    pairs = _paired(one, other)
    only_one = sum(mine.right and not theirs.right for mine, theirs in pairs)
    only_other = sum(theirs.right and not mine.right for mine, theirs in pairs)
    by_picture: dict[str, list[int]] = defaultdict(list)
    for mine, theirs in pairs:
        by_picture[mine.picture].append(mine.right - theirs.right)
    low, high = _bootstrap([(sum(signs), len(signs)) for signs in by_picture.values()])
    return Comparison(
        n=len(pairs),
        pictures=len(by_picture),
        one_accuracy=sum(mine.right for mine, _ in pairs) / len(pairs),
        other_accuracy=sum(theirs.right for _, theirs in pairs) / len(pairs),
        difference=(only_one - only_other) / len(pairs),
        low=low,
        high=high,
        only_one_right=only_one,
        only_other_right=only_other,
        p=mcnemar(only_one, only_other),
    )


def mcnemar(only_one: int, only_other: int) -> float:
    """Return McNemar's exact two-sided p: how likely a fair coin parts these questions at least so unevenly.

    Args:
        only_one, only_other (`int`): questions that one model alone answered rightly.
    """
    discordant = only_one + only_other
    # In whole numbers, of which Python rounds the last division alone: exact for thousands of questions too.
    ways = tail = 1
    for chosen in range(min(only_one, only_other)):
        ways = ways * (discordant - chosen) // (chosen + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << discordant))


def _paired(one: Sequence[Prediction], other: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    mine, theirs = _by_id(one), _by_id(other)
    if mine.keys() != theirs.keys():
        missing = [("second", sorted(mine.keys() - theirs.keys())), ("first", sorted(theirs.keys() - mine.keys()))]
        told = " and ".join(f"the {which} lacks {len(ids)} ({ids[0]}, ...)" for which, ids in missing if ids)
        raise EvaluationError(f"the two models answered other questions: {told}; judge both on the same data set")
    for id, prediction in mine.items():
        if _asked(prediction) != _asked(theirs[id]):
            raise EvaluationError(
                f"question {id} is another one for each model ({prediction.question!r} and {theirs[id].question!r}, or "
                "its picture or answers differ); judge both on the same data set"
            )
    if not mine:
        raise EvaluationError("neither model answered any question; there is nothing to compare")
    return [(prediction, theirs[id]) for id, prediction in mine.items()]


def _by_id(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    found: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.id in found:
            raise EvaluationError(f"a model answers question {prediction.id} twice; give each of its predictions once")
        found[prediction.id] = prediction
    return found


def _asked(prediction: Prediction) -> tuple[str, str, tuple[str, ...]]:
    return prediction.question, prediction.picture, prediction.answers


def _bootstrap(pictures: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return the 95% interval of the mean difference from each picture's (sum of differences, questions)."""
    import numpy as np

    if len(pictures) < 2:
        return -1.0, 1.0
    # Pictures with the same figures are alike to the bootstrap: drawing how often each kind comes is drawing them.
    kinds, counts = np.unique(np.array(pictures), axis=0, return_counts=True)
    drawn = np.random.default_rng(_SEED).multinomial(len(pictures), counts / len(pictures), size=RESAMPLES)
    differences = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(low), float(high)
