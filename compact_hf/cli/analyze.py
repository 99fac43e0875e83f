"""Defines the arguments, progress bar and output of `compact analyze`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from compact_hf.cli.console import ProgressBar, log, print_json, print_summary
from compact_hf.cli.parser import set_command

_DATASET_HELP: Final = "a dataset directory, org/name[@revision][/config] on the Hub, or a run of generate or annotate"


def add_analyze(analyze: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact analyze` to its parser."""
    set_command(analyze, _analyze, "compact analyze annotated-llava release --out analysis")
    analyze.add_argument("dataset", metavar="DATASET", help=_DATASET_HELP)
    analyze.add_argument("other", metavar="OTHER", nargs="?", help="a second dataset, to compare the first with")
    analyze.add_argument(
        "--out", type=Path, metavar="DIR", help="write analysis.html and analysis.json to this directory"
    )
    # Both options take one name for both datasets, or one for each.
    for name, default in (("config", "the dataset's default config"), ("split", "all splits")):
        analyze.add_argument(
            f"--{name}",
            type=_parse_one_or_two,
            metavar="NAME[,NAME]",
            help=f"{name} of the dataset, or one for each of two datasets (default: {default})",
        )
    analyze.add_argument("--json", action="store_true", help="print the result as JSON")


def _analyze(args: argparse.Namespace) -> int:
    from compact_hf.evaluation.analysis.analyze import REPORT_FILE, analyze

    with ProgressBar("rows") as bar:
        analysis = analyze(
            args.dataset,
            args.other,
            out=args.out,
            config=args.config,
            split=args.split,
            on_progress=lambda name, done, total: bar.show(done, total, name),
            on_wait=lambda line: bar.log_note(f"compact: {line}"),
        )
    if args.json:
        print_json(analysis.to_json())
    else:
        print_summary(analysis.summary())
    if args.out is not None:
        log(f"open {args.out / REPORT_FILE} in a browser")
    return 0


def _parse_one_or_two(text: str) -> str | tuple[str, str]:
    """Return the name that an option gives for both datasets, or the pair of names for each of them."""
    names = text.split(",")
    if len(names) > 2 or not all(names):
        raise argparse.ArgumentTypeError(f"got {text!r}; give one name, or two names separated by a comma")
    return names[0] if len(names) == 1 else (names[0], names[1])
