"""Estimates the training data, steps and time of an ablation without running it.

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
    read_contents,
    read_result,
    select_training_data,
)
from compact_hf.training.recipes import read_recipe


@dataclass(frozen=True, slots=True)
class VariantForecast:
    """The estimated training data and steps of one variant.

    Attributes:
        variant (`str`): name of the variant.
        data (`TrainingData`): compositional training data, without instruction rows.
        steps (`int`): approximate number of optimizer steps per unit. Instruction rows are not included, because the
            instruction file is not read.
    """

    variant: str
    data: TrainingData
    steps: int


@dataclass(frozen=True, slots=True)
class AblationForecast:
    """The estimated work of an ablation.

    Attributes:
        units (`int`): number of models to train: variants times seeds.
        finished (`int`): number of finished units.
        arms (`tuple[VariantForecast, ...]`): one per variant; empty if the plan's scenes have no questions yet.
        seconds_left (`float`, *optional*): estimated time for the remaining units, from the speed of the finished ones;
            None if no unit was finished in one call.
    """

    units: int
    finished: int
    arms: tuple[VariantForecast, ...]
    seconds_left: float | None


def forecast_ablation(plan: str | Path, out: str | Path) -> AblationForecast:
    """Return the estimated work of `ablate` with the same arguments.

    Args:
        plan (`str | Path`): a YAML file or the name of a shipped plan.
        out (`str | Path`): the output directory of the ablation.

    Raises:
        UsageError: the plan is invalid, or the recipe or a run was not found.
        ReleaseError: the run has fewer questions than a variant needs.
        JournalError: a run cannot be read.
        TuningError: the recipe cannot be read.
    """
    loaded_plan, directory = read_plan(plan), Path(out)
    units = list_units(loaded_plan, directory)
    results = {unit: result for unit in units if (result := read_result(unit))}
    # The scenes are not drawn yet, so there is nothing to count; an unknown recipe is still reported.
    if loaded_plan.scenes is not None and not has_complete_runs(directory):
        read_recipe(loaded_plan.recipe)
        return AblationForecast(len(units), len(results), (), None)
    runs = [Path(run) for run in loaded_plan.runs] or [directory / RUN_DIRECTORY]
    catalog = read_contents(loaded_plan, runs).catalog
    check_question_counts(loaded_plan, catalog)
    return AblationForecast(
        len(units),
        len(results),
        forecast_variants(loaded_plan, catalog),
        estimate_seconds_left(loaded_plan, catalog, units, results),
    )


def forecast_variants(plan: Plan, catalog: Catalog) -> tuple[VariantForecast, ...]:
    """Return the estimate for each variant, with the plan's first seed."""
    settings: dict[str, Any] = {**read_recipe(plan.recipe), **plan.settings}
    forecasts = []
    for name, variant in plan.variants.items():
        data = select_training_data(catalog, variant.selection(plan.seeds[0]))
        forecasts.append(VariantForecast(name, data, _count_steps(settings, data.pictures)))
    return tuple(forecasts)


def estimate_seconds_left(
    plan: Plan, catalog: Catalog, units: Collection[Unit], results: Mapping[Unit, UnitResult]
) -> float | None:
    """Return the estimated seconds for unfinished units, None if no unit was finished in one call.

    Training time is estimated from the number of steps; all other work takes the average time of the units that were
    finished in one call.
    """
    unit_results = results.values()
    other_seconds = [result.other_seconds for result in unit_results if result.other_seconds is not None]
    if not other_seconds:
        return None
    # Seconds; long units have more weight, because they have more steps.
    seconds_per_step = sum(result.seconds for result in unit_results) / max(
        1, sum(result.steps for result in unit_results)
    )
    # Seconds per unit.
    overhead = sum(other_seconds) / len(other_seconds)
    steps = {variant_forecast.variant: variant_forecast.steps for variant_forecast in forecast_variants(plan, catalog)}
    return sum(seconds_per_step * steps[unit.variant] + overhead for unit in units if unit not in results)


def format_time_left(seconds: float | None) -> str:
    """Return a text such as `about 12 minutes left`; empty if the time is unknown."""
    if seconds is None:
        return ""
    if seconds < 90 * 60:
        return f"about {math.ceil(seconds / 60)} minutes left"
    return f"about {seconds / 3600:.1f} hours left"


def _count_steps(settings: Mapping[str, Any], row_count: int) -> int:
    """Return the number of optimizer steps; settings that are not given have the defaults of TRL's trainer."""

    def read_number(name: str, default: float) -> float:
        return float(settings.get(name, default))

    # As in TRL, a positive `max_steps` replaces the number of epochs.
    if (max_steps := read_number("max_steps", -1)) > 0:
        return int(max_steps)
    rows_per_step = read_number("per_device_train_batch_size", 8) * read_number("gradient_accumulation_steps", 1)
    # An epoch ends with an incomplete step if the rows cannot be divided evenly.
    return math.ceil(
        math.ceil(row_count / (rows_per_step * read_number("num_processes", 1))) * read_number("num_train_epochs", 3)
    )
