"""Runs one unit of an ablation (a variant with a seed): makes its data, tunes a model and records the result.

DIR/plan.json                     settings that the results depend on: the plan without seeds and baseline, and hashes
                                  of the runs' rows, the base and the instruction file
DIR/releases/VARIANT-seed-S/      the dataset
DIR/models/VARIANT-seed-S/        the model; logs/VARIANT-seed-S.log has the output of training
DIR/units/VARIANT-seed-S.json     the result; written last, so the unit is finished if it exists
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.assemble import assemble
from compact_hf.errors import ContentsMismatchError, ReleaseError, TuningError, UsageError
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.compact.sampling import Combination
from compact_hf.methods.compact.selection import Selection, count_by_k, group_questions, select_questions
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import Reject, Row, digest, from_json, is_validation_image
from compact_hf.regular_files import hash_regular
from compact_hf.storage import translate_disk_errors, write_atomically
from compact_hf.training.checkpoints import changes_model, read_finished_record
from compact_hf.training.child_output import parse_progress
from compact_hf.training.recipes import read_recipe
from compact_hf.training.train import tune

RUN_DIRECTORY: Final = "run"
"""Subdirectory for the run, if the ablation makes it itself."""

QUESTIONS_KEY: Final = "questions"
"""Key in plan.json with the hash of the runs' combinations; it is set once the runs are complete."""
_ROWS_KEY: Final = "rows of the runs"
_CONTENTS: Final = {
    QUESTIONS_KEY: "the runs",
    _ROWS_KEY: "the runs",
    "files of the base": "the base",
    "instruction file": "the instruction file",
}
"""Keys in plan.json that are hashes of contents -> name of what was hashed."""


def ablation_directory(out: Path) -> OutputDirectory:
    """Return `out` as the output directory of an ablation, ready to be claimed or read."""
    return OutputDirectory(out, "an ablation", "plan.json", lock_name="ablation.lock")


def plan_identity(plan: Plan) -> dict[str, Any]:
    """Return the settings that the result of a unit depends on: the plan without seeds and baseline.

    Each variant has its own key, so that variants can be added later.

    Raises:
        UsageError: the recipe was not found.
        TuningError: the recipe cannot be read.
    """
    fields = plan.to_dict()
    variants = {f"variant {name}": fields["variants"][name] for name in plan.variants}
    other_fields = {name: value for name, value in fields.items() if name not in ("seeds", "baseline", "variants")}
    # The recipe's settings are recorded, not only its name, because a recipe file can be edited.
    return {**other_fields, "settings": {**read_recipe(plan.recipe), **plan.settings}, **variants}


def bind_to_plan(directory: OutputDirectory, identity: Mapping[str, Any]) -> None:
    """Compare settings with those recorded in plan.json, and record the ones that are new.

    Raises:
        SettingsMismatchError: the directory belongs to another ablation.
        UsageError: plan.json is damaged, or cannot be written.
    """
    stored = directory.read_settings() or {}
    # Only keys that are stored already can differ: variants may be added, and removed from the plan.
    known = {name: value for name, value in identity.items() if name in stored}
    directory.check(_select_what_matters(stored), _select_what_matters({**stored, **known}))
    directory.write_settings({**stored, **{name: value for name, value in identity.items() if name not in stored}})


