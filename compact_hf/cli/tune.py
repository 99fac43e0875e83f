"""`compact tune`, `recipe`, `base` and `adapter`: parsing and output."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_hf.cli.console import Bar, bars_on_a_terminal, say, tell, tell_json, tell_table
from compact_hf.cli.parser import command
from compact_hf.errors import UsageError


def add_recipe(commands: Any) -> None:
    """Add these commands to the parser."""
    purpose = "the training recipes that come along"
    recipe = commands.add_parser(
        "recipe", help=purpose, description=purpose, epilog="example: compact recipe list", allow_abbrev=False
    )
    verbs = recipe.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listed = command(verbs, "list", _list, "their names and what they are for", "compact recipe list")
    listed.add_argument("--json", action="store_true", help="as JSON")
    show = command(verbs, "show", _show, "print one: a YAML for trl sft", "compact recipe show llava15-7b-lora")
    show.add_argument("name", metavar="NAME", help="of the list")
    copy = command(
        verbs,
        "copy",
        _copy,
        "write one and the chat template side by side, to change them or for another base",
        "compact recipe copy llava15-7b-lora-1gpu --out mine --model org/base",
    )
    copy.add_argument("name", metavar="NAME", help="of the list")
    copy.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="a folder (default: this one)")
    copy.add_argument("--model", metavar="ID", help="the base to start from: a repository or a folder")


def _list(chosen: argparse.Namespace) -> int:
    from compact_hf.training.recipes import recipe_names, recipe_purpose

    purposes = {name: recipe_purpose(name) for name in recipe_names()}
    if chosen.json:
        tell_json(purposes)
    else:
        tell_table(("recipe", "what it is for"), list(purposes.items()))
    return 0


def _show(chosen: argparse.Namespace) -> int:
    from compact_hf.training.recipes import recipe_path

    tell(recipe_path(chosen.name).read_text(encoding="utf-8").rstrip())
    return 0


def _copy(chosen: argparse.Namespace) -> int:
    from compact_hf.training.recipes import copy_recipe

    copy = copy_recipe(chosen.name, chosen.out, model=chosen.model)
    say(f"the chat template is in {copy.template}; next: trl sft --config {copy.recipe} --output_dir OUT")
    tell(str(copy.recipe))
    return 0


_MEGA = 1_000_000


def add_base(commands: Any) -> None:
    """Add these commands to the parser."""
    purpose = "the model that instruction tuning starts from"
    base = commands.add_parser(
        "base",
        help=purpose,
        description=purpose,
        epilog="example: compact base assemble --out base",
        allow_abbrev=False,
    )
    ones = base.add_subparsers(title="commands", metavar="COMMAND", required=True)
    assemble = command(
        ones,
        "assemble",
        _assemble,
        "put a LLaVA-1.5 together as it is before instruction tuning, from Vicuna, CLIP and the pre-trained projector",
        "compact base assemble --out llava-base",
    )
    assemble.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, empty, or the same base")
    place = "a folder, or ORG/NAME[@REVISION] on the Hub"
    assemble.add_argument("--language-model", metavar="PLACE", help=f"a Llama: {place} (default: lmsys/vicuna-7b-v1.5)")
    assemble.add_argument(
        "--vision-tower", metavar="PLACE", help=f"a CLIP: {place} (default: openai/clip-vit-large-patch14-336)"
    )
    assemble.add_argument(
        "--projector", metavar="PLACE", help=f"mm_projector.bin, or {place} with it (default: LLaVA-1.5's for the two)"
    )
    assemble.add_argument(
        "--dtype",
        choices=("stored", "float16", "bfloat16", "float32"),
        default="stored",
        help="round all weights to it (default: each as it is stored; loading rounds)",
    )
    assemble.add_argument("--push", metavar="ORG/NAME", help="publish it as a model repository too, in one piece")
    assemble.add_argument("--private", action="store_true", help="create that repository private; refuse a public one")
    assemble.add_argument("--dry-run", action="store_true", help="look the parts up and say what it would take, only")


def _assemble(chosen: argparse.Namespace) -> int:
    from compact_hf.models.llava.assemble import assemble_base

    bars_on_a_terminal()
    given = {
        "language_model": chosen.language_model,
        "vision_tower": chosen.vision_tower,
        "projector": chosen.projector,
    }
    with Bar("megabytes written") as bar:
        assembled = assemble_base(
            chosen.out,
            **{name: place for name, place in given.items() if place is not None},
            dtype=chosen.dtype,
            push_to=chosen.push,
            private=chosen.private,
            dry_run=chosen.dry_run,
            on_note=bar.note,
            on_progress=lambda done, total: bar.show(done // _MEGA, total // _MEGA),
        )
    if chosen.dry_run:
        tell_table(("part",), [(part,) for part in assembled.parts])
        say(
            f"{assembled.out} would be at most {-(-assembled.room.out // _MEGA)} MB with {assembled.rows} rows of "
            f"vocabulary; to download: {-(-assembled.room.download // _MEGA)} MB"
        )
        return 0
    say(f"next: compact tune RECIPE --model_name_or_path {chosen.push or assembled.out}")
    tell(assembled.pushed.url if assembled.pushed else str(assembled.out))
    return 0


def add_adapter(commands: Any) -> None:
    """Add these commands to the parser."""
    purpose = "what to do with a LoRA adapter"
    adapter = commands.add_parser("adapter", help=purpose, description=purpose, allow_abbrev=False)
    merge = command(
        adapter.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "merge",
        _merge,
        "make one model of a base and its adapter",
        "compact adapter merge student --out merged",
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="a folder, or a repository on the Hub")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty")
    merge.add_argument(
        "--base", metavar="DIR_OR_REPO", help="where its base lies now (default: where the adapter's config says)"
    )


def _merge(chosen: argparse.Namespace) -> int:
    from compact_hf.training.merge_adapter import merge_adapter

    out = merge_adapter(chosen.adapter, chosen.out, base=chosen.base, on_progress=say)
    say(f"next: compact publish {out} ORG/NAME")
    tell(str(out))
    return 0


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
