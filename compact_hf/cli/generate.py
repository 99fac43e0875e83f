"""Defines the arguments and output of `compact generate`, `annotate`, `augment`, `status` and `method`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import ProgressBar, log, print_json, print_summary, print_table
from compact_hf.cli.options import add_options, make_progress_callback
from compact_hf.cli.parser import add_command, set_command
from compact_hf.errors import UsageError
from compact_hf.methods.registry import DEFAULT_METHOD, get_method, list_methods
from compact_hf.runs.options import RunOptions, iter_flags
from compact_hf.wording import format_command, format_count

if TYPE_CHECKING:
    from compact_hf.methods.base import Method
    from compact_hf.runs.run import RunProgress

_DATASET_HELP: Final = (
    "org/name[@revision][/config] on the Hub, a dataset directory, or a .json or .jsonl file in the format of LLaVA, "
    "ShareGPT or TRL"
)
# `Method.needs` -> its description in `compact method list`.
_NEEDS: Final = {"images": "images", "questions": "a dataset of questions about images"}


def add_annotate(annotate: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact annotate` to its parser."""
    set_command(annotate, _annotate, "compact annotate llava_v1_5_mix665k.json --image-root pool --out run --limit 500")
    annotate.add_argument("--json", action="store_true", help="print the summary as JSON")
    verifier_help = {
        "verifier": "model that labels the questions (default: gemini)",
        "verifier_url": "URL of another server that speaks the verifier's protocol",
    }
    # Left out: the options of a teacher, which annotate does not have, and shards.
    _add_method_options(annotate, "annotate", ("teacher", "teacher_url", "shard", "noise"), verifier_help)


