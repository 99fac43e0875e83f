"""`compact tune`: parsing and talking."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from typing import Any

from compact_hf.cli.console import say, tell, tell_json, tell_table
from compact_hf.cli.parser import command
from compact_hf.errors import UsageError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    tune = command(
        commands,
        "tune",
        _tune,
        "train with a recipe; the same command goes on",
        "compact tune llava15-7b-lora --dataset_name org/compact@v1.0.0 --output_dir adapter --dry-run",
    )
    tune.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped recipe's name")
    _add_tune_options(tune)
    tune.add_argument("settings", nargs=argparse.REMAINDER, metavar="...", help="trl sft's, to replace the recipe's")


def _add_tune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="steps, tokens, parameters, memory; trains nothing")
    parser.add_argument("--json", action="store_true", help="of --dry-run: as JSON")
    parser.add_argument("--revision", metavar="R", help="of the data set on the Hub: a tag, branch or commit")
    parser.add_argument(
        "--projector-lr",
        type=float,
        metavar="X",
        help="the projector's own learning rate; a tenth of learning_rate where a LoRA trains it in full, as in LLaVA",
    )


def _tune(chosen: argparse.Namespace) -> int:
    from compact_hf.training.train import tune

    # What stands behind RECIPE is TRL's, but for our own options, which may stand there too.
    own = argparse.ArgumentParser(prog="compact tune RECIPE", allow_abbrev=False)
    own.add_argument("--debug", action="store_true", help="show tracebacks")
    _add_tune_options(own)
    chosen, settings = own.parse_known_args(chosen.settings, namespace=chosen)
    arguments: dict[str, Any] = {
        "overrides": _overrides(settings),
        "revision": chosen.revision,
        "projector_learning_rate": chosen.projector_lr,
    }
    if chosen.dry_run:
        return _tell_plan(chosen.recipe, arguments, as_json=chosen.json)
    if chosen.json:
        raise UsageError("--json goes with --dry-run; of training, training.json in output_dir tells")
    # A batch system ends its jobs by SIGTERM: as good a reason for a checkpoint as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    result = tune(chosen.recipe, on_line=say, **arguments)
    took = "finished before, nothing was done" if result.resumed else f"in {result.seconds:.0f} s"
    say(f"{result.steps} steps, {took}")
    say(f"next: compact evaluate {result.output_dir} scenes:200 --out results")
    tell(str(result.output_dir))
    return 0


def _tell_plan(recipe: str, arguments: dict[str, Any], *, as_json: bool) -> int:
    from compact_hf.training.dry_run import dry_run

    plan = dry_run(recipe, **arguments)
    if as_json:
        tell_json(plan.to_json())
        return 0
    memory, own_rate = plan.memory, plan.projector_learning_rate
    parts = {name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "activations")}
    dropped = ", ".join(f"{count} {reason}" for reason, count in plan.dropped.items())
    tell_table(
        ("", ""),
        [
            ("rows", f"{plan.rows:,}" + (f"; dropped: {dropped}" if dropped else "")),
            ("rows a step", f"{plan.rows_per_step}, by {plan.processes} processes"),
            ("steps", f"{plan.steps:,} ({plan.epochs:.2f} epochs)"),
            ("tokens an epoch", f"{plan.image_tokens:,} of pictures, {plan.text_tokens:,} of text"),
            ("learnt of these", f"{plan.answer_tokens:,}; {plan.padding:.1%} padding besides"),
            ("parameters", f"{memory.trained / 1e6:,.1f} M trained of {memory.parameters / 1e6:,.1f} M"),
            ("learning rate", f"{plan.learning_rate:g}" + (f", projector {own_rate:g}" if own_rate else "")),
            ("memory a device", f"about {memory.total / 1e9:.3g} GB, besides CUDA's own and a tenth of air"),
            *((f"  {name}", f"{size / 1e9:.3g} GB") for name, size in parts.items()),
            ("data set's commit", plan.dataset_revision or "none: a folder"),
            *((f"  {name}", number) for name, number in plan.versions.items()),
        ],
    )
    return 0


def _overrides(settings: Sequence[str]) -> dict[str, str]:
    pairs = dict(zip(settings[::2], settings[1::2], strict=False))
    if len(settings) % 2 or not all(name.startswith("--") for name in pairs):
        raise UsageError(f"got the settings {' '.join(settings)!r}; give them as trl sft takes them: --name value")
    return {name.removeprefix("--"): value for name, value in pairs.items()}
