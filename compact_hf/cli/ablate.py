"""`compact ablate`: parsing and talking."""

from __future__ import annotations

import argparse
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compact_hf.cli.console import Bar, say, tell, tell_json, tell_table
from compact_hf.cli.parser import command
from compact_hf.errors import UsageError


def add(commands: Any) -> None:
    """Add this command to the parser."""
    ablate = command(
        commands,
        "ablate",
        _ablate,
        "what the data does: tune on variants of one run's questions and compare; the same command goes on",
        "compact ablate tiny --out ablation",
    )
    ablate.add_argument("plan", metavar="PLAN", help="a YAML file, or the name of one that comes along")
    ablate.add_argument("--out", type=Path, metavar="DIR", help="new, or begun by this same command")
    ablate.add_argument("--dry-run", action="store_true", help="units, questions, steps, time left; makes nothing")
    ablate.add_argument("--show", action="store_true", help="print the plan, to change it; makes nothing")
    ablate.add_argument("--json", action="store_true", help="as JSON")


def _ablate(chosen: argparse.Namespace) -> int:
    from compact_hf.evaluation.ablation.plan import plan_path

    if chosen.show:
        tell(plan_path(chosen.plan).read_text(encoding="utf-8").rstrip())
        return 0
    if chosen.out is None:
        raise UsageError("--out DIR is missing; give a new folder, or one that this command began")
    if chosen.dry_run:
        return _tell_forecast(chosen)
    from compact_hf.evaluation.ablation.results import accuracy_table
    from compact_hf.evaluation.ablation.run import ablate

    # A batch system ends its jobs by SIGTERM: as good a reason for a checkpoint as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bars: dict[str, Bar] = {}

    def show(stage: str, done: int, total: int, note: str) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = Bar(stage)
        bars[stage].show(done, total, note)

    found = ablate(chosen.plan, chosen.out, on_progress=show)
    for bar in bars.values():
        bar.close()
    if chosen.json:
        tell_json(found.to_json())
    else:
        tell_table(*accuracy_table(found))
    say(f"tables and figure are in {chosen.out}: ablation.html, ablation.md, ablation.json, ablation.png")
    return 0


def _tell_forecast(chosen: argparse.Namespace) -> int:
    from compact_hf.evaluation.ablation.forecast import forecast, spoken_time

    found = forecast(chosen.plan, chosen.out)
    if chosen.json:
        tell_json(asdict(found))
        return 0
    tell(f"{found.units} units, {found.finished} of them finished")
    tell_table(
        ("variant", "training questions", "pictures", "steps, about"),
        [(arm.variant, sum(arm.data.questions.values()), arm.data.pictures, arm.steps) for arm in found.arms],
    )
    if not found.arms:
        tell("its scenes have not been asked about yet, so nobody knows how many questions there will be")
    tell(spoken_time(found.seconds_left) or "how long it takes is known after the first unit")
    return 0
