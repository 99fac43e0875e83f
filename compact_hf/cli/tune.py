"""Defines the arguments and output of `compact tune`, `recipe`, `base` and `adapter`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_hf.cli.console import ProgressBar, configure_hub_progress_bars, log, print_data, print_json, print_table
from compact_hf.cli.parser import add_command, set_command
from compact_hf.errors import UsageError
from compact_hf.wording import format_command, format_count


def add_recipe(recipe: argparse.ArgumentParser) -> None:
    """Add the subcommands of `compact recipe` to its parser."""
    recipe.epilog = "example: compact recipe list"
    subcommands = recipe.add_subparsers(title="commands", metavar="COMMAND", required=True)
    list_parser = add_command(subcommands, "list", _list, "list the recipes and their purposes", "compact recipe list")
    list_parser.add_argument("--json", action="store_true", help="print the list as JSON")
    show_parser = add_command(
        subcommands, "show", _show, "print a recipe, a YAML file for trl sft", "compact recipe show llava15-7b-lora"
    )
    show_parser.add_argument("name", metavar="NAME", help="a recipe from the list")
    copy_parser = add_command(
        subcommands,
        "copy",
        _copy,
        "write a recipe and its chat template to a directory, to edit them or to use another base model",
        "compact recipe copy llava15-7b-lora-1gpu --out mine --model org/base",
    )
    copy_parser.add_argument("name", metavar="NAME", help="a recipe from the list")
    copy_parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="output directory (default: the current directory)"
    )
    copy_parser.add_argument("--model", metavar="ID", help="base model: a Hub repository or a directory")


def _list(args: argparse.Namespace) -> int:
    from compact_hf.training.recipes import recipe_names, recipe_purpose

    purposes = {name: recipe_purpose(name) for name in recipe_names()}
    if args.json:
        print_json(purposes)
    else:
        print_table(("recipe", "what it is for"), list(purposes.items()))
    return 0


def _show(args: argparse.Namespace) -> int:
    from compact_hf.training.recipes import recipe_path

    print_data(recipe_path(args.name).read_text(encoding="utf-8").rstrip())
    return 0


def _copy(args: argparse.Namespace) -> int:
    from compact_hf.training.recipes import copy_recipe

    copy = copy_recipe(args.name, args.out, model=args.model)
    command = format_command("trl", "sft", "--config", copy.recipe, "--output_dir", "OUT")
    log(f"wrote the chat template to {copy.template}; next: {command}")
    print_data(str(copy.recipe))
    return 0


# Bytes, in decimal units as disks are sold.
_MEGABYTE = 1_000_000


def add_base(base: argparse.ArgumentParser) -> None:
    """Add the subcommands of `compact base` to its parser."""
    base.epilog = "example: compact base assemble --out base"
    subcommands = base.add_subparsers(title="commands", metavar="COMMAND", required=True)
    assemble = add_command(
        subcommands,
        "assemble",
        _assemble,
        "assemble a LLaVA-1.5 as it is before instruction tuning, from Vicuna, CLIP and the pre-trained projector",
        "compact base assemble --out llava-base",
    )
    assemble.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a directory: new, empty, or with the same base model"
    )
    location = "a directory, or ORG/NAME[@REVISION] on the Hub"
    assemble.add_argument(
        "--language-model", metavar="PLACE", help=f"a Llama model: {location} (default: lmsys/vicuna-7b-v1.5)"
    )
    assemble.add_argument(
        "--vision-tower", metavar="PLACE", help=f"a CLIP model: {location} (default: openai/clip-vit-large-patch14-336)"
    )
    assemble.add_argument(
        "--projector",
        metavar="PLACE",
        help=f"an mm_projector.bin, or {location} with one (default: LLaVA-1.5's projector for these two models)",
    )
    assemble.add_argument(
        "--dtype",
        choices=("stored", "float16", "bfloat16", "float32"),
        default="stored",
        help="convert all weights to this type (default: stored, which keeps the type of each file)",
    )
    assemble.add_argument("--push", metavar="ORG/NAME", help="also publish it as a model repository on the Hub")
    assemble.add_argument(
        "--private", action="store_true", help="create that repository private; refuse an existing public one"
    )
    assemble.add_argument(
        "--dry-run", action="store_true", help="look up the parts and print the space needed, without downloading"
    )


def _assemble(args: argparse.Namespace) -> int:
    from compact_hf.models.llava.assemble import assemble_base

    configure_hub_progress_bars()
    # Only the parts that were named are passed on; the others keep the defaults of `assemble_base`.
    sources = {
        "language_model": args.language_model,
        "vision_tower": args.vision_tower,
        "projector": args.projector,
    }
    with ProgressBar("megabytes written") as bar:
        result = assemble_base(
            args.out,
            **{name: source for name, source in sources.items() if source is not None},
            dtype=args.dtype,
            push_to=args.push,
            private=args.private,
            dry_run=args.dry_run,
            on_note=bar.log_note,
            on_progress=lambda done, total: bar.show(done // _MEGABYTE, total // _MEGABYTE),
        )
    if args.dry_run:
        print_table(("part",), [(part,) for part in result.parts])
        log(
            # -(-a // b) rounds up.
            f"{result.out} would take at most {-(-result.disk_space.output_bytes // _MEGABYTE)} MB, with a vocabulary "
            f"of {result.vocab_size} tokens"
            f"; to download: {-(-result.disk_space.download_bytes // _MEGABYTE)} MB"
        )
        return 0
    log(f"next: {format_command('compact', 'tune', 'RECIPE', '--model_name_or_path', args.push or result.out)}")
    print_data(result.pushed.url if result.pushed else str(result.out))
    return 0


def add_adapter(adapter: argparse.ArgumentParser) -> None:
    """Add the subcommands of `compact adapter` to its parser."""
    merge = add_command(
        adapter.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "merge",
        _merge,
        "merge an adapter into its base model",
        "compact adapter merge student --out merged",
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="a directory, or a Hub repository")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty directory")
    merge.add_argument(
        "--base", metavar="DIR_OR_REPO", help="the base model (default: the one that the adapter's config names)"
    )


def _merge(args: argparse.Namespace) -> int:
    from compact_hf.training.merge_adapter import merge_adapter

    out = merge_adapter(args.adapter, args.out, base=args.base, on_progress=log)
    log(f"next: {format_command('compact', 'publish', out, 'ORG/NAME')}")
    print_data(str(out))
    return 0


def add_tune(tune: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact tune` to its parser."""
    set_command(
        tune, _tune, "compact tune llava15-7b-lora --dataset_name org/compact@v1.0.0 --output_dir adapter --dry-run"
    )
    tune.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    _add_tune_options(tune)
    # REMAINDER: TRL's options are not declared here, so that every option of the installed TRL works.
    tune.add_argument(
        "settings", nargs=argparse.REMAINDER, metavar="...", help="options of trl sft that replace the recipe's"
    )


