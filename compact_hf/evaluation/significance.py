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
from compact_hf.evaluation.questions import Prediction

RESAMPLES: Final = 10_000
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How model `one` differs from model `other` on the questions that both answered.

    Attributes:
        n (`int`): questions.
        pictures (`int`): that they are about.
        one_accuracy, other_accuracy (`float`): 0 to 1; of graded answers the mean of their points.
        difference (`float`): the first less the second, -1 to 1.
        low, high (`float`): its 95% interval.
        only_one_right, only_other_right (`int`): questions that one model alone answered rightly; of graded answers
            those that it answered better.
        p (`float`): McNemar's exact p-value, two-sided, of there being no difference; of graded answers that of the
            sign test, which it is a case of.
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


def compare(first: Sequence[Prediction], second: Sequence[Prediction]) -> Comparison:
    """Compare two models that were asked the same questions, in whatever order.

    The interval is that of the paired percentile bootstrap, 10,000 times from a fixed seed. Whole images are drawn,
    because a model that misreads one tends to miss all of its questions. With one image it is -1 to 1: nothing is
    known of others. McNemar's p takes the questions for independent; where it and the interval disagree on few
    images with many questions each, trust the interval.

    Args:
        first, second (`Sequence[Prediction]`): of each model, judged by the same rule.

    Raises:
        EvaluationError: there are none, an id occurs twice, or the questions are not the same.
    """
    pairs = _pair_predictions(first, second)
    points = [(one.points(), other.points()) for one, other in pairs]
    only_first = sum(one > other for one, other in points)
    only_second = sum(other > one for one, other in points)
    by_image: dict[str, list[float]] = defaultdict(list)
    for (prediction, _), (one, other) in zip(pairs, points, strict=True):
        by_image[prediction.picture].append(one - other)
    low, high = _bootstrap([(sum(differences), len(differences)) for differences in by_image.values()])
    return Comparison(
        n=len(pairs),
        pictures=len(by_image),
        one_accuracy=sum(one for one, _ in points) / len(pairs),
        other_accuracy=sum(other for _, other in points) / len(pairs),
        difference=sum(one - other for one, other in points) / len(pairs),
        low=low,
        high=high,
        only_one_right=only_first,
        only_other_right=only_second,
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's exact two-sided p: how likely a fair coin parts these questions at least so unevenly.

    Args:
        only_first, only_second (`int`): questions that one model alone answered rightly.
    """
    discordant = only_first + only_second
    # In whole numbers, of which Python rounds the last division alone: exact for thousands of questions too.
    binomial = tail = 1
    for index in range(min(only_first, only_second)):
        binomial = binomial * (discordant - index) // (index + 1)
        tail += binomial
    return min(1.0, 2 * tail / (1 << discordant))


def _pair_predictions(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    first_by_id, second_by_id = _index_by_id(first), _index_by_id(second)
    if first_by_id.keys() != second_by_id.keys():
        missing = [
            ("second", sorted(first_by_id.keys() - second_by_id.keys())),
            ("first", sorted(second_by_id.keys() - first_by_id.keys())),
        ]
        message = " and ".join(f"the {label} lacks {len(ids)} ({ids[0]}, ...)" for label, ids in missing if ids)
        raise EvaluationError(f"the two models answered other questions: {message}; judge both on the same data set")
    for id, prediction in first_by_id.items():
        if _question_key(prediction) != _question_key(second_by_id[id]):
            raise EvaluationError(
                f"question {id} is another one for each model ({prediction.question!r} and "
                f"{second_by_id[id].question!r}, or "
                "its picture or answers differ); judge both on the same data set"
            )
    if not first_by_id:
        raise EvaluationError("neither model answered any question; there is nothing to compare")
    return [(prediction, second_by_id[id]) for id, prediction in first_by_id.items()]


def _index_by_id(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    by_id: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.id in by_id:
            raise EvaluationError(f"a model answers question {prediction.id} twice; give each of its predictions once")
        by_id[prediction.id] = prediction
    return by_id


def _question_key(prediction: Prediction) -> tuple[str, str, tuple[str, ...]]:
    return prediction.question, prediction.picture, prediction.answers


def _bootstrap(image_totals: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return the 95% interval of the mean difference from each image's (sum of differences, questions)."""
    import numpy as np

    if len(image_totals) < 2:
        return -1.0, 1.0
    # Images with the same figures are alike to the bootstrap: drawing how often each kind comes is drawing them.
    unique_totals, counts = np.unique(np.array(image_totals), axis=0, return_counts=True)
    draws = np.random.default_rng(_SEED).multinomial(len(image_totals), counts / len(image_totals), size=RESAMPLES)
    differences = (draws @ unique_totals[:, 0]) / (draws @ unique_totals[:, 1])
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(low), float(high)
