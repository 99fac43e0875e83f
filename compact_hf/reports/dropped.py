"""The plot of what was dropped, beside the faults that were planted to see whether they would be.

In: one `RejectCount` per reason. Out: a `Plot`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.theme import BESIDE, canvas, hide_axis, tone

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class RejectCount:
    """How often one reason dropped something, and where faults were planted, how many of them were found.

    Attributes:
        reason (`str`): as in `records.Reject`.
        rejected (`int`): dropped for this reason in all.
        planted (`int`, *optional*): faults put in on purpose that this reason is there to find; None where
            none could be.
        caught (`int`, *optional*): how many of the planted were dropped, for this reason or another.
    """

    reason: str
    rejected: int
    planted: int | None = None
    caught: int | None = None


def rejects(counts: Sequence[RejectCount]) -> Plot:
    """Draw what was dropped by reason, most frequent first, beside the faults that were planted."""
    rows = sorted(counts, key=lambda count: (-count.rejected, count.reason))
    planted = [row for row in rows if row.planted is not None]
    return Plot(
        "rejects",
        "Dropped, by reason" + (", beside what was planted" if planted else ""),
        _told(rows, planted),
        _table(rows, with_planted=bool(planted)),
        _drawn(rows),
    )


def _drawn(rows: Sequence[RejectCount]) -> Figure:
    # Label -> place on the axis -> count.
    bars: dict[str, dict[float, int]] = {"dropped": {}, "planted": {}}
    for line, row in enumerate(rows):
        if row.planted is None:
            bars["dropped"][line] = row.rejected
        else:
            bars["dropped"][line - 0.19] = row.rejected
            bars["planted"][line + 0.19] = row.planted
    looks: dict[str, dict[str, Any]] = {
        "dropped": {"facecolor": tone("k3")},
        "planted": {"facecolor": tone("paper"), "edgecolor": tone("accent"), "hatch": "////", "hatchcolor": tone("k2")},
    }
    with canvas(0.8 + 0.5 * max(len(rows), 1)) as (figure, axes):
        for label, counts in bars.items():
            if counts:
                axes.barh(list(counts), list(counts.values()), 0.36, label=label, **looks[label])
            for place, count in counts.items():
                axes.annotate(f"{count:,}", (count, place), **BESIDE)
        axes.set_yticks(range(len(rows)), [textwrap.fill(row.reason, 22) for row in rows])
        most = max((count for counts in bars.values() for count in counts.values()), default=0) or 1
        axes.set(xlim=(0, most * 1.16), ylim=(len(rows) - 0.5, -0.5))
        hide_axis(axes, "x")
        if bars["planted"]:
            figure.legend(loc="outside lower center", ncols=2)
    return figure


def _table(rows: Sequence[RejectCount], *, with_planted: bool) -> Table:
    if not with_planted:
        return Table(("reason", "dropped"), tuple((row.reason, f"{row.rejected:,}") for row in rows))
    return Table(
        ("reason", "dropped", "planted", "planted and dropped"),
        tuple(
            (
                row.reason,
                f"{row.rejected:,}",
                *("–" if count is None else f"{count:,}" for count in (row.planted, row.caught)),
            )
            for row in rows
        ),
    )


def _told(rows: Sequence[RejectCount], planted: Sequence[RejectCount]) -> str:
    total = sum(row.rejected for row in rows)
    told = f"{total:,} dropped for {len(rows)} reasons" + (f", most often: {rows[0].reason}." if rows else ".")
    if planted:
        found = sum(row.caught or 0 for row in planted)
        told += f" Of {sum(row.planted or 0 for row in planted):,} planted faults {found:,} were dropped."
    return told