def _add_tune_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compact tune` that are not options of TRL."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print steps, tokens, parameters, memory and disk space, without training",
    )
    parser.add_argument("--json", action="store_true", help="print the result of --dry-run as JSON")
    parser.add_argument("--revision", metavar="R", help="revision of the dataset on the Hub: a tag, branch or commit")
    parser.add_argument(
        "--projector-lr",
        type=float,
        metavar="X",
        help="learning rate of the projector (default: learning_rate; a tenth of it if a LoRA recipe trains the "
        "projector in full, as in LLaVA)",
    )
    parser.add_argument(
        "--train",
        metavar="PARTS",
        help="parts to train, how, and at which learning rate: PART[:lora|:full][@RATE],... where PART is projector, "
        "language_model or tower; other parts are frozen (default: set by the recipe)",
    )


def _tune(args: argparse.Namespace) -> int:
    from compact_hf.training.train import tune

    # Options after RECIPE are TRL's, but ours are allowed there, too: take ours out and pass the rest on.
    options_parser = argparse.ArgumentParser(prog="compact tune RECIPE", allow_abbrev=False)
    options_parser.add_argument("--debug", action="store_true", help="show tracebacks")
    _add_tune_options(options_parser)
    args, settings = options_parser.parse_known_args(args.settings, namespace=args)
    options: dict[str, Any] = {
        "overrides": _parse_overrides(settings),
        "revision": args.revision,
        "projector_learning_rate": args.projector_lr,
        "train": args.train,
    }
    # The data and the model's config are read, the weights are not.
    if args.dry_run:
        return _print_plan(args.recipe, options, as_json=args.json)
    if args.json:
        raise UsageError("--json needs --dry-run; the record of a training run is training.json in output_dir")
    result = tune(args.recipe, on_line=log, **options)
    duration = "already finished, nothing to do" if result.was_finished else f"in {result.seconds:.0f} s"
    log(f"{format_count(result.steps, 'step')}, {duration}")
    log(f"next: {format_command('compact', 'evaluate', result.output_dir, 'scenes:200', '--out', 'results')}")
    print_data(str(result.output_dir))
    return 0


def _print_plan(recipe: str, options: dict[str, Any], *, as_json: bool) -> int:
    """Print what `compact tune --dry-run` found: data, steps, tokens, parameters, memory and disk space."""
    from compact_hf.training.disk_space import describe_disk_space
    from compact_hf.training.dry_run import dry_run

    plan = dry_run(recipe, **options)
    if as_json:
        print_json(plan.to_json())
        return 0
    memory = plan.memory
    # Bytes of device memory, by purpose.
    parts = {name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "activations")}
    own_rates = [f"{part.replace('_', ' ')} {rate:g}" for part, rate in plan.learning_rates.items()]
    dropped = ", ".join(f"{count} {reason}" for reason, count in plan.dropped.items())
    # Two columns without heads: name and value. Names with two leading spaces belong to the line above.
    print_table(
        ("", ""),
        [
            ("rows", f"{plan.rows:,}" + (f"; dropped: {dropped}" if dropped else "")),
            ("rows per step", f"{plan.rows_per_step}, on {plan.processes} processes"),
            ("steps", f"{plan.steps:,} ({plan.epochs:.2f} epochs)"),
            ("tokens per epoch", f"{plan.image_tokens:,} of images, {plan.text_tokens:,} of text"),
            ("trained on", f"{plan.answer_tokens:,} answer tokens; {plan.padding:.1%} padding in addition"),
            ("parameters", f"{memory.trained / 1e6:,.1f} M trained of {memory.parameters / 1e6:,.1f} M"),
            *([("trained", plan.train)] if plan.train else []),
            ("learning rate", ", ".join([f"{plan.learning_rate:g}", *own_rates])),
            ("memory per device", f"about {memory.total / 1e9:.3g} GB, excluding the CUDA context; leave 10% headroom"),
            *((f"  {name}", f"{size / 1e9:.3g} GB") for name, size in parts.items()),
            (f"disk space for {plan.output_dir}", describe_disk_space(plan.disk, Path(plan.output_dir))),
            ("dataset commit", plan.dataset_revision or "none: a local directory"),
            *((f"  {name}", number) for name, number in plan.versions.items()),
        ],
    )
    return 0


def _parse_overrides(settings: Sequence[str]) -> dict[str, str]:
    """Return the settings `--name value` of the command line as a dictionary."""
    # Alternating names and values; an odd number means that a value is missing.
    pairs = dict(zip(settings[::2], settings[1::2], strict=False))
    if len(settings) % 2 or not all(name.startswith("--") for name in pairs):
        raise UsageError(f"got the settings {' '.join(settings)!r}; give options of trl sft as --name value")
    return {name.removeprefix("--"): value for name, value in pairs.items()}
