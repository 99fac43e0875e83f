"""Whose folder it is: an ablation's plan in, the folder's mark and its units out.

DIR/plan.json      what decides the outcome: of the plan all but seeds and baseline, and hashes of what it starts from
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from compact_hf.errors import IdentityError, UsageError
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.evaluation.ablation.variant import Unit, write_at_once
from compact_hf.training.recipes import read_recipe

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
