"""What variants of the data do to the score: the predictions of all models in, means by k with intervals out. Pure.

The interval answers: what if it were done again, with other pictures of this kind and other seeds? It is a bootstrap
with two levels: pictures are drawn anew, with all their questions and the same for every model, so that what all find
hard cancels out of a difference; and seeds are drawn anew for each variant. A few seeds show little of what seeds can
do: of the spread between n of them a bootstrap sees (n - 1) / n. So every seed's own figure is given too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.scoring import Prediction, score
from compact_hf.evaluation.significance import Comparison, compare

if TYPE_CHECKING:
    from numpy import ndarray

    Array = ndarray[Any, Any]

Answers = Mapping[str, Mapping[int, Sequence[Prediction]]]
"""Variant -> seed -> the predictions of the model that was tuned on it with it."""

_DRAWS: Final = 4000
_SEED: Final = 0
_LEVELS: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy, 0 to 1, or a difference of two, -1 to 1.

    Attributes:
        mean (`float`): over the seeds.
        low, high (`float`): its 95% interval.
        by_seed (`tuple[float, ...]`): in the order of the plan's seeds.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """How every variant does on one set of questions.

    Attributes:
        label (`str`): `all`, or `k = 2`.
        n, pictures (`int`): how many questions, about how many pictures.
        majority (`float`): share that for each k the most frequent answer gets right, in hindsight.
        accuracy (`dict[str, Estimate]`): of each variant.
        difference (`dict[str, Estimate]`): of each variant but the baseline: its accuracy minus the baseline's. By
            seed, those of the same seed are subtracted.
    """

    label: str
    n: int
    pictures: int
    majority: float
    accuracy: dict[str, Estimate]
    difference: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Pair:
    """A variant's model beside the baseline's of the same seed: what holds for these two models, whatever others do."""

    variant: str
    seed: int
    comparison: Comparison


def pairs(answers: Answers, *, baseline: str) -> tuple[Pair, ...]:
    """Compare each variant with the baseline, seed by seed.

    Raises:
        EvaluationError: the models were not asked the same questions.
    """
    return tuple(
        Pair(variant, seed, compare(found, answers[baseline][seed]))
        for variant, of in answers.items()
        for seed, found in of.items()
        if variant != baseline
    )


def compared(answers: Answers, *, baseline: str) -> tuple[Line, ...]:
    """Return one line for all questions and one for each k.

    Raises:
        EvaluationError: the models were not asked the same questions.
    """
    asked = _asked(answers)
    groups = {"all": list(range(len(asked)))}
    for k in sorted({one.k for one in asked if one.k is not None}):
        groups[f"k = {k}"] = [at for at, one in enumerate(asked) if one.k == k]
    return tuple(_line(label, at, answers, asked, baseline) for label, at in groups.items())


def _asked(answers: Answers) -> Sequence[Prediction]:
    """Return any model's predictions, having seen that all have the same questions in the same order."""
    models = [(f"{variant}, seed {seed}", found) for variant, of in answers.items() for seed, found in of.items()]
    (first_name, first), *others = models
    for name, found in others:
        if [one.id for one in found] != [one.id for one in first]:
            raise EvaluationError(
                f"{name} and {first_name} were asked different questions, so nothing can be compared; "
                "judge both on the same data set"
            )
    return first


def _line(label: str, at: Sequence[int], answers: Answers, asked: Sequence[Prediction], baseline: str) -> Line:
    import numpy as np

    questions = [asked[index] for index in at]
    pictures = sorted({one.picture for one in questions})
    place = {picture: index for index, picture in enumerate(pictures)}
    where = np.array([place[one.picture] for one in questions])
    sizes = np.bincount(where, minlength=len(pictures))
    # How often each draw has each picture: [draws, pictures].
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(len(pictures), np.full(len(pictures), 1 / len(pictures)), size=_DRAWS)
    shares: dict[str, tuple[float, ...]] = {}
    drawn: dict[str, Array] = {}
    for variant, of in answers.items():
        right = np.array([[found[index].right for index in at] for found in of.values()], dtype=float)
        shares[variant] = tuple(float(share) for share in right.mean(axis=1))
        by_picture = np.stack([np.bincount(where, weights=one, minlength=len(pictures)) for one in right])
        by_seed = weights @ by_picture.T / (weights @ sizes)[:, None]  # [draws, seeds]
        seeds = rng.integers(len(of), size=(_DRAWS, len(of)))
        drawn[variant] = np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1)
    accuracy = {variant: _estimate(shares[variant], drawn[variant]) for variant in answers}
    difference = {
        variant: _estimate(
            [own - other for own, other in zip(shares[variant], shares[baseline], strict=True)],
            drawn[variant] - drawn[baseline],
        )
        for variant in answers
        if variant != baseline
    }
    majority = score(questions, model="", dataset=label).overall.majority.accuracy
    return Line(label, len(questions), len(pictures), majority, accuracy, difference)


def _estimate(by_seed: Iterable[float], drawn: Array) -> Estimate:
    import numpy as np

    shares = tuple(by_seed)
    low, high = (float(bound) for bound in np.percentile(drawn, _LEVELS))
    return Estimate(sum(shares) / len(shares), low, high, shares)