def add_augment(augment: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact augment` to its parser."""
    set_command(augment, _augment, "compact augment org/name --split train --out run --limit 20")
    teacher_help = {
        "teacher": "model that rewrites the questions (default: gemini)",
        "verifier_url": "URL of another server that speaks the verifier's protocol",
    }
    _add_method_options(augment, "augment", ("shard", "noise"), teacher_help)


def _add_method_options(
    parser: argparse.ArgumentParser, method: str, without: Sequence[str], help_texts: dict[str, str]
) -> None:
    """Add the arguments of a command that runs a single method: its own options and those of all runs."""
    parser.add_argument("dataset", metavar="DATASET", help=_DATASET_HELP)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="run directory; an existing one is resumed"
    )
    # The names of all options, by which `_options` finds their values after parsing.
    names = add_options(parser, get_method(method).options)
    names += add_options(parser, RunOptions, without=without, help_texts=help_texts)
    parser.set_defaults(option_names=names)


def _annotate(args: argparse.Namespace) -> int:
    from compact_hf.methods.annotate.annotate import ANNOTATIONS_FILE, annotate

    with ProgressBar("images") as bar:
        summary = annotate(args.dataset, args.out, **_options(args), **_callbacks(bar))
    # For programs: no hints about what to do next.
    if args.json:
        print_json(asdict(summary))
        return 0
    print_summary(summary.summary())
    log(f'to load all annotations: load_dataset("parquet", data_files={str(args.out / ANNOTATIONS_FILE)!r})')
    return 0


def _augment(args: argparse.Namespace) -> int:
    from compact_hf.methods.augment.augment import augment

    with ProgressBar("images") as bar:
        progress = augment(args.dataset, args.out, **_options(args), **_callbacks(bar))
    _print_loss(args.out)
    _log_next_steps(progress, args.out, "augment")
    return 0


def _print_loss(out: Path) -> None:
    """Print what a run dropped from its dataset of questions, and why."""
    from compact_hf.methods.status import status
    from compact_hf.methods.tables import format_loss

    print_summary(format_loss(status(out)))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in args.option_names}


def _callbacks(bar: ProgressBar) -> dict[str, Any]:
    return {"on_progress": make_progress_callback(bar), "on_wait": lambda line: bar.log_note(f"compact: {line}")}


def _log_next_steps(progress: RunProgress, out: Path, method: str) -> None:
    commands = [format_command("compact", "status", out)]
    if get_method(method).makes_rows:
        commands.append(format_command("compact", "assemble", out, "--out", "release", "--version", "1.0.0"))
    log(
        f"{progress.kept:,} of {format_count(progress.finished, 'image')} kept, "
        f"{format_count(progress.accepted, 'question')} accepted; next: {', '.join(commands)}"
    )


def add_generate(generate: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Add the arguments of `compact generate` to its parser, with the options of the method that is named.

    Args:
        generate (`argparse.ArgumentParser`): the parser.
        argv (`Sequence[str]`): the command line, which is searched for `--method`.

    Raises:
        UsageError: there is no method of that name.
    """
    name, method = _named_method(argv)
    set_command(generate, _generate, "compact generate photos --out run --limit 20")
    generate.add_argument(
        "source",
        metavar="SOURCE",
        help="a directory of images, scenes:N, or hf://datasets/org/name[@revision][/config][?split=NAME] "
        "(only the needed parts of Parquet files are downloaded)"
        if method.needs == "images"
        else _DATASET_HELP,
    )
    generate.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="run directory; an existing one is resumed"
    )
    generate.add_argument(
        "--method",
        default=DEFAULT_METHOD,
        metavar="NAME",
        help=f"a method from `compact method list`, or package.module:Class (default: {DEFAULT_METHOD})",
    )
    # Options of another method get a group of their own in the help.
    own_options = generate if name == DEFAULT_METHOD else generate.add_argument_group(f"options of the method {name}")
    names = add_options(own_options, method.options) + add_options(generate, RunOptions)
    # Options of the command only, which `generate` in Python does not have.
    generate.add_argument(
        "--dry-run", action="store_true", help="print requests, tokens, cost and time, without any request or API key"
    )
    generate.add_argument(
        "--runner",
        choices=("local", "ray"),
        default="local",
        help="local: run on this machine; ray: run on the connected Ray cluster (default: local)",
    )
    generate.add_argument("--shards", type=int, metavar="N", help="number of shards, with --runner ray")
    generate.set_defaults(option_names=names)


def add_status(status: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact status` to its parser."""
    set_command(status, _status, "compact status run")
    status.add_argument(
        "run_directory", metavar="RUN", type=Path, help="a run directory, or a directory with its shards"
    )
    status.add_argument(
        "--price-in", type=float, metavar="USD", help="USD per million input tokens, if unknown to genai-prices"
    )
    status.add_argument(
        "--price-out", type=float, metavar="USD", help="USD per million output tokens, if unknown to genai-prices"
    )
    status.add_argument("--json", action="store_true", help="print the status as JSON")


def _named_method(argv: Sequence[str]) -> tuple[str, type[Method]]:
    """Return name and class of the method that a command line of `generate` names, else those of the default method.

    The options of the method have to be known before the command line is parsed, so `--method` is looked up first.
    """
    # A parser that knows only `--method`, and never exits: `--help` and errors are left to the real parser.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    try:
        name = parser.parse_known_args(argv)[0].method if "generate" in argv[:1] else DEFAULT_METHOD
    except argparse.ArgumentError:  # nothing follows --method; the real parser reports it
        name = DEFAULT_METHOD
    return name, get_method(name)


def add_method(method: argparse.ArgumentParser) -> None:
    """Add the subcommands of `compact method` to its parser."""
    method.epilog = "example: compact method list"
    subcommands = method.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = add_command(
        subcommands, "list", _list_methods, "list the methods of all installed packages", "compact method list"
    )
    listing.add_argument("--json", action="store_true", help="print the methods, with their options, as JSON")


def _list_methods(args: argparse.Namespace) -> int:
    methods = list_methods()
    if args.json:
        print_json({name: _describe_method(method) for name, method in methods.items()})
        return 0
    rows = [(name, method.summary, _NEEDS[method.needs]) for name, method in methods.items()]
    print_table(("method", "makes", "needs"), rows)
    return 0


def _describe_method(method: type[Method]) -> dict[str, Any]:
    return {
        "makes": method.summary,
        "needs": method.needs,
        "asks": list(method.roles),
        "options": [item.name for item, _ in iter_flags(method.options)],
        "reject_reasons": [str(reason) for reasons in method.reject_reasons for reason in reasons],
    }


def _generate(args: argparse.Namespace) -> int:
    # Shards: Ray makes them itself; on this machine a call runs at most one.
    if args.runner == "ray" and (args.shards is None or args.shard is not None):
        raise UsageError("--runner ray divides the run into shards itself: give --shards N, and not --shard")
    if args.runner == "local" and args.shards is not None:
        raise UsageError("--shards N needs --runner ray; to run one shard on this machine, give --shard I/N")
    settings = {"method": args.method, **_options(args)}
    if args.dry_run:
        return _print_forecast(args.source, args.out, settings)
    with ProgressBar("images") as bar:
        progress = _run_generation(args, settings, bar)
    if get_method(args.method).needs == "questions":
        _print_loss(args.out)
    _log_next_steps(progress, args.out, args.method)
    return 0


def _run_generation(args: argparse.Namespace, settings: dict[str, Any], bar: ProgressBar) -> RunProgress:
    """Generate on this machine or on a Ray cluster, and return the final progress."""
    from compact_hf.methods.generate import generate

    if args.runner == "ray":
        from compact_hf.runs.ray import generate_on_ray

        # `generate_on_ray` sets the shard of each worker.
        del settings["shard"]
        return generate_on_ray(generate, args.source, args.out, shards=args.shards, **settings, **_callbacks(bar))
    return generate(args.source, args.out, **settings, **_callbacks(bar))


def _print_forecast(source: str, out: Path, settings: dict[str, Any]) -> int:
    from compact_hf.methods.dry_run import dry_run
    from compact_hf.methods.tables import format_forecast

    print_summary(format_forecast(dry_run(source, out, **settings)))
    return 0


def _status(args: argparse.Namespace) -> int:
    from compact_hf.methods.status import status

    run_status = status(args.run_directory, price_in=args.price_in, price_out=args.price_out)
    if args.json:
        print_json(asdict(run_status))
        return 0
    print_summary(run_status.summary())
    return 0
