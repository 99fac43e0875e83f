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
    RUN_DIRECTORY,
    Catalog,
    TrainingData,
    Unit,
    UnitResult,
    check_question_counts,
    has_complete_runs,
    list_units,
    read_catalog,
    read_result,
    select_training_data,
)
from compact_hf.training.recipes import read_recipe


@dataclass(frozen=True, slots=True)
class VariantForecast:
    """What one variant takes.

    Attributes:
        variant (`str`)
        data (`TrainingData`): to train on, instruction rows besides.
        steps (`int`): optimizer steps of one unit, about: of instruction rows nobody has counted the file.
    """

    variant: str
    data: TrainingData
    steps: int


@dataclass(frozen=True, slots=True)
class AblationForecast:
    """What an ablation will take.

    Attributes:
        units (`int`): variants times seeds, a model each.
        finished (`int`): how many of them are there already.
        arms (`tuple[VariantForecast, ...]`): empty where the scenes of the plan have not been asked about yet.
        seconds_left (`float`, *optional*): of the units that are left, by the pace of those that are finished; None
            where none is.
    """

    units: int
    finished: int
    arms: tuple[VariantForecast, ...]
    seconds_left: float | None


def forecast_ablation(plan: str | Path, out: str | Path) -> AblationForecast:
    """Return what `ablate` with the same arguments will take.

    Raises:
        UsageError: the plan is wrong.
        ReleaseError: the run has fewer questions than a variant asks for.
        JournalError: there is no such run.
        TuningError: there is no such recipe.
    """
    loaded_plan, directory = read_plan(plan), Path(out)
    units = list_units(loaded_plan, directory)
    results = {unit: result for unit in units if (result := read_result(unit))}
    if loaded_plan.scenes is not None and not has_complete_runs(directory):
        read_recipe(loaded_plan.recipe)
        return AblationForecast(len(units), len(results), (), None)
    runs = [Path(run) for run in loaded_plan.runs] or [directory / RUN_DIRECTORY]
    catalog = read_catalog(loaded_plan, runs)
    check_question_counts(loaded_plan, catalog)
    return AblationForecast(
        len(units),
        len(results),
        forecast_variants(loaded_plan, catalog),
        estimate_seconds_left(loaded_plan, catalog, units, results),
    )


def forecast_variants(plan: Plan, catalog: Catalog) -> tuple[VariantForecast, ...]:
    """Return what each variant takes, with the first seed."""
    settings: dict[str, Any] = {**read_recipe(plan.recipe), **plan.settings}
    forecasts = []
    for name, variant in plan.variants.items():
        data = select_training_data(catalog, variant.selection(plan.seeds[0]))
        forecasts.append(VariantForecast(name, data, _count_steps(settings, data.pictures)))
    return tuple(forecasts)


def estimate_seconds_left(
    plan: Plan, catalog: Catalog, units: Collection[Unit], results: Mapping[Unit, UnitResult]
) -> float | None:
    """Return how long the units take that are not finished: training by its steps, the rest as on average so far."""
    if not results:
        return None
    unit_results = results.values()
    seconds_per_step = sum(result.seconds for result in unit_results) / max(
        1, sum(result.steps for result in unit_results)
    )
    overhead = sum(result.other_seconds for result in unit_results) / len(unit_results)
    steps = {variant_forecast.variant: variant_forecast.steps for variant_forecast in forecast_variants(plan, catalog)}
    return sum(seconds_per_step * steps[unit.variant] + overhead for unit in units if unit not in results)


def format_time_left(seconds: float | None) -> str:
    """Return `about 12 minutes left`, empty where nobody knows."""
    if seconds is None:
        return ""
    if seconds < 90 * 60:
        return f"about {math.ceil(seconds / 60)} minutes left"
    return f"about {seconds / 3600:.1f} hours left"


def _count_steps(settings: Mapping[str, Any], row_count: int) -> int:
    def read_number(name: str, default: float) -> float:
        return float(settings.get(name, default))

    if (max_steps := read_number("max_steps", -1)) > 0:
        return int(max_steps)
    rows_per_step = read_number("per_device_train_batch_size", 8) * read_number("gradient_accumulation_steps", 1)
    return math.ceil(
        math.ceil(row_count / (rows_per_step * read_number("num_processes", 1))) * read_number("num_train_epochs", 3)
    )
