"""Defines the arguments and progress bars of `compact demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from compact_hf.cli.console import ProgressBar, print_data
from compact_hf.cli.parser import set_command


def add_demo(demo: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact demo` to its parser."""
    set_command(demo, _demo, "compact demo --out demo-out")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        help="output directory; an existing demo is resumed (default: demo-out)",
    )
    demo.add_argument("--scenes", type=int, default=400, metavar="N", help="number of scenes to draw (default: 400)")
    demo.add_argument("--steps", type=int, default=250, metavar="N", help="number of training steps (default: 250)")


def _demo(args: argparse.Namespace) -> int:
    from compact_hf.demo.run import run_demo

    # stage -> its bar, as in `compact ablate`.
    bars: dict[str, ProgressBar] = {}

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = ProgressBar(stage)
        bars[stage].show(done, total, note)

    result = run_demo(args.out, scenes=args.scenes, steps=args.steps, on_progress=show)
    for bar in bars.values():
        bar.close()
    print_data(result.summary)
    return 0
