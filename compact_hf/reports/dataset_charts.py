"""Figures of datasets: complexity, coverage of capabilities, pairs needed together, rejects, and text lengths.

They take counts or shares by name, of one dataset or of two beside each other, and return `Plot`s. Two datasets are
told apart by dark and light, by a hatch, and by a full and a broken line. Rejects are drawn beside the faults that were
planted to see whether they would be found.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.pair_charts import PAIRS, TRIANGLE_HEIGHT, Cell, triangle
from compact_hf.reports.theme import (
    ABOVE,
    BESIDE,
    canvas,
    hide_axis,
    k_look,
    legend_of,
    name_capabilities,
    shortened,
    spoken,
    tone,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS: Final[tuple[dict[str, Any], ...]] = (
    {"facecolor": tone("k3")},
    {"facecolor": tone("paper"), "edgecolor": tone("accent"), "hatch": "////", "hatchcolor": tone("k2")},
)
_LINES: Final[tuple[dict[str, Any], ...]] = (
    {"color": tone("accent"), "linewidth": 2.2},
    {"color": tone("ink"), "linewidth": 1.6, "linestyle": (0, (4, 2))},
)
_MOST_BINS: Final = 24
_MOST_LETTERS: Final = 24


@dataclass(frozen=True, slots=True)
class Series:
    """A data set's numbers: `label`, and what is drawn for each name; a name that is missing counts as 0."""

    label: str
    values: Mapping[str, float]


