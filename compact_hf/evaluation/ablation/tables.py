"""What an ablation found, for people: ablation.json, ablation.md, ablation.png and ablation.html."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.ablation.outcome import Ablation
from compact_hf.evaluation.ablation.results import Estimate
from compact_hf.evaluation.ablation.variant import Done, write_at_once
from compact_hf.reports.ablation_page import (
    AblationReport,
    Arm,
    Spread,
    VariantLine,
    accuracy_of_variants,
    render_ablation,
)

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
