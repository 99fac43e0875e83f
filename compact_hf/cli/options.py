"""What several commands have in common: how much a teacher is asked, how fast, for how much money; a bar; and ks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from compact_hf.cli.console import ProgressBar

if TYPE_CHECKING:
    from compact_hf.runs.run import RunProgress

RUN_LIMIT_OPTIONS: Final = ("limit", "concurrency", "rpm", "tpm", "max_requests", "max_cost", "price_in", "price_out")
"""The names under which `add_run_limit_options` leaves what was given."""


def add_run_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are free to change when a run goes on."""
    parser.add_argument("--limit", type=int, metavar="N", help="work on N pictures only, drawn by the seed")
    parser.add_argument("--concurrency", type=int, default=16, metavar="C", help="requests in flight (default: 16)")
    parser.add_argument("--rpm", type=float, metavar="N", help="at most N requests a minute")
    parser.add_argument("--tpm", type=float, metavar="N", help="at most N tokens a minute")
    parser.add_argument("--max-requests", type=int, metavar="N", help="stop after N answered requests in all")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop after so many US dollars in all")
    parser.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    parser.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")


def make_progress_callback(bar: ProgressBar) -> Callable[[RunProgress], None]:
    """Return what shows a run's progress on a bar, and each new failure above it."""
    failures = 0

    def show(progress: RunProgress) -> None:
        nonlocal failures
        if progress.failures > failures:
            failures = progress.failures
            bar.warn_throttled(f"compact: trying again: {progress.last_failure}")
        bar.show(progress.finished, progress.images, f"{progress.accepted} questions")

    return show


def parse_ks(text: str) -> tuple[int, ...]:
    """Return the ks of an option, `1,2,3`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give numbers with commas between, such as 1,2,3") from None
