"""What several commands have in common: how much a teacher is asked, how fast, for how much money; a bar; and ks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from compact_hf.cli.console import Bar

if TYPE_CHECKING:
    from compact_hf.runs.run import Standing

TERMS: Final = ("limit", "concurrency", "rpm", "tpm", "max_requests", "max_cost", "price_in", "price_out")
"""The names under which `add_terms` leaves what was given."""


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Add the options that are free to change when a run goes on."""
    parser.add_argument("--limit", type=int, metavar="N", help="work on N pictures only, drawn by the seed")
    parser.add_argument("--concurrency", type=int, default=16, metavar="C", help="requests in flight (default: 16)")
    parser.add_argument("--rpm", type=float, metavar="N", help="at most N requests a minute")
    parser.add_argument("--tpm", type=float, metavar="N", help="at most N tokens a minute")
    parser.add_argument("--max-requests", type=int, metavar="N", help="stop after N answered requests in all")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop after so many US dollars in all")
    parser.add_argument("--price-in", type=float, metavar="USD", help="per million tokens, where it is not known")
    parser.add_argument("--price-out", type=float, metavar="USD", help="as --price-in")


def shown_on(bar: Bar) -> Callable[[Standing], None]:
    """Return what shows a run's standing on a bar, and each new failure above it."""
    failures = 0

    def show(standing: Standing) -> None:
        nonlocal failures
        if standing.failures > failures:
            failures = standing.failures
            bar.grumble(f"compact: trying again: {standing.last_failure}")
        bar.show(standing.finished, standing.pictures, f"{standing.accepted} questions")

    return show


def ks_in(text: str) -> tuple[int, ...]:
    """Return the ks of an option, `1,2,3`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give numbers with commas between, such as 1,2,3") from None
