"""Runs an ablation: tunes a model on each variant of a run's data with each seed, and compares their scores.

    compact ablate PLAN.yaml --out DIR

    DIR/plan.json                 settings that the results depend on
    DIR/run/, base/               the run and the base, if the plan makes them instead of naming existing ones
    DIR/releases/, models/, logs/, units/     one entry per variant and seed, see variant.py
    DIR/judged/                   answers of all models, as written by `compact evaluate`
    DIR/ablation.json, .md, .html, .png       the tables and the figure

No teacher is asked. Running the same command again resumes an interrupted ablation. A unit (a variant with a seed) is
not repeated once it is finished, so seeds and variants can be added to a plan later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.ablation.forecast import estimate_seconds_left, format_time_left
from compact_hf.evaluation.ablation.plan import Plan, read_plan
from compact_hf.evaluation.ablation.results import Ablation, compare_seeds, compare_variants, write_tables
from compact_hf.evaluation.ablation.variant import (
    RUN_DIRECTORY,
    ProgressCallback,
    Unit,
    UnitResult,
    ablation_directory,
    bind_to_contents,
    bind_to_plan,
    check_question_counts,
    list_units,
    plan_identity,
    read_contents,
    read_result,
    run_unit,
)
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.model_files import model_identity
from compact_hf.evaluation.plan import plan_evaluation
from compact_hf.evaluation.predict import DEFAULT_BATCH_SIZE, read_predictions
from compact_hf.evaluation.results_directory import read_entries
from compact_hf.evaluation.task import DEFAULT_TASK
from compact_hf.evaluation.tasks.compact.records import CompactPrediction
from compact_hf.methods.generate import generate
from compact_hf.models.llava.shipped import ALIGNED, copy_aligned
from compact_hf.output_directory import OutputDirectory
from compact_hf.runs.run import RunProgress
from compact_hf.storage import translate_disk_errors
from compact_hf.wording import format_count

_EVALUATION_DIRECTORY: Final = "judged"


def ablate(
    plan: str | Path,
    out: str | Path,
    *,
    on_progress: ProgressCallback = lambda stage, done, total, note: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> Ablation:
    """Build every variant of a run's data, tune a model on it with every seed, and compare the models' answers.

    Args:
        plan (`str | Path`): a YAML file or the name of a shipped plan.
        out (`str | Path`): a directory that is new or empty, or contains this ablation.
        on_progress (`ProgressCallback`, *optional*): called with (stage, done, total, note) as work proceeds.
        on_note (`Callable[[str], None]`, *optional*): called with a line about what cannot be compared with an earlier
            call.

    Raises:
        UsageError: the plan is invalid, or `out` contains another ablation, one with other contents of runs, base or
            instruction file, or other files.
        ReleaseError: the run has fewer questions than a variant needs; raised before any training.
        StoppedEarly: Ctrl-C; the same call resumes.
        CompactError: generating, assembling, tuning or evaluating failed; the same call resumes there.
    """
    loaded_plan, directory = read_plan(plan), ablation_directory(Path(out))
    # Before anything is written: a recipe that does not exist is reported here.
    identity = plan_identity(loaded_plan)
    directory.claim()
    with directory.lock():
        bind_to_plan(directory, identity)
        with translate_disk_errors(EvaluationError, out, "free disk space there and run the same command again"):
            ablation = _run_ablation(loaded_plan, directory, on_progress, on_note)
        write_tables(ablation, directory.path)
    return ablation


def _run_ablation(
    plan: Plan, directory: OutputDirectory, on_progress: ProgressCallback, on_note: Callable[[str], None]
) -> Ablation:
    """Run all units that are not finished, evaluate all models, and return the results."""
    out = directory.path
    runs = _prepare_runs(plan, out, on_progress)
    contents = read_contents(plan, runs)
    catalog = contents.catalog
    # Reported before the first training, which can take hours.
    check_question_counts(plan, catalog)
    base = _prepare_base(plan, out)
    base_identity = model_identity(base)
    # Units with more questions, or from another base, could not be compared with finished ones.
    bind_to_contents(directory, plan, contents, base_identity=base_identity, on_note=on_note)
    units = list_units(plan, out)
    results: dict[Unit, UnitResult] = {unit: result for unit in units if (result := read_result(unit))}
    if len(results) < len(units) and (out / _EVALUATION_DIRECTORY).exists():
        # Other questions than those that finished models answered are refused before further models are tuned.
        plan_evaluation(
            base,
            plan.dataset,
            out / _EVALUATION_DIRECTORY,
            split=plan.split,
            task=DEFAULT_TASK,
            batch_size=DEFAULT_BATCH_SIZE,
        )
    for unit in units:
        # The estimate is made again before each unit, from the times of all finished ones.
        on_progress(
            "units", len(results), len(units), format_time_left(estimate_seconds_left(plan, catalog, units, results))
        )
        if unit not in results:
            results[unit] = run_unit(unit, plan, runs=runs, base=base, catalog=catalog, on_progress=on_progress)
    on_progress("units", len(units), len(units), "")
    evaluation = evaluate(
        [unit.model_directory for unit in units],
        plan.dataset,
        out / _EVALUATION_DIRECTORY,
        split=plan.split,
        task=DEFAULT_TASK,
        on_progress=lambda count, total: on_progress("answers", count, total, ""),
        on_note=on_note,
    )
    predictions = _read_predictions(units, out / _EVALUATION_DIRECTORY)
    return Ablation(
        plan,
        evaluation.dataset,
        base_identity,
        tuple(results[unit] for unit in units),
        lines=compare_variants(predictions, baseline=plan.baseline),
        pairs=compare_seeds(predictions, baseline=plan.baseline),
        matching_version=evaluation.matching_version,
    )


def _prepare_runs(plan: Plan, out: Path, on_progress: ProgressCallback) -> list[Path]:
    """Return the directories of the plan's runs, making a run about scenes if the plan asks for one."""
    if plan.scenes is None:
        return [Path(run) for run in plan.runs]

    def show_progress(progress: RunProgress) -> None:
        on_progress("images", progress.finished, progress.images, format_count(progress.accepted, "question"))

    generate(f"scenes:{plan.scenes}", out / RUN_DIRECTORY, on_progress=show_progress)
    return [out / RUN_DIRECTORY]


def _prepare_base(plan: Plan, out: Path) -> str:
    # A local directory named like the shipped model takes precedence.
    if plan.base != ALIGNED or Path(plan.base).exists():
        return plan.base
    base = out / "base"
    if not base.exists():
        copy_aligned(base)
    return str(base)


def _read_predictions(units: Sequence[Unit], directory: Path) -> dict[str, dict[int, list[CompactPrediction]]]:
    """Return variant -> seed -> predictions. Models are matched to evaluation subdirectories by their files' hash."""
    slug_by_identity = {entry.identity: slug for slug, entry in read_entries(directory).items()}
    predictions: dict[str, dict[int, list[CompactPrediction]]] = {}
    for unit in units:
        unit_predictions = read_predictions(directory / slug_by_identity[model_identity(str(unit.model_directory))])
        predictions.setdefault(unit.variant, {})[unit.seed] = cast(list[CompactPrediction], unit_predictions)
    return predictions