def _select_what_matters(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity without settings that do not change the trained models, such as those of logging."""
    settings = {key: value for key, value in identity.get("settings", {}).items() if changes_model(key)}
    return {**identity, "settings": settings}


def bind_to_contents(
    directory: OutputDirectory, plan: Plan, contents: RunContents, *, base_identity: str, on_note: Callable[[str], None]
) -> None:
    """Compare the contents that finished units depend on with those recorded in plan.json, or record them.

    Args:
        directory (`OutputDirectory`): the output directory of the ablation.
        plan (`Plan`): the plan of the ablation.
        contents (`RunContents`): the contents of the runs.
        base_identity (`str`): hash of the files of the base.
        on_note (`Callable[[str], None]`): called with a line about what cannot be compared.

    Raises:
        ContentsMismatchError: the directory was started with other contents.
        UsageError: plan.json is damaged or cannot be written, or the instruction file cannot be read.
    """
    current = {
        QUESTIONS_KEY: digest(sorted(contents.catalog.items())),
        _ROWS_KEY: contents.rows_identity,
        "files of the base": base_identity,
    }
    if plan.instruction is not None:
        with translate_disk_errors(UsageError, plan.instruction, "make it readable and retry", is_reading=True):
            current["instruction file"] = hash_regular(plan.instruction)
    stored = directory.read_settings() or {}
    if changes := {
        _CONTENTS[key]: f"hash {stored[key]}, now {value}"
        for key, value in current.items()
        if stored.get(key, value) != value
    }:
        raise ContentsMismatchError(str(directory.path), changes)
    if QUESTIONS_KEY in stored and _ROWS_KEY not in stored:
        # They stay absent: with which contents the finished units were made is not known.
        unknown = [_CONTENTS[key] for key in current if key not in stored]
        on_note(
            f"the ablation in {directory.path} is of version 0.1.0, which did not record all contents: whether "
            f"{' and '.join(unknown)} changed since cannot be checked"
        )
        return
    # A variant with instruction rows may be added later, and the instruction file with it.
    directory.write_settings({**stored, **current})


def list_units(plan: Plan, out: Path) -> tuple[Unit, ...]:
    """Return the units: all variants with the first seed, then all with the next, so that partial results compare."""
    return tuple(Unit(variant, seed, out) for seed, variant in product(plan.seeds, plan.variants))


def has_complete_runs(out: Path) -> bool:
    """Return whether the runs of the ablation in this directory are complete."""
    return QUESTIONS_KEY in (ablation_directory(out).read_settings() or {})


ProgressCallback = Callable[[str, int, int, str], None]
Catalog = Mapping[str, Sequence[Combination]]
"""Image id -> the capability combination of each question about it in the runs."""

_RELEASE_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The compositional training data of a unit.

    Attributes:
        questions (`dict[int, int]`): k -> number of questions.
        pictures (`int`): number of images; there is one row per image.
    """

    questions: dict[int, int]
    pictures: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A variant with a seed.

    Attributes:
        variant (`str`): name of the variant.
        seed (`int`): the seed.
        out (`Path`): the output directory of the ablation.
    """

    variant: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        """Name of the unit's directories and files."""
        return f"{self.variant}-seed-{self.seed}"

    @property
    def model_directory(self) -> Path:
        """Directory of the unit's model."""
        return self.out / "models" / self.name

    @property
    def result_path(self) -> Path:
        """File with the unit's result; it exists once the unit is finished."""
        return self.out / "units" / f"{self.name}.json"


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The result of a finished unit.

    Attributes:
        variant (`str`): name of the variant.
        seed (`int`): the seed.
        data (`TrainingData`): compositional training data, without instruction rows.
        rows (`int`): number of training rows, including instruction rows.
        steps (`int`): number of optimizer steps.
        loss (`float`, *optional*): last logged training loss, in nats per answer token.
        seconds (`float`): training time.
        other_seconds (`float`, *optional*): time for writing the dataset and starting up; None if an earlier call did
            a part of it.
    """

    variant: str
    seed: int
    data: TrainingData
    rows: int
    steps: int
    loss: float | None
    seconds: float
    other_seconds: float | None


def select_training_data(catalog: Catalog, selection: Selection) -> TrainingData:
    """Return the training data that results from a selection of the runs' questions.

    Raises:
        ReleaseError: the runs have fewer questions than the selection needs.
    """
    selected_ids = select_questions(catalog, selection)
    # Images of the validation split are in the dataset too, but are not trained on.
    training_ids = [image_id for image_id in selected_ids if not is_validation_image(image_id)]
    return TrainingData(dict(sorted(count_by_k(catalog, selected_ids).items())), len(training_ids))


@dataclass(frozen=True, slots=True)
class RunContents:
    """What the runs of an ablation contain.

    Attributes:
        catalog (`Catalog`): the questions by image.
        rows_identity (`str`): hash of the ids of all rows, which are hashes of their images, questions and answers.
    """

    catalog: Catalog
    rows_identity: str


def read_contents(plan: Plan, runs: Sequence[Path]) -> RunContents:
    """Return what the runs contain.

    Raises:
        UsageError: a directory is not a run.
        JournalError: a run cannot be read.
    """
    row_hash = hashlib.sha256()

    def iter_hashed_rows() -> Iterator[Row | Reject]:
        for row in iter_rows(list(runs), AssemblyOptions(plan.max_similarity)):
            if isinstance(row, Row):
                row_hash.update(row.id.encode())
            yield row

    return RunContents(group_questions(iter_hashed_rows()), row_hash.hexdigest()[:32])


def check_question_counts(plan: Plan, catalog: Catalog) -> None:
    """Check that the runs have enough questions for every variant.

    Raises:
        ReleaseError: there are too few; the message names the variant and the number of missing questions.
    """
    for name, variant in plan.variants.items():
        try:
            # The seed only decides which images are chosen, not how many there are to choose from.
            if not select_training_data(catalog, variant.selection(plan.seeds[0])).pictures:
                raise ReleaseError("the runs have no question for it")
        except ReleaseError as error:
            raise ReleaseError(f"variant {name}: {error}") from error


def read_result(unit: Unit) -> UnitResult | None:
    """Return the result of a unit, or None if it is not finished."""
    return from_json(UnitResult, unit.result_path.read_text(encoding="utf-8")) if unit.result_path.is_file() else None


def run_unit(
    unit: Unit, plan: Plan, *, runs: Sequence[Path], base: str, catalog: Catalog, on_progress: ProgressCallback
) -> UnitResult:
    """Make the dataset of a unit, tune a model on it, and write the result. Existing parts are reused.

    Args:
        unit (`Unit`): the unit to run.
        plan (`Plan`): the plan of the ablation.
        runs (`Sequence[Path]`): directories of the runs to select questions from.
        base (`str`): directory or repository of the model to start from.
        catalog (`Catalog`): the questions of the runs.
        on_progress (`ProgressCallback`): called with (stage, done, total, note).

    Raises:
        CompactError: assembling or tuning failed; the same call resumes.
    """
    start = time.monotonic()
    variant = plan.variants[unit.variant]
    selection = variant.selection(unit.seed)
    release = unit.out / "releases" / unit.name
    # The times of an earlier call, which was stopped, are not known.
    is_resumed = release.exists()
    if not release.exists():  # datasets are written atomically, so an existing one is complete
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

    log = unit.out / "logs" / f"{unit.name}.log"
    try:
        # Resumes from the last checkpoint, or returns at once if this model is trained.
        result = tune(plan.recipe, overrides=overrides, log=log, on_line=report_steps)
    except UsageError as error:
        raise UsageError(f"unit {unit.name}: {error}") from error
    except TuningError as error:
        raise TuningError(f"unit {unit.name}: {error}") from error
    unit_result = UnitResult(
        unit.variant,
        unit.seed,
        select_training_data(catalog, selection),
        rows=(read_finished_record(unit.model_directory) or {})["rows"],
        steps=result.steps,
        # (step, loss) of each logged step; none if training ended before the first.
        loss=result.loss[-1][1] if result.loss else None,
        seconds=result.seconds,
        other_seconds=None if is_resumed else round(time.monotonic() - start - result.seconds, 1),
    )
    # The last step: the unit counts as finished from here on.
    write_atomically(unit.result_path, json.dumps(asdict(unit_result), indent=1) + "\n")
    return unit_result
