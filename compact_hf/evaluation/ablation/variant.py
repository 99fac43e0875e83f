"""One variant and seed of an ablation: make its data, tune a model on it, and record it in the ablation's directory.

DIR/plan.json                     what decides the outcome: of the plan all but seeds and baseline, and hashes of
                                  what it starts from
DIR/releases/VARIANT-seed-S/      its data
DIR/models/VARIANT-seed-S/        the model; logs/VARIANT-seed-S.log, the output of training
DIR/units/VARIANT-seed-S.json     written last: the unit is finished
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.assemble import assemble
from compact_hf.errors import ReleaseError
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.compact.sampling import Combination
from compact_hf.methods.compact.selection import Selection, count_by_k, group_questions, select_questions
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import from_json, is_validation_image
from compact_hf.storage import write_atomically
from compact_hf.training.checkpoints import read_finished_record
from compact_hf.training.child_output import parse_progress
from compact_hf.training.recipes import read_recipe
from compact_hf.training.train import tune

RUN_DIRECTORY: Final = "run"
"""Where the run lies that an ablation makes itself."""

QUESTIONS_KEY: Final = "questions"
"""What stands in the mark once it is known what the runs hold."""


def ablation_directory(out: Path) -> OutputDirectory:
    """Return the directory of an ablation, to be claimed or read."""
    return OutputDirectory(out, "an ablation", "plan.json", lock_name="ablation.lock")


def plan_identity(plan: Plan) -> dict[str, Any]:
    """Return what decides the outcome of a unit: of the plan all but seeds and baseline, each variant by itself.

    Raises:
        TuningError: there is no such recipe.
    """
    fields = plan.to_dict()
    variants = {f"variant {name}": fields["variants"][name] for name in plan.variants}
    other_fields = {name: value for name, value in fields.items() if name not in ("seeds", "baseline", "variants")}
    return {**other_fields, "settings": {**read_recipe(plan.recipe), **plan.settings}, **variants}


def bind_to_plan(directory: OutputDirectory, identity: Mapping[str, Any]) -> None:
    """Compare what decides the outcome with what the directory's marker holds, and add what is new to the latter.

    Raises:
        SettingsMismatchError: the directory is that of another ablation.
        UsageError: the marker is damaged, or cannot be written.
    """
    stored = directory.read_settings() or {}
    directory.check(stored, {**stored, **{name: value for name, value in identity.items() if name in stored}})
    directory.write_settings({**stored, **identity})


def list_units(plan: Plan, out: Path) -> tuple[Unit, ...]:
    """Return every variant with the first seed, then with the next: so a part that was stopped can be compared."""
    return tuple(Unit(variant, seed, out) for seed, variant in product(plan.seeds, plan.variants))


def has_complete_runs(out: Path) -> bool:
    """Whether the runs of the ablation in this folder are complete."""
    return QUESTIONS_KEY in (ablation_directory(out).read_settings() or {})


ProgressCallback = Callable[[str, int, int, str], None]
Catalog = Mapping[str, Sequence[Combination]]
"""Image id -> the combination of each question that the runs hold about it."""

_RELEASE_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The compositional training data of a unit.

    Attributes:
        questions (`dict[int, int]`): k -> how many.
        pictures (`int`): about how many images; each is one row.
    """

    questions: dict[int, int]
    pictures: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A variant with a seed, in the folder of an ablation."""

    variant: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        """What its folders and files are called."""
        return f"{self.variant}-seed-{self.seed}"

    @property
    def model_directory(self) -> Path:
        """Where its model lies."""
        return self.out / "models" / self.name

    @property
    def result_path(self) -> Path:
        """What is there when it is finished."""
        return self.out / "units" / f"{self.name}.json"


@dataclass(frozen=True, slots=True)
class UnitResult:
    """A finished unit.

    Attributes:
        variant (`str`), seed (`int`)
        data (`TrainingData`): what it was tuned on, besides instruction rows.
        rows (`int`): all training rows, instruction rows too.
        steps (`int`): optimizer steps.
        loss (`float`, *optional*): in nats per answer token, the last that was logged.
        seconds (`float`): training alone.
        other_seconds (`float`): writing the release and starting up, in the call that finished it.
    """

    variant: str
    seed: int
    data: TrainingData
    rows: int
    steps: int
    loss: float | None
    seconds: float
    other_seconds: float


def select_training_data(catalog: Catalog, selection: Selection) -> TrainingData:
    """Return what a selection of the questions in the runs comes to.

    Raises:
        ReleaseError: there are fewer than it asks for.
    """
    selected_ids = select_questions(catalog, selection)
    training_ids = [image_id for image_id in selected_ids if not is_validation_image(image_id)]
    return TrainingData(dict(sorted(count_by_k(catalog, selected_ids).items())), len(training_ids))


def read_catalog(plan: Plan, runs: Sequence[Path]) -> Catalog:
    """Return what the runs hold; see `Catalog`.

    Raises:
        JournalError: one of the folders is not a run, or cannot be read.
    """
    return group_questions(iter_rows(list(runs), AssemblyOptions(plan.max_similarity)))


def check_question_counts(plan: Plan, catalog: Catalog) -> None:
    """Tell of the first variant that the runs have too few questions for.

    Raises:
        ReleaseError: naming it, and how many are missing.
    """
    for name, variant in plan.variants.items():
        try:
            if not select_training_data(catalog, variant.selection(plan.seeds[0])).pictures:
                raise ReleaseError("the runs hold no question for it")
        except ReleaseError as error:
            raise ReleaseError(f"variant {name}: {error}") from error


def read_result(unit: Unit) -> UnitResult | None:
    """Return what is known of a finished unit, None where it is not finished."""
    return from_json(UnitResult, unit.result_path.read_text(encoding="utf-8")) if unit.result_path.is_file() else None


def run_unit(
    unit: Unit, plan: Plan, *, runs: Sequence[Path], base: str, catalog: Catalog, on_progress: ProgressCallback
) -> UnitResult:
    """Make a unit's release, tune on it, and write its record; what is there already is not made again.

    Raises:
        CompactError: whatever assembling or tuning raises; the same call goes on.
    """
    start = time.monotonic()
    variant = plan.variants[unit.variant]
    selection = variant.selection(unit.seed)
    release = unit.out / "releases" / unit.name
    if not release.exists():  # it is there as a whole or not at all
        on_progress(f"{unit.name}: data", 0, 1, "")
        assemble(
            runs,
            release,
            version=_RELEASE_VERSION,
            max_similarity=plan.max_similarity,
            select=selection,
            instruction=plan.instruction if variant.instruction_fraction else None,
            image_root=plan.image_root if variant.instruction_fraction else None,
            instruction_fraction=variant.instruction_fraction,
            seed=unit.seed,
        )
    overrides = {
        **plan.overrides(),
        "model_name_or_path": base,
        "dataset_name": str(release),
        "output_dir": str(unit.model_directory),
        "seed": str(unit.seed),
    }

    def report_steps(line: str) -> None:
        if steps := parse_progress(line):
            on_progress(f"{unit.name}: steps", *steps, "")

    result = tune(plan.recipe, overrides=overrides, log=unit.out / "logs" / f"{unit.name}.log", on_line=report_steps)
    unit_result = UnitResult(
        unit.variant,
        unit.seed,
        select_training_data(catalog, selection),
        rows=(read_finished_record(unit.model_directory) or {})["rows"],
        steps=result.steps,
        loss=result.loss[-1][1] if result.loss else None,
        seconds=result.seconds,
        other_seconds=round(max(0.0, time.monotonic() - start - result.seconds), 1),
    )
    write_atomically(unit.result_path, json.dumps(asdict(unit_result), indent=1) + "\n")
    return unit_result
