"""What an ablation found: means by k with intervals, as ablation.json, ablation.md, ablation.png and ablation.html.

The interval answers: what if it were done again, with other images of this kind and other seeds? It is a bootstrap with
two levels: images are drawn anew, with all their questions and the same for every model, so that what all find hard
cancels out of a difference; and seeds are drawn anew for each variant. A few seeds show little of what seeds can do: of
the spread between n of them a bootstrap sees (n - 1) / n. So every seed's own figure is given too.

    {"schema": 1,
     "plan": PLAN,                    the YAML's content
     "dataset": "...",                what all models were asked, as `compact evaluate` calls it
     "base_identity": "0123...",      a hash of the files of the model that all were tuned from
     "units": [UNIT, ...],            the fields of `variant.Done`
     "lines": [LINE, ...]}            the fields of `Line`: all questions first, then each k
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.evaluation.ablation.variant import Done, write_at_once
from compact_hf.evaluation.scoring import Prediction, score
from compact_hf.evaluation.significance import Comparison, compare
from compact_hf.reports.ablation_page import (
    AblationReport,
    Arm,
    Spread,
    VariantLine,
    accuracy_of_variants,
    render_ablation,
)

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


SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Ablation:
    """What an ablation found.

    Attributes:
        plan (`Plan`): what was done.
        dataset (`str`): what all models were asked, as `compact evaluate` calls it.
        base_identity (`str`): a hash of the files of the model that all were tuned from.
        units (`tuple[Done, ...]`): by variant and seed, in the plan's order.
        lines (`tuple[Line, ...]`): all questions, then each k.
        pairs (`tuple[Pair, ...]`): each variant's model with the baseline's, seed by seed.
    """

    plan: Plan
    dataset: str
    base_identity: str
    units: tuple[Done, ...]
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]

    def units_of(self, variant: str) -> tuple[Done, ...]:
        """Return a variant's units, one for each seed."""
        return tuple(unit for unit in self.units if unit.variant == variant)

    def to_json(self) -> dict[str, Any]:
        """Return it as ablation.json holds it."""
        return {
            "schema": SCHEMA,
            "plan": self.plan.told(),
            "dataset": self.dataset,
            "base_identity": self.base_identity,
            "units": [asdict(unit) for unit in self.units],
            "lines": [asdict(line) for line in self.lines],
            "pairs": [asdict(pair) for pair in self.pairs],
        }


_SMALLEST: Final = 0.001

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def write_tables(found: Ablation, out: Path) -> None:
    """Write all four into the folder `out`.

    Raises:
        EvaluationError: it cannot be written.
    """
    report = report_of(found)
    try:
        write_at_once(out / "ablation.json", json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
        write_at_once(out / "ablation.md", markdown(found))
        write_at_once(out / "ablation.html", render_ablation(report))
        (out / "ablation.png").write_bytes(accuracy_of_variants(report).png())
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror}); the same command goes on") from error


def markdown(found: Ablation) -> str:
    """Return the tables: what each variant was tuned on, how it does by k, and what that is against the baseline."""
    others = [name for name in found.plan.variants if name != found.plan.baseline]
    arms = [(arm.variant, arm.questions, arm.pictures, arm.rows, arm.steps, arm.loss) for arm in report_of(found).arms]
    parts = [
        _table(("variant", "training questions", "pictures", "rows", "steps", "last loss, by seed"), arms),
        _table(*accuracy_table(found)),
    ]
    if others:
        differences = [
            (line.label, *(_points(one.mean, one.low, one.high) for one in line.difference.values()))
            for line in found.lines
        ]
        parts.append(_table(("points", *(f"{name} minus {found.plan.baseline}" for name in others)), differences))
        seeds = [
            (
                f"{pair.variant} minus {found.plan.baseline}",
                str(pair.seed),
                _points(pair.comparison.difference, pair.comparison.low, pair.comparison.high),
                f"{pair.comparison.p:.3f}" if pair.comparison.p >= _SMALLEST else f"< {_SMALLEST}",
            )
            for pair in found.pairs
        ]
        parts.append(_table(("on all questions", "seed", "points", "p (McNemar)"), seeds))
    return "\n".join(parts)


def accuracy_table(found: Ablation) -> Table:
    """Return head and rows: each set of questions, and each variant's mean accuracy with its 95% interval."""
    rows = [
        (line.label, f"{line.n:,}", f"{line.majority:.3f}", *(_share(one) for one in line.accuracy.values()))
        for line in found.lines
    ]
    return ("questions", "n", "most frequent answer", *found.plan.variants), rows


def report_of(found: Ablation) -> AblationReport:
    """Return what the page and the figure show."""
    arms = []
    for name in found.plan.variants:
        units = found.units_of(name)
        losses = " / ".join("" if unit.loss is None else f"{unit.loss:.2f}" for unit in units)
        pictures, rows, steps = (
            _span(count) for count in zip(*((unit.data.pictures, unit.rows, unit.steps) for unit in units), strict=True)
        )
        arms.append(Arm(name, _questions(units), pictures, rows, steps, losses))
    lines = tuple(
        VariantLine(
            line.label,
            line.n,
            line.majority,
            {name: _spread(one) for name, one in line.accuracy.items()},
            {name: _spread(one) for name, one in line.difference.items()},
        )
        for line in found.lines
    )
    return AblationReport(
        dataset=found.dataset,
        base=found.plan.base,
        recipe=found.plan.recipe,
        pictures=found.lines[0].pictures,
        seeds=found.plan.seeds,
        baseline=found.plan.baseline,
        arms=tuple(arms),
        lines=lines,
    )


def _spread(one: Estimate) -> Spread:
    return Spread(one.mean, one.low, one.high, one.by_seed)


def _questions(units: Sequence[Done]) -> str:
    """Return how many questions, and of which k, from which seed's to which."""
    ks = sorted({k for unit in units for k in unit.data.questions})
    by_k = ", ".join(f"{_span(unit.data.questions.get(k, 0) for unit in units)} of k = {k}" for k in ks)
    return f"{_span(sum(unit.data.questions.values()) for unit in units)} ({by_k})"


def _span(counts: Iterable[int]) -> str:
    """Return the number that all seeds have in common, or from which to which they go."""
    found = sorted(counts)
    least, most = found[0], found[-1]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _share(one: Estimate) -> str:
    return f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})"


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
