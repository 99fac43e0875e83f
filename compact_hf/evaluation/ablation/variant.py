"""One variant and seed of an ablation: make its data, tune a model on it, and record it in the ablation's directory.

DIR/plan.json                     what decides the outcome: of the plan all but seeds and baseline, and hashes of
                                  what it starts from
DIR/releases/VARIANT-seed-S/      its data
DIR/models/VARIANT-seed-S/        the model; logs/VARIANT-seed-S.log, the output of training
DIR/units/VARIANT-seed-S.json     written last: the unit is finished
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.schema import split_of
from compact_hf.dataset.selection import Selection, chosen, count_by_k, questions_of
from compact_hf.errors import IdentityError, ReleaseError, UsageError
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.methods.compact.rows import conversation_rows
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import from_json
from compact_hf.training.checkpoints import record_of
from compact_hf.training.child_output import steps_in
from compact_hf.training.recipes import read_recipe
from compact_hf.training.train import tune

RUN: Final = "run"
"""Where the run lies that an ablation makes itself."""

COUNTED: Final = "questions"
"""What stands in the mark once it is known what the runs hold."""

_CLAIM: Final = "plan.json"
_LOCK: Final = "ablation.lock"


def decisive(plan: Plan) -> dict[str, Any]:
    """Return what decides the outcome of a unit: of the plan all but seeds and baseline, each variant by itself.

    Raises:
        TuningError: there is no such recipe.
    """
    told = plan.told()
    variants = {f"variant {name}": told["variants"][name] for name in plan.variants}
    rest = {name: value for name, value in told.items() if name not in ("seeds", "baseline", "variants")}
    return {**rest, "settings": {**read_recipe(plan.recipe), **plan.settings}, **variants}


def claim(out: Path, told: Mapping[str, Any]) -> None:
    """Take a folder for an ablation, or come back to it; what it was not told before is added.

    Raises:
        IdentityError: the folder is that of another ablation.
        UsageError: it holds something else, or cannot be used.
    """
    mark = out / _CLAIM
    try:
        if out.exists() and not mark.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} already holds something that is no ablation; give a new or empty folder")
        held = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
        differences = {name: (held[name], now) for name, now in told.items() if held.get(name, now) != now}
        if differences:
            raise IdentityError(str(out), differences)
        write_at_once(mark, json.dumps({**held, **told}, indent=1, ensure_ascii=False) + "\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"{mark} cannot be used ({error}); give another folder") from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes out of an ablation's folder inside the block.

    Raises:
        UsageError: another one works there.
    """
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another process works in {out}; wait for it, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


def units_of(plan: Plan, out: Path) -> tuple[Unit, ...]:
    """Return every variant with the first seed, then with the next: so a part that was stopped can be compared."""
    return tuple(Unit(variant, seed, out) for seed, variant in product(plan.seeds, plan.variants))


def is_counted(out: Path) -> bool:
    """Whether the runs of the ablation in this folder are complete."""
    mark = out / _CLAIM
    return mark.is_file() and COUNTED in json.loads(mark.read_text(encoding="utf-8"))


Tell = Callable[[str, int, int, str], None]
Catalog = Mapping[str, Sequence[Combination]]
"""Image id -> the combination of each question that the runs hold about it."""

_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Data:
    """The compositional training data of a unit.

    Attributes:
        questions (`dict[int, int]`): k -> how many.
        pictures (`int`): about how many pictures; each is one row.
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
    def model(self) -> Path:
        """Where its model lies."""
        return self.out / "models" / self.name

    @property
    def record(self) -> Path:
        """What is there when it is finished."""
        return self.out / "units" / f"{self.name}.json"


@dataclass(frozen=True, slots=True)
class Done:
    """A finished unit.

    Attributes:
        variant (`str`), seed (`int`)
        data (`Data`): what it was tuned on, besides instruction rows.
        rows (`int`): all training rows, instruction rows too.
        steps (`int`): optimizer steps.
        loss (`float`, *optional*): in nats per answer token, the last that was logged.
        seconds (`float`): training alone.
        other_seconds (`float`): writing the release and starting up, in the call that finished it.
    """

    variant: str
    seed: int
    data: Data
    rows: int
    steps: int
    loss: float | None
    seconds: float
    other_seconds: float


def data_of(catalog: Catalog, selection: Selection) -> Data:
    """Return what a selection of the questions in the runs comes to.

    Raises:
        ReleaseError: there are fewer than it asks for.
    """
    taken = chosen(catalog, selection)
    training = [image_id for image_id in taken if split_of(len(catalog[image_id][0]), image_id) == "train"]
    return Data(dict(sorted(count_by_k(catalog, taken).items())), len(training))


def catalog_of(plan: Plan, runs: Sequence[Path]) -> Catalog:
    """Return what the runs hold; see `Catalog`.

    Raises:
        JournalError: one of the folders is not a run, or cannot be read.
    """
    return questions_of(conversation_rows(list(runs), max_similarity=plan.max_similarity))


def refuse_too_few(plan: Plan, catalog: Catalog) -> None:
    """Tell of the first variant that the runs have too few questions for.

    Raises:
        ReleaseError: naming it, and how many are missing.
    """
    for name, variant in plan.variants.items():
        try:
            if not data_of(catalog, variant.selection(plan.seeds[0])).pictures:
                raise ReleaseError("the runs hold no question for it")
        except ReleaseError as error:
            raise ReleaseError(f"variant {name}: {error}") from error


def done(unit: Unit) -> Done | None:
    """Return what is known of a finished unit, None where it is not finished."""
    return from_json(Done, unit.record.read_text(encoding="utf-8")) if unit.record.is_file() else None


def carry_out(unit: Unit, plan: Plan, *, runs: Sequence[Path], base: str, catalog: Catalog, tell: Tell) -> Done:
    """Make a unit's release, tune on it, and write its record; what is there already is not made again.

    Raises:
        CompactError: whatever assembling or tuning raises; the same call goes on.
    """
    began = time.monotonic()
    variant = plan.variants[unit.variant]
    selection = variant.selection(unit.seed)
    release = unit.out / "releases" / unit.name
    if not release.exists():  # it is there as a whole or not at all
        tell(f"{unit.name}: data", 0, 1, "")
        assemble(
            runs,
            release,
            version=_VERSION,
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
        "output_dir": str(unit.model),
        "seed": str(unit.seed),
    }

    def show(line: str) -> None:
        if steps := steps_in(line):
            tell(f"{unit.name}: steps", *steps, "")

    result = tune(plan.recipe, overrides=overrides, log=unit.out / "logs" / f"{unit.name}.log", on_line=show)
    found = Done(
        unit.variant,
        unit.seed,
        data_of(catalog, selection),
        rows=(record_of(unit.model) or {})["rows"],
        steps=result.steps,
        loss=result.loss[-1][1] if result.loss else None,
        seconds=result.seconds,
        other_seconds=round(max(0.0, time.monotonic() - began - result.seconds), 1),
    )
    write_at_once(unit.record, json.dumps(asdict(found), indent=1) + "\n")
    return found


def write_at_once(path: Path, text: str) -> None:
    """Write a file in one step: it is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)
