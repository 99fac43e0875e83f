"""`compact generate`, `annotate`, `augment` and `status`: parsing and output."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import ProgressBar, log, print_json, print_summary
from compact_hf.cli.options import RUN_LIMIT_OPTIONS, add_run_limit_options, make_progress_callback, parse_ks
from compact_hf.cli.parser import add_command
from compact_hf.errors import UsageError

if TYPE_CHECKING:
    from compact_hf.runs.run import RunProgress

_DATASET_HELP: Final = "org/name[@revision][/config] on the Hub, a folder such as a release, or LLaVA's JSON file"
_COMMON_OPTIONS: Final = ("split", "image_root", "verifier", "verifier_url", "max_edge", "seed", *RUN_LIMIT_OPTIONS)
_AUGMENT_OPTIONS: Final = ("teacher", "teacher_url", "strict")


def add_annotate_and_augment(commands: Any) -> None:
    """Add these commands to the parser."""
    annotate = add_command(
        commands,
        "annotate",
        _annotate,
        "say what the questions of a data set need",
        "compact annotate llava_v1_5_mix665k.json --image-root pool --out run --limit 500",
    )
    annotate.add_argument("--json", action="store_true", help="for machines")
    augment = add_command(
        commands,
        "augment",
        _augment,
        "rewrite the questions of a data set to need one capability more",
        "compact augment org/name --split train --out run --limit 20",
    )
    augment.add_argument("--teacher", metavar="NAME[:MODEL]", help="who rewrites (default: gemini)")
    augment.add_argument("--teacher-url", metavar="URL", help="another server of the teacher's protocol, such as vLLM")
    augment.add_argument(
        "--strict", action="store_true", help="check answers too: confirmed by the verifier, not guessed blindly"
    )
    for parser, default_verifier in ((annotate, "gemini"), (augment, "the teacher")):
        _add_common_options(parser, default_verifier)


def _add_common_options(parser: argparse.ArgumentParser, default_verifier: str) -> None:
    parser.add_argument("dataset", metavar="DATASET", help=_DATASET_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder; again: goes on")
    parser.add_argument("--split", metavar="NAME", help="one split of it (default: all)")
    parser.add_argument("--image-root", metavar="DIR", help="where a JSON file's paths start (default: beside it)")
    parser.add_argument("--verifier", metavar="NAME[:MODEL]", help=f"who judges (default: {default_verifier})")
    parser.add_argument("--verifier-url", metavar="URL", help="another server of the verifier's protocol")
    parser.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    parser.add_argument(
        "--max-edge", type=int, default=1024, metavar="PX", help="of the pictures that are sent (default: 1024)"
    )
    add_run_limit_options(parser)


def _annotate(args: argparse.Namespace) -> int:
    from compact_hf.methods.annotate.annotate import ANNOTATIONS_FILE, annotate

    with ProgressBar("pictures") as bar:
        summary = annotate(args.dataset, args.out, **_settings(args, bar, _COMMON_OPTIONS))
    if args.json:
        print_json(asdict(summary))
        return 0
    print_summary(summary.summary())
    log(f'all of it: load_dataset("parquet", data_files="{args.out / ANNOTATIONS_FILE}")')
    return 0


def _augment(args: argparse.Namespace) -> int:
    from compact_hf.methods.augment.augment import augment

    with ProgressBar("pictures") as bar:
        progress = augment(args.dataset, args.out, **_settings(args, bar, (*_COMMON_OPTIONS, *_AUGMENT_OPTIONS)))
    log(
        f"{progress.kept} of {progress.finished} pictures kept, {progress.accepted} questions accepted; next: "
        f"compact status {args.out}, compact assemble {args.out} --out release --version 1.0.0"
    )
    return 0


def _settings(args: argparse.Namespace, bar: ProgressBar, names: tuple[str, ...]) -> dict[str, Any]:
    options = {name: getattr(args, name) for name in names}
    return {
        **options,
        "on_progress": make_progress_callback(bar),
        "on_wait": lambda line: bar.log_note(f"compact: {line}"),
    }


_PLAN_OPTIONS: Final = (
    *("teacher", "verifier", "ks", "preset", "strict", "max_edge", "seed", "shard", "limit"),
    *("concurrency", "rpm", "tpm", "max_requests", "max_cost", "price_in", "price_out"),
)
"""What decides how much is asked, and of which run."""
_OTHER_OPTIONS: Final = ("teacher_url", "verifier_url", "noise")


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    generate = add_command(
        commands, "generate", _generate, "ask a teacher about pictures", "compact generate photos --out run --limit 20"
    )
    generate.add_argument(
        "source",
        help="a folder of pictures, scenes:N, or hf://datasets/org/name[@revision][/config][?split=NAME] "
        "(of Parquet files only what is asked about is fetched)",
    )
    generate.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder; again: goes on")
    generate.add_argument(
        "--teacher",
        metavar="NAME[:MODEL]",
        help="gemini, gemini-batch, local, openai, scenes (default: by the source)",
    )
    generate.add_argument("--teacher-url", metavar="URL", help="another server of the teacher's protocol, such as vLLM")
    generate.add_argument("--verifier", metavar="NAME[:MODEL]", help="who judges (default: the teacher)")
    generate.add_argument("--verifier-url", metavar="URL", help="as --teacher-url")
    generate.add_argument(
        "--k", dest="ks", type=parse_ks, metavar="1,2,3", help="draw each picture's k from these (default: 1,2,3)"
    )
    generate.add_argument(
        "--preset",
        default="paper",
        help="paper (default): a question a request; efficient: several, a quarter of the requests",
    )
    generate.add_argument(
        "--strict", action="store_true", help="check answers too: confirmed by the verifier, not guessed blindly"
    )
    generate.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    generate.add_argument(
        "--max-edge", type=int, default=1024, metavar="PX", help="of the pictures that are sent (default: 1024)"
    )
    add_run_limit_options(generate)
    generate.add_argument("--dry-run", action="store_true", help="say what it will take, and ask nothing; needs no key")
    generate.add_argument("--shard", metavar="I/N", help="the I-th of N parts only; numbers are those of all parts")
    generate.add_argument(
        "--runner", choices=("local", "ray"), default="local", help="ray: on the cluster that there is (default: local)"
    )
    generate.add_argument("--shards", type=int, metavar="N", help="with --runner ray: parts to cut the run into")
    generate.add_argument(
        "--noise", type=float, default=0.0, metavar="SHARE", help="faults that the teacher scenes plants, 0 to 1"
    )

    status = add_command(commands, "status", _status, "what a run has done so far", "compact status run")
    status.add_argument("run_folder", metavar="RUN", type=Path, help="a run, or a folder that holds its shards")
    status.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    status.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")
    status.add_argument("--json", action="store_true", help="for machines")


def _generate(args: argparse.Namespace) -> int:
    settings = {name: getattr(args, name) for name in (*_PLAN_OPTIONS, *_OTHER_OPTIONS)}
    if args.runner == "ray" and (args.shards is None or args.shard is not None):
        raise UsageError("--runner ray cuts the run itself: give --shards N, and no --shard")
    if args.runner == "local" and args.shards is not None:
        raise UsageError("--shards N needs --runner ray; for one part of a run on this machine give --shard I/N")
    if args.dry_run:
        return _print_plan(args.source, args.out, {name: settings[name] for name in _PLAN_OPTIONS})
    with ProgressBar("pictures") as bar:
        progress = _run_generation(args, settings, bar)
    log(
        f"{progress.kept} of {progress.finished} pictures kept, {progress.accepted} questions accepted; next: "
        f"compact status {args.out}, compact assemble {args.out} --out release --version 1.0.0"
    )
    return 0


def _run_generation(args: argparse.Namespace, settings: dict[str, Any], bar: ProgressBar) -> RunProgress:
    from compact_hf.methods.compact.generate import generate

    if args.runner == "ray":
        from compact_hf.runs.ray import generate_on_ray

        del settings["shard"]
        return generate_on_ray(
            generate, args.source, args.out, shards=args.shards, on_progress=make_progress_callback(bar), **settings
        )

    def log_wait(line: str) -> None:
        bar.log_note(f"compact: {line}")

    return generate(args.source, args.out, on_progress=make_progress_callback(bar), on_wait=log_wait, **settings)


def _print_plan(source: str, out: Path, settings: dict[str, Any]) -> int:
    from compact_hf.methods.compact.dry_run import dry_run
    from compact_hf.methods.compact.tables import format_forecast

    print_summary(format_forecast(dry_run(source, out, **settings)))
    return 0


def _status(args: argparse.Namespace) -> int:
    from compact_hf.methods.compact.status import status

    run_status = status(args.run_folder, price_in=args.price_in, price_out=args.price_out)
    if args.json:
        print_json(asdict(run_status))
        return 0
    print_summary(run_status.summary())
    return 0