def bars(
    series: Sequence[Series],
    names: Sequence[str],
    *,
    name: str,
    title: str,
    what: str,
    unit: str = "",
    show: Callable[[float], str] = "{:.1%}".format,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Plot:
    """Draw a bar for each name, and beside it the other data set's, where there are two.

    Args:
        series: one or two.
        names: from top to bottom; capabilities get their group's mark.
        name: unique on the page.
        title: in a few words.
        what: what the names are, the head of the table's first column.
        unit: what the numbers are, the head of the table's column where there is one data set; its label by default.
        show: writes a number.
        notes: column's head -> what else stands in the table for each name.
    """
    height = 0.72 / len(series)
    most = max((one.values.get(of, 0) for one in series for of in names), default=0) or 1
    columns, lines = legend_of([shortened(one.label) for one in series])
    with canvas(0.5 + (0.22 * lines if len(series) > 1 else 0) + (0.2 + 0.16 * len(series)) * len(names)) as drawn:
        figure, axes = drawn
        for index, one in enumerate(series):
            places = [place + (index - (len(series) - 1) / 2) * height for place in range(len(names))]
            values = [one.values.get(of, 0) for of in names]
            axes.barh(places, values, height * 0.92, label=shortened(one.label), **_LOOKS[index])
            for place, value in zip(places, values, strict=True):
                axes.annotate(show(value), (value, place), fontsize=9.5, **BESIDE)
        axes.set_xlim(0, most * 1.24)
        name_capabilities(axes, names, [_short(spoken(of)) for of in names])
        hide_axis(axes, "x")
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
    return Plot(name, title, _told(series, names, show), _table(series, names, (what, unit), show, notes or {}), figure)


def lengths(series: Sequence[tuple[str, Mapping[int, int]]], *, name: str, title: str) -> Plot:
    """Draw how many words texts have: of each data set its label, and number of words -> texts; there must be some.

    The axis ends where all data sets have shown 99% of their texts; the table's last line holds the rest.
    """
    end = max(_reached(counts, 0.99) for _, counts in series) + 1
    width = max(1, ceil(end / _MOST_BINS))
    edges = list(range(0, end + width, width))
    shares = []
    for _, counts in series:
        total = sum(counts.values())
        inside = [sum(counts.get(words, 0) for words in range(start, start + width)) / total for start in edges[:-1]]
        shares.append([*inside, max(0.0, 1 - sum(inside))])
    with canvas(2.8) as (figure, axes):
        for index, (label, _) in enumerate(series):
            if not index:
                axes.stairs(shares[index][:-1], edges, color=tone("k3"), linewidth=0, fill=True, alpha=0.25)
            axes.stairs(shares[index][:-1], edges, label=shortened(label), **_LINES[index])
        axes.set(xlabel="words", xlim=(0, edges[-1]), ylim=(0, None))
        axes.locator_params(axis="x", integer=True, steps=[1, 2, 5, 10])
        axes.yaxis.set_major_formatter("{x:.0%}" if max(map(max, shares)) >= 0.05 else "{x:.1%}")
        axes.grid(axis="y")
        if len(series) > 1:
            columns, _ = legend_of([shortened(label) for label, _ in series])
            figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
    spans = [f"{start}" if width == 1 else f"{start}–{start + width - 1}" for start in edges[:-1]]
    told = "; ".join(f"{label}: half have at most {_reached(counts, 0.5)}" for label, counts in series)
    return Plot(
        name,
        title,
        f"A stepped line over the number of words. {told}, 99% at most {end - 1}.",
        Table(
            ("words", *(label for label, _ in series)),
            tuple(
                (span, *(f"{share[row]:.1%}" for share in shares))
                for row, span in enumerate([*spans, f"{edges[-1]} or more"])
                if any(share[row] for share in shares)
            ),
        ),
        figure,
    )


def _reached(counts: Mapping[int, int], share: float) -> int:
    """Return the least number of words that so many texts do not pass."""
    wanted, seen = share * sum(counts.values()), 0
    for words in sorted(counts):
        seen += counts[words]
        if seen >= wanted:
            return words
    return 0


def _table(
    series: Sequence[Series],
    names: Sequence[str],
    heads: tuple[str, str],
    show: Callable[[float], str],
    notes: Mapping[str, Sequence[str]],
) -> Table:
    labels = [heads[1]] if heads[1] and len(series) == 1 else [one.label for one in series]
    return Table(
        (heads[0], *labels, *notes),
        tuple(
            (spoken(of), *(show(one.values.get(of, 0)) for one in series), *(column[row] for column in notes.values()))
            for row, of in enumerate(names)
        ),
    )


def _told(series: Sequence[Series], names: Sequence[str], show: Callable[[float], str]) -> str:
    parts = []
    for one in series:
        ranked = sorted(names, key=lambda of: -one.values.get(of, 0))
        most, least = ranked[0], ranked[-1]
        parts.append(
            f"{one.label}: most, {show(one.values.get(most, 0))}, for {spoken(most)}; least, "
            f"{show(one.values.get(least, 0))}, for {spoken(least)}."
        )
    return f"A bar for each of {len(names)}. {' '.join(parts)}"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


_LAST_K: Final = 5  # the last step of the ladder of tones

PAPER_MEAN_K: Final = {"LLaVA-665K (paper)": 1.95, "COMPACT (paper)": 2.89}
"""Mean k that the paper reports, judged by Gemini on samples of 5,400 and 7,200 questions (arXiv 2504.21850)."""


def k_distribution(accepted: Mapping[tuple[str, ...], int], *, means: Mapping[str, float] | None = None) -> Plot:
    """Draw how many questions there are of each k.

    Args:
        accepted: how often each combination was accepted; its length is k.
        means: label -> mean k of other data, marked over the bars, such as `PAPER_MEAN_K`. The sampled k is a lower
            bound of the k that a judge finds, so name in the label whose figure it is.
    """
    counts: Counter[int] = Counter()
    for combination, count in accepted.items():
        counts[len(combination)] += count
    total = counts.total()
    mean = sum(k * count for k, count in counts.items()) / total if total else 0.0
    ks = range(min(counts, default=1), max(counts, default=3) + 1)
    shares = {k: counts[k] / total if total else 0.0 for k in ks}
    with canvas(3.2) as (figure, axes):
        for k in ks:
            axes.bar(k, counts[k], width=0.72, **k_look(k))
            axes.annotate(f"{counts[k]:,}\n{shares[k]:.0%}", (k, counts[k]), **ABOVE)
        axes.set(xlabel="k, capabilities needed", xticks=list(ks))
        hide_axis(axes, "y")
        _mark_means(axes, {"here" if means else "": mean, **(means or {})}, above=max(counts.values(), default=0) or 1)
    told = ", ".join(f"{counts[k]:,} of k = {k} ({shares[k]:.0%})" for k in ks)
    return Plot(
        "k-distribution",
        "Questions by k",
        f"Bars: {told}. The mean k is {mean:.2f}.",
        Table(
            ("k", "questions", "share"),
            (
                *((str(k), f"{counts[k]:,}", f"{shares[k]:.1%}") for k in ks),
                ("all", f"{total:,}", f"mean k {mean:.2f}"),
            ),
        ),
        figure,
    )


def _mark_means(axes: Axes, means: Mapping[str, float], *, above: float) -> None:
    """Set one line per mean over the bars, where nothing collides: a mark at its k, its name beside it."""
    middle = sum(axes.get_xlim()) / 2
    for line, (label, value) in enumerate(means.items()):
        place = (value, above * (1.42 + 0.16 * line))
        left = value > middle
        axes.plot(*place, marker="v", color=tone("ink"), markersize=7)
        beside = {**BESIDE, "xytext": (-8, 0), "ha": "right"} if left else {**BESIDE, "xytext": (8, 0)}
        axes.annotate(f"mean k {value:.2f}{', ' if label else ''}{label}", place, **beside)
    axes.set_ylim(0, above * (1.42 + 0.16 * len(means)))


def coverage(accepted: Mapping[tuple[str, ...], int]) -> Plot:
    """Draw how many accepted questions need each of the ten capabilities, by k; those of k >= 5 together.

    Capabilities that no question needs are shown with 0: a gap is what one looks for here.
    """
    counts = {name: Counter[int]() for name in CAPABILITIES}
    for combination, count in accepted.items():
        for name in combination:
            counts[name][min(len(combination), _LAST_K)] += count
    ks = sorted({min(len(combination), _LAST_K) for combination in accepted if combination})
    more = any(len(combination) > _LAST_K for combination in accepted)
    labels = [f"k ≥ {k}" if more and k == _LAST_K else f"k = {k}" for k in ks]
    names = list(CAPABILITIES)
    most = max(counter.total() for counter in counts.values()) or 1
    with canvas(3.9) as (figure, axes):
        left = [0] * len(names)
        for k, label in zip(ks, labels, strict=True):
            widths = [counts[name][k] for name in names]
            axes.barh(range(len(names)), widths, left=left, height=0.72, label=label, **k_look(k))
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, end in enumerate(left):
            axes.annotate(f"{end:,}", (end, place), **BESIDE)
        axes.set_xlim(0, most * 1.14)
        name_capabilities(axes, names)
        hide_axis(axes, "x")
        if ks:
            figure.legend(loc="outside lower center", ncols=legend_of(labels)[0])
    fewest = min(names, key=lambda name: counts[name].total())
    return Plot(
        "coverage",
        "Questions that need each capability",
        f"Stacked bars, one for each of the ten capabilities; the fewest questions, "
        f"{counts[fewest].total():,}, need {spoken(fewest)}.",
        Table(
            ("capability", *labels, "all"),
            tuple((spoken(name), *(f"{counts[name][k]:,}" for k in ks), f"{counts[name].total():,}") for name in names),
        ),
        figure,
    )


def cooccurrence(accepted: Mapping[tuple[str, ...], int]) -> Plot:
    """Draw how many accepted questions need each of the 45 pairs of capabilities."""
    pairs: Counter[tuple[str, ...]] = Counter()
    for combination, count in accepted.items():
        for pair in combinations(canonical(combination), 2):
            pairs[pair] += count
    most = max(pairs.values(), default=0) or 1
    with canvas(TRIANGLE_HEIGHT) as (figure, axes):
        triangle(axes, {pair: Cell(f"{pairs[pair]:,}", pairs[pair] / most) for pair in PAIRS})
    missing = sum(pairs[pair] == 0 for pair in PAIRS)
    common = max(PAIRS, key=lambda pair: pairs[pair])
    return Plot(
        "cooccurrence",
        "Capabilities needed together",
        f"A triangle of the 45 pairs; {45 - missing} of them occur, most often {spoken(common[0])} with "
        f"{spoken(common[1])} ({pairs[common]:,} questions).",
        Table(
            ("pair", "questions"),
            tuple(
                (f"{spoken(one)} + {spoken(other)}", f"{pairs[one, other]:,}")
                for one, other in sorted(PAIRS, key=lambda pair: -pairs[pair])
            ),
        ),
        figure,
    )


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
        _rejects_alt(rows, planted),
        _rejects_table(rows, with_planted=bool(planted)),
        _draw_rejects(rows),
    )


def _draw_rejects(rows: Sequence[RejectCount]) -> Figure:
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


def _rejects_table(rows: Sequence[RejectCount], *, with_planted: bool) -> Table:
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


def _rejects_alt(rows: Sequence[RejectCount], planted: Sequence[RejectCount]) -> str:
    total = sum(row.rejected for row in rows)
    told = f"{total:,} dropped for {len(rows)} reasons" + (f", most often: {rows[0].reason}." if rows else ".")
    if planted:
        found = sum(row.caught or 0 for row in planted)
        told += f" Of {sum(row.planted or 0 for row in planted):,} planted faults {found:,} were dropped."
    return told
