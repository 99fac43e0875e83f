"""What an ablation will take: a plan in, its units with their questions, steps and time out; nothing is made.

compact ablate PLAN.yaml --out DIR --dry-run
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_hf.evaluation.ablation.plan import Plan, read_plan
from compact_hf.evaluation.ablation.variant import (
    RUN,
    Catalog,
    Data,
    Done,
    Unit,
    catalog_of,
    data_of,
    done,
    is_counted,
    refuse_too_few,
    units_of,
)
from compact_hf.training.recipes import read_recipe


@dataclass(frozen=True, slots=True)
class Arm:
    """What one variant takes.

    Attributes:
        variant (`str`)
        data (`Data`): to train on, instruction rows besides.
        steps (`int`): optimizer steps of one unit, about: of instruction rows nobody has counted the file.
    """

    variant: str
    data: Data
    steps: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an ablation will take.

    Attributes:
        units (`int`): variants times seeds, a model each.
        finished (`int`): how many of them are there already.
        arms (`tuple[Arm, ...]`): empty where the scenes of the plan have not been asked about yet.
        seconds_left (`float`, *optional*): of the units that are left, by the pace of those that are finished; None
            where none is.
    """

    units: int
    finished: int
    arms: tuple[Arm, ...]
    seconds_left: float | None


def forecast(plan: str | Path, out: str | Path) -> Forecast:
    """Return what `ablate` with the same arguments will take.

    Raises:
        UsageError: the plan is wrong.
        ReleaseError: the run has fewer questions than a variant asks for.
        JournalError: there is no such run.
        TuningError: there is no such recipe.
    """
    asked, folder = read_plan(plan), Path(out)
    units = units_of(asked, folder)
    finished = {unit: found for unit in units if (found := done(unit))}
    if asked.scenes is not None and not is_counted(folder):
        read_recipe(asked.recipe)
        return Forecast(len(units), len(finished), (), None)
    runs = [Path(run) for run in asked.runs] or [folder / RUN]
    catalog = catalog_of(asked, runs)
    refuse_too_few(asked, catalog)
    return Forecast(len(units), len(finished), arms_of(asked, catalog), seconds_left(asked, catalog, units, finished))


def arms_of(plan: Plan, catalog: Catalog) -> tuple[Arm, ...]:
    """Return what each variant takes, with the first seed."""
    settings: dict[str, Any] = {**read_recipe(plan.recipe), **plan.settings}
    found = []
    for name, variant in plan.variants.items():
        data = data_of(catalog, variant.selection(plan.seeds[0]))
        found.append(Arm(name, data, _steps(settings, data.pictures)))
    return tuple(found)


def seconds_left(plan: Plan, catalog: Catalog, units: Collection[Unit], finished: Mapping[Unit, Done]) -> float | None:
    """Return how long the units take that are not finished: training by its steps, the rest as on average so far."""
    if not finished:
        return None
    there = finished.values()
    a_step = sum(one.seconds for one in there) / max(1, sum(one.steps for one in there))
    besides = sum(one.other_seconds for one in there) / len(there)
    steps = {arm.variant: arm.steps for arm in arms_of(plan, catalog)}
    return sum(a_step * steps[unit.variant] + besides for unit in units if unit not in finished)


def spoken_time(seconds: float | None) -> str:
    """Return `about 12 minutes left`, empty where nobody knows."""
    if seconds is None:
        return ""
    if seconds < 90 * 60:
        return f"about {math.ceil(seconds / 60)} minutes left"
    return f"about {seconds / 3600:.1f} hours left"


def _steps(settings: Mapping[str, Any], rows: int) -> int:
    def number(name: str, default: float) -> float:
        return float(settings.get(name, default))

    if (most := number("max_steps", -1)) > 0:
        return int(most)
    a_step = number("per_device_train_batch_size", 8) * number("gradient_accumulation_steps", 1)
    return math.ceil(math.ceil(rows / (a_step * number("num_processes", 1))) * number("num_train_epochs", 3))
