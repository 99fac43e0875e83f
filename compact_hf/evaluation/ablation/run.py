"""`compact ablate`: a plan in; a model for each variant of one run's data and each seed, and what they score, out.

    compact ablate PLAN.yaml --out DIR

    DIR/plan.json                 what decides the outcome; the same command goes on where it was stopped
    DIR/run/, base/               the run and the model to start from, where the plan has them made here
    DIR/releases/, models/, logs/, units/     one of each for every variant and seed: see variant.py
    DIR/judged/                   every model's answers, as `compact evaluate` leaves them
    DIR/ablation.json, .md, .html, .png       the tables and the figure

No teacher is asked. A unit, a variant with a seed, is never done again once it is finished; seeds and variants can be
added to a plan.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from compact_hf.evaluation.ablation.forecast import seconds_left, spoken_time
from compact_hf.evaluation.ablation.plan import Plan, read_plan
from compact_hf.evaluation.ablation.results import Ablation, compared, pairs, write_tables
from compact_hf.evaluation.ablation.variant import (
    COUNTED,
    RUN,
    Done,
    Tell,
    Unit,
    carry_out,
    catalog_of,
    claim,
    decisive,
    done,
    locked,
    refuse_too_few,
    units_of,
)
from compact_hf.evaluation.evaluate import evaluate
from compact_hf.evaluation.inference import identity
from compact_hf.evaluation.predict import read_predictions
from compact_hf.evaluation.results_folder import places_in
from compact_hf.evaluation.scoring import Prediction
from compact_hf.methods.compact.generate import generate
from compact_hf.models.llava.shipped import ALIGNED, copy_aligned
from compact_hf.records import digest
from compact_hf.runs.run import Standing

_JUDGED: Final = "judged"


def ablate(plan: str | Path, out: str | Path, *, on_progress: Tell = lambda stage, done, total, note: None) -> Ablation:
    """Build every variant of a run's data, tune on it with every seed, and compare what the models answer.

    Args:
        plan (`str | Path`): a YAML file or a shipped plan's name.
        out (`str | Path`): a folder that is new, empty, or this ablation's.
        on_progress (`Tell`, *optional*): called with (stage, done, total, note) as work proceeds.

    Raises:
        UsageError: the plan is wrong, or `out` holds another ablation or something else.
        ReleaseError: the run has fewer questions than a variant asks for; before anything is tuned.
        StoppedEarly: Ctrl-C; the same call goes on.
        CompactError: whatever generating, assembling, tuning or judging raises; the same call goes on there.
    """
    asked, folder = read_plan(plan), Path(out)
    claim(folder, decisive(asked))
    with locked(folder):
        found = _found(asked, folder, on_progress)
        write_tables(found, folder)
    return found


def _found(plan: Plan, out: Path, tell: Tell) -> Ablation:
    runs = _runs(plan, out, tell)
    catalog = catalog_of(plan, runs)
    refuse_too_few(plan, catalog)
    base = _base(plan, out)
    base_identity = identity(base)
    claim(out, {COUNTED: digest(sorted(catalog.items())), "files of the base": base_identity})
    units = units_of(plan, out)
    finished: dict[Unit, Done] = {unit: there for unit in units if (there := done(unit))}
    for unit in units:
        tell("units", len(finished), len(units), spoken_time(seconds_left(plan, catalog, units, finished)))
        if unit not in finished:
            finished[unit] = carry_out(unit, plan, runs=runs, base=base, catalog=catalog, tell=tell)
    tell("units", len(units), len(units), "")
    judged = evaluate(
        [unit.model for unit in units],
        plan.dataset,
        out / _JUDGED,
        split=plan.split,
        on_progress=lambda at, total: tell("answers", at, total, ""),
    )
    answers = _answers(units, out / _JUDGED)
    return Ablation(
        plan,
        judged.dataset,
        base_identity,
        tuple(finished[unit] for unit in units),
        lines=compared(answers, baseline=plan.baseline),
        pairs=pairs(answers, baseline=plan.baseline),
    )


def _runs(plan: Plan, out: Path, tell: Tell) -> list[Path]:
    if plan.scenes is None:
        return [Path(run) for run in plan.runs]

    def show(standing: Standing) -> None:
        tell("pictures", standing.finished, standing.pictures, f"{standing.accepted} questions")

    generate(f"scenes:{plan.scenes}", out / RUN, on_progress=show)
    return [out / RUN]


def _base(plan: Plan, out: Path) -> str:
    if plan.base != ALIGNED or Path(plan.base).exists():
        return plan.base
    base = out / "base"
    if not base.exists():
        half = out / "base.part"
        shutil.rmtree(half, ignore_errors=True)
        copy_aligned(half).rename(base)
    return str(base)


def _answers(units: Sequence[Unit], judged: Path) -> dict[str, dict[int, list[Prediction]]]:
    """Return variant -> seed -> what that model answered; of a model, its files decide which place is its."""
    places = {entrant.identity: slug for slug, entrant in places_in(judged).items()}
    answers: dict[str, dict[int, list[Prediction]]] = {}
    for unit in units:
        found = read_predictions(judged / places[identity(str(unit.model))])
        answers.setdefault(unit.variant, {})[unit.seed] = found
    return answers
