"""Compares two models on the same questions: difference of accuracy, confidence interval and p-value. No I/O.

    compare(tuned, base).difference      accuracy of the first model minus that of the second

The comparison is paired. Questions that both models get right, or both get wrong, carry no information about the
difference, so the interval is much narrower than one derived from two separate intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.questions import Prediction

RESAMPLES: Final = 10_000
# Fixed, so that the same predictions always give the same interval.
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between model `one` and model `other` on the same questions.

    Attributes:
        n (`int`): number of questions.
        pictures (`int`): number of images that the questions are about.
        one_accuracy (`float`): accuracy of `one`, 0 to 1; for graded answers the mean of their points.
        other_accuracy (`float`): accuracy of `other`, likewise.
        difference (`float`): `one_accuracy` minus `other_accuracy`, -1 to 1.
        low (`float`): lower end of the 95% interval of the difference.
        high (`float`): upper end of this interval.
        only_one_right (`int`): questions that only `one` answered correctly; for graded answers, those that it answered
            better.
        only_other_right (`int`): questions that only `other` answered correctly, likewise.
        p (`float`): two-sided p-value of McNemar's exact test of no difference; for graded answers that of the sign
            test, of which it is a special case.
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
    """Compare two models that answered the same questions, in any order.

    The interval comes from a paired percentile bootstrap with 10,000 resamples and a fixed seed. Whole images are
    resampled, because a model that misreads an image tends to fail on all of its questions. With a single image the
    interval is -1 to 1, since nothing is known about other images. McNemar's test assumes independent questions; if it
    disagrees with the interval on data with few images and many questions per image, trust the interval.

    Args:
        first (`Sequence[Prediction]`): predictions of the first model.
        second (`Sequence[Prediction]`): predictions of the second model, marked by the same rule.

    Returns:
        `Comparison`: the first model as `one`, the second as `other`.

    Raises:
        EvaluationError: there are no predictions, an id occurs twice, the questions differ, or the answers were marked
            by different versions of the rule.
    """
    # Predictions of a single file, or of a caller, name no version.
    if len(versions := {item.matching_version for item in (*first, *second) if item.matching_version}) > 1:
        raise EvaluationError(
            f"the answers were marked by different versions of the rule ({' and '.join(sorted(versions))}): run the "
            "compact evaluate command of the older ones again, which marks them again and asks no model"
        )
    pairs = _pair_predictions(first, second)
    points = [(one.points(), other.points()) for one, other in pairs]
    only_first = sum(one > other for one, other in points)
    only_second = sum(other > one for one, other in points)
    # Image id -> difference of the points for each of its questions.
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
    """Return the two-sided p-value of McNemar's exact test.

    This is the probability that a fair coin splits the questions that only one model got right at least as unevenly.

    Args:
        only_first (`int`): number of questions that only the first model answered correctly.
        only_second (`int`): number of questions that only the second model answered correctly.
    """
    discordant = only_first + only_second
    # Integer arithmetic: only the last division is rounded, so the result is exact for thousands of questions too.
    # After each pass, `binomial` is C(discordant, index + 1), and `tail` the sum of C(discordant, 0) up to it.
    binomial = tail = 1
    for index in range(min(only_first, only_second)):
        binomial = binomial * (discordant - index) // (index + 1)
        tail += binomial
    # For an even split both tails contain the middle, so their sum exceeds 1.
    return min(1.0, 2 * tail / (1 << discordant))


def _pair_predictions(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    """Return the two models' predictions for each question, having checked that the questions are the same."""
    first_by_id, second_by_id = _index_by_id(first), _index_by_id(second)
    if first_by_id.keys() != second_by_id.keys():
        missing = [
            ("second", sorted(first_by_id.keys() - second_by_id.keys())),
            ("first", sorted(second_by_id.keys() - first_by_id.keys())),
        ]
        message = " and ".join(f"the {label} lacks {len(ids)} ({ids[0]}, ...)" for label, ids in missing if ids)
        raise EvaluationError(
            f"the two models answered different questions: {message}; evaluate both on the same dataset"
        )
    for id, prediction in first_by_id.items():
        if _question_key(prediction) != _question_key(second_by_id[id]):
            raise EvaluationError(
                f"question {id} is not the same for both models ({prediction.question!r} and "
                f"{second_by_id[id].question!r}, or its image or answers differ); evaluate both on the same dataset"
            )
    if not first_by_id:
        raise EvaluationError("neither model answered any question; there is nothing to compare")
    return [(prediction, second_by_id[id]) for id, prediction in first_by_id.items()]


def _index_by_id(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    by_id: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.id in by_id:
            raise EvaluationError(f"a model has two answers to question {prediction.id}; give one answer per question")
        by_id[prediction.id] = prediction
    return by_id


def _question_key(prediction: Prediction) -> tuple[str, str, tuple[str, ...]]:
    return prediction.question, prediction.picture, prediction.answers


def _bootstrap(image_totals: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return the 95% interval of the mean difference, from (sum of differences, number of questions) per image."""
    import numpy as np

    if len(image_totals) < 2:
        return -1.0, 1.0
    # Images with equal totals are interchangeable, so it is enough to draw how often each distinct total occurs:
    # unique_totals (totals, 2), draws (resamples, totals).
    unique_totals, counts = np.unique(np.array(image_totals), axis=0, return_counts=True)
    draws = np.random.default_rng(_SEED).multinomial(len(image_totals), counts / len(image_totals), size=RESAMPLES)
    # (resamples,). Ratios of sums, because resamples differ in their number of questions.
    differences = (draws @ unique_totals[:, 0]) / (draws @ unique_totals[:, 1])
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(low), float(high)
