"""Defines the arguments, progress bars and output of `compact ablate`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from compact_hf.cli.console import ProgressBar, log, print_data, print_json, print_summary, print_table
from compact_hf.cli.parser import set_command
from compact_hf.errors import UsageError


def add_ablate(ablate: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact ablate` to its parser."""
    set_command(ablate, _ablate, "compact ablate tiny --out ablation")
    ablate.add_argument("plan", metavar="PLAN", help="a YAML file, or the name of a shipped plan")
    ablate.add_argument("--out", type=Path, metavar="DIR", help="a new directory, or that of an ablation to resume")
    ablate.add_argument("--dry-run", action="store_true", help="print units, questions, steps and time left, then exit")
    ablate.add_argument("--show", action="store_true", help="print the plan's YAML, to edit it, then exit")
    ablate.add_argument("--json", action="store_true", help="print the result as JSON")


def _ablate(args: argparse.Namespace) -> int:
    from compact_hf.evaluation.ablation.plan import find_plan

    if args.show:
        print_data(find_plan(args.plan).read_text(encoding="utf-8").rstrip())
        return 0
    # Not `required`, because `--show` needs no directory.
    if args.out is None:
        raise UsageError("--out DIR is missing: give a new directory, or that of an ablation to resume")
    if args.dry_run:
        return _print_forecast(args)
    from compact_hf.evaluation.ablation.run import ablate

    # stage -> its bar. Stages follow one after another; the bar of a finished stage stays on the screen.
    bars: dict[str, ProgressBar] = {}

    def show(stage: str, done: int, total: int, note: str) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = ProgressBar(stage)
        bars[stage].show(done, total, note)

    ablation = ablate(args.plan, args.out, on_progress=show, on_note=lambda line: log(f"compact: {line}"))
    for bar in bars.values():
        bar.close()
    if args.json:
        print_json(ablation.to_json())
    else:
        print_summary(ablation.summary())
    log(f"wrote the tables and the figure to {args.out}: ablation.html, ablation.md, ablation.json, ablation.png")
    return 0


def _print_forecast(args: argparse.Namespace) -> int:
    """Print what the ablation will take: units, training data per variant, and time left."""
    from compact_hf.evaluation.ablation.forecast import forecast_ablation, format_time_left

    estimate = forecast_ablation(args.plan, args.out)
    if args.json:
        print_json(asdict(estimate))
        return 0
    # Number of units, data of each variant, time left; the last two may still be unknown.
    print_data(f"{estimate.units} units, {estimate.finished} of them finished")
    print_table(
        ("variant", "training questions", "images", "steps, about"),
        [(arm.variant, sum(arm.data.questions.values()), arm.data.pictures, arm.steps) for arm in estimate.arms],
    )
    if not estimate.arms:
        print_data("the number of questions is unknown until questions have been generated for the plan's scenes")
    print_data(format_time_left(estimate.seconds_left) or "the time left is unknown until the first unit is finished")
    return 0
