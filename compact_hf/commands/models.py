"""`compact tune` and `evaluate`: parsing and talking."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_hf.commands.command import command
from compact_hf.errors import UsageError
from compact_hf.talk import Bar, say, tell, tell_table


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    tune = command(
        commands, "tune", _tune, "train: trl sft --config RECIPE", "compact tune tiny-cpu --dataset_name release"
    )
    tune.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped recipe's name")
    tune.add_argument("settings", nargs=argparse.REMAINDER, metavar="...", help="settings that replace the recipe's")

    evaluate = command(
        commands,
        "evaluate",
        _evaluate,
        "accuracy by k and by capability",
        "compact evaluate student scenes:200 --out results",
    )
    evaluate.add_argument("model", metavar="MODEL", help="a folder or a repository: a model or an adapter")
    evaluate.add_argument("dataset", metavar="DATASET", help="a release, a repository, or scenes:N (reserved scenes)")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, or begun by this same command")
    evaluate.add_argument(
        "--swap-pictures", action="store_true", help="a control: each question about another question's picture"
    )
    evaluate.add_argument("--split", choices=("train", "validation"), default="validation", help="of a release")


def _tune(chosen: argparse.Namespace) -> int:
    from compact_hf.tuning.train import tune

    result = tune(chosen.recipe, overrides=_overrides(chosen.settings), on_line=say)
    say(
        f"{result.steps} steps in {result.seconds:.0f} s; next: compact evaluate {result.output_dir} scenes:200 --out D"
    )
    tell(str(result.output_dir))
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from compact_hf.evaluation.evaluate import evaluate

    with Bar("questions") as bar:
        results = evaluate(
            chosen.model,
            chosen.dataset,
            chosen.out,
            split=chosen.split,
            swap_pictures=chosen.swap_pictures,
            on_progress=bar.show,
        )
    rows = [("all", results.overall), *((f"k = {k}", score) for k, score in results.by_k.items())]
    rows += results.by_capability.items()
    tell_table(
        ("questions", "n", "accuracy", "95% interval", "majority answer"),
        [
            (
                name,
                score.n,
                f"{score.accuracy:.3f}",
                f"{score.low:.3f} to {score.high:.3f}",
                f"{score.majority.accuracy:.3f}",
            )
            for name, score in rows
        ],
    )
    say(f"all of it is in {chosen.out}")
    return 0


def _overrides(settings: Sequence[str]) -> dict[str, str]:
    pairs = dict(zip(settings[::2], settings[1::2], strict=False))
    if len(settings) % 2 or not all(name.startswith("--") for name in pairs):
        raise UsageError(f"got the settings {' '.join(settings)!r}; give them as trl sft takes them: --name value")
    return {name.removeprefix("--"): value for name, value in pairs.items()}
