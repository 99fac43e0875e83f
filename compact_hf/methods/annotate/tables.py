"""What a terminal shows of annotated questions: a `Summary` in, lines and tables out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from compact_hf.methods.annotate.summary import Summary
from compact_hf.methods.compact.tables import Table

MOST_PAIRS: Final = 10
"""Pairs that are shown; the rest are in `--json`."""


def summary_parts(found: Summary) -> Iterator[str | Table]:
    """Yield what `compact annotate` says, from the figures that the paper gives to what could not be annotated."""
    judges = ", ".join(found.verifiers) or "nobody yet"
    yield f"{found.questions:,} questions about {found.pictures:,} pictures, judged by {judges}"
    if found.mean_k is not None and found.at_most_2 is not None and found.none_needed is not None:
        yield (
            f"mean k {found.mean_k:.2f}, mode {found.mode_k}; {found.at_most_2:.1%} with k <= 2, "
            f"{found.none_needed:.1%} with k = 0"
        )
    yield Table(
        ("k", "questions", "share"), [(k, count, _share(count, found.questions)) for k, count in found.by_k.items()]
    )
    yield Table(
        ("needed", "questions", "share"),
        [(name, count, _share(count, found.questions)) for name, count in found.by_capability.items()],
    )
    yield Table(
        ("needed together", "questions", "share"),
        [
            (f"{pair.one}, {pair.other}", pair.questions, _share(pair.questions, found.questions))
            for pair in found.by_pair[:MOST_PAIRS]
        ],
    )
    yield Table(("not annotated because of", "count"), list(found.rejects.items()))


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else ""
