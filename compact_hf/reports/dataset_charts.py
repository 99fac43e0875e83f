"""Draws figures of datasets: distribution of k, coverage and pairs of capabilities, rejects, and text lengths.

The functions take counts or shares by name, for one dataset or for two, and return `Plot`s. Two datasets differ in
lightness and hatching, or in solid and dashed lines. Rejects are shown beside the faults that were planted on purpose,
to measure how many of them the checks find.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.reports.figure import Plot
from compact_hf.reports.pair_charts import PAIRS, TRIANGLE_HEIGHT, Cell, draw_triangle
from compact_hf.reports.ranking import find_extremes, join_names
from compact_hf.reports.table import Table
from compact_hf.reports.theme import (
    LABEL_ABOVE,
    LABEL_RIGHT,
    get_label,
    hide_axis,
    k_style,
    label_capabilities,
    legend_layout,
    new_figure,
    shorten,
    tone,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By index of the dataset: filled, hatched.
_BAR_STYLES: Final[tuple[dict[str, Any], ...]] = (
    {"facecolor": tone("k3")},
    {"facecolor": tone("paper"), "edgecolor": tone("accent"), "hatch": "////", "hatchcolor": tone("k2")},
)
# By index of the dataset: solid, dashed.
_LINE_STYLES: Final[tuple[dict[str, Any], ...]] = (
    {"color": tone("accent"), "linewidth": 2.2},
    {"color": tone("ink"), "linewidth": 1.6, "linestyle": (0, (4, 2))},
)
_MAX_BINS: Final = 24
_MAX_LABEL_CHARS: Final = 24


@dataclass(frozen=True, slots=True)
class Series:
    """The numbers of one dataset.

    Attributes:
        label (`str`): name of the dataset.
        values (`Mapping[str, float]`): the number for each name; a missing name counts as 0.
    """

    label: str
    values: Mapping[str, float]


def plot_bars(
    series: Sequence[Series],
    names: Sequence[str],
    *,
    name: str,
    title: str,
    row_header: str,
    value_header: str = "",
    format_value: Callable[[float], str] = "{:.1%}".format,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Plot:
    """Draw horizontal bars: one for each name and dataset.

    Args:
        series (`Sequence[Series]`): the numbers of one or two datasets.
        names (`Sequence[str]`): names from top to bottom; capabilities are marked with the color of their group.
        name (`str`): name of the plot, unique on the page.
        title (`str`): title of the plot.
        row_header (`str`): header of the table's first column: what the names are.
        value_header (`str`, *optional*, defaults to the dataset's label): header of the table's second column, if there
            is one dataset.
        format_value (`Callable[[float], str]`, *optional*): formats a number; as per cent with one decimal by default.
        notes (`Mapping[str, Sequence[str]]`, *optional*): additional columns of the table: header -> a text per name.
    """
    # Names are one unit apart; the bars of a name share 0.72 of it.
    height = 0.72 / len(series)
    # 1 if all numbers are 0: matplotlib warns about an axis from 0 to 0.
    max_value = max((dataset.values.get(category, 0) for dataset in series for category in names), default=0) or 1
    columns, lines = legend_layout([shorten(dataset.label) for dataset in series])
    with new_figure(
        # Inches: margins, the legend, and for each name a gap and its bars.
        0.5 + (0.22 * lines if len(series) > 1 else 0) + (0.2 + 0.16 * len(series)) * len(names)
    ) as figure_and_axes:
        figure, axes = figure_and_axes
        for index, dataset in enumerate(series):
            # The bars of a name are centered on its position.
            positions = [position + (index - (len(series) - 1) / 2) * height for position in range(len(names))]
            values = [dataset.values.get(category, 0) for category in names]
            axes.barh(positions, values, height * 0.92, label=shorten(dataset.label), **_BAR_STYLES[index])
            for position, value in zip(positions, values, strict=True):
                axes.annotate(format_value(value), (value, position), fontsize=10, **LABEL_RIGHT)
        # Space for the number to the right of the longest bar.
        axes.set_xlim(0, max_value * 1.24)
        label_capabilities(axes, names, [_truncate(get_label(category)) for category in names])
        hide_axis(axes, "x")
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
    return Plot(
        name,
        title,
        _make_alt_text(series, names, format_value),
        _make_table(series, names, (row_header, value_header), format_value, notes or {}),
        figure,
    )


def plot_lengths(series: Sequence[tuple[str, Mapping[int, int]]], *, name: str, title: str) -> Plot:
    """Draw the distribution of the number of words in texts.

    The axis ends where 99% of the texts of each dataset are shown; the table's last row counts the rest.

    Args:
        series (`Sequence[tuple[str, Mapping[int, int]]]`): for each dataset its label, and the number of texts by
            number of words, which must not be empty.
        name (`str`): name of the plot, unique on the page.
        title (`str`): title of the plot.
    """
    # Numbers of words from 0 to end - 1, in at most `_MAX_BINS` bins of equal width.
    end = max(_quantile(counts, 0.99) for _, counts in series) + 1
    width = max(1, ceil(end / _MAX_BINS))
    # The lower edges of the bins, and the upper edge of the last one.
    edges = list(range(0, end + width, width))
    shares = []
    for _, counts in series:
        total = sum(counts.values())
        binned = [sum(counts.get(words, 0) for words in range(start, start + width)) / total for start in edges[:-1]]
        # The last share is that of longer texts; rounding could make it slightly negative.
        shares.append([*binned, max(0.0, 1 - sum(binned))])
    with new_figure(2.8) as (figure, axes):
        for index, (label, _) in enumerate(series):
            if not index:
                # Only the area of the first dataset is filled; two areas would hide each other.
                axes.stairs(shares[index][:-1], edges, color=tone("k3"), linewidth=0, fill=True, alpha=0.25)
            axes.stairs(shares[index][:-1], edges, label=shorten(label), **_LINE_STYLES[index])
        axes.set(xlabel="words", xlim=(0, edges[-1]), ylim=(0, None))
        axes.locator_params(axis="x", integer=True, steps=[1, 2, 5, 10])
        # Below 5%, whole per cents would give several ticks the same label.
        axes.yaxis.set_major_formatter("{x:.0%}" if max(map(max, shares)) >= 0.05 else "{x:.1%}")
        axes.grid(axis="y")
        if len(series) > 1:
            columns, _ = legend_layout([shorten(label) for label, _ in series])
            figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
    spans = [f"{start}" if width == 1 else f"{start}–{start + width - 1}" for start in edges[:-1]]
    medians = "; ".join(
        f"{label}: half of them have at most {_quantile(counts, 0.5)} words" for label, counts in series
    )
    return Plot(
        name,
        title,
        f"A step chart over the number of words. {medians}; 99% have at most {end - 1}.",
        Table(
            ("words", *(label for label, _ in series)),
            tuple(
                (span, *(f"{share[row]:.1%}" for share in shares))
                for row, span in enumerate([*spans, f"{edges[-1]} or more"])
                # Bins without texts are left out of the table.
                if any(share[row] for share in shares)
            ),
        ),
        figure,
    )


def _quantile(counts: Mapping[int, int], share: float) -> int:
    """Return the smallest number of words that at least this share of the texts does not exceed."""
    target, cumulative = share * sum(counts.values()), 0
    for words in sorted(counts):
        cumulative += counts[words]
        if cumulative >= target:
            return words
    return 0


def _make_table(
    series: Sequence[Series],
    names: Sequence[str],
    heads: tuple[str, str],
    format_value: Callable[[float], str],
    notes: Mapping[str, Sequence[str]],
) -> Table:
    labels = [heads[1]] if heads[1] and len(series) == 1 else [dataset.label for dataset in series]
    return Table(
        (heads[0], *labels, *notes),
        tuple(
            (
                get_label(category),
                *(format_value(dataset.values.get(category, 0)) for dataset in series),
                *(column[row] for column in notes.values()),
            )
            for row, category in enumerate(names)
        ),
    )


def _make_alt_text(series: Sequence[Series], names: Sequence[str], format_value: Callable[[float], str]) -> str:
    parts = []
    for dataset in series:
        values = {name: dataset.values.get(name, 0) for name in names}
        if (extremes := find_extremes(values)) is None:
            parts.append(f"{dataset.label}: {format_value(values[names[0]])}{' for each' if len(names) > 1 else ''}.")
            continue
        most, least = (join_names(map(get_label, group)) for group in (extremes.highest, extremes.lowest))
        parts.append(
            f"{dataset.label}: highest {format_value(values[extremes.highest[0]])} for {most}, lowest "
            f"{format_value(values[extremes.lowest[0]])} for {least}."
        )
    return f"A bar chart of {len(names)} {'value' if len(names) == 1 else 'values'}. {' '.join(parts)}"


def _truncate(text: str) -> str:
    return text if len(text) <= _MAX_LABEL_CHARS else f"{text[: _MAX_LABEL_CHARS - 1]}…"


_MAX_K: Final = 5  # larger k share the last of the five tones

PAPER_MEAN_K: Final = {"LLaVA-665K (paper)": 1.95, "COMPACT (paper)": 2.89}
"""Mean k that the paper reports (arXiv 2504.21850): Gemini judged samples of 5,400 and 7,200 questions."""


def plot_k_distribution(
    combination_counts: Mapping[tuple[str, ...], int], *, means: Mapping[str, float] | None = None
) -> Plot:
    """Draw the number of questions by k.

    Args:
        combination_counts (`Mapping[tuple[str, ...], int]`): number of accepted questions by combination of
            capabilities; the length of a combination is k.
        means (`Mapping[str, float]`, *optional*): mean k of other datasets by label, marked above the bars, such as
            `PAPER_MEAN_K`. The sampled k is a lower bound of the k that a judge model finds, so the label should name
            the source.
    """
    # k -> number of questions
    counts: Counter[int] = Counter()
    for combination, count in combination_counts.items():
        counts[len(combination)] += count
    total = counts.total()
    mean = sum(k * count for k, count in counts.items()) / total if total else 0.0
    # All k between the smallest and the largest, so that gaps are visible; 1 to 3 without questions.
    ks = range(min(counts, default=1), max(counts, default=3) + 1)
    shares = {k: counts[k] / total if total else 0.0 for k in ks}
    with new_figure(3.2) as (figure, axes):
        for k in ks:
            axes.bar(k, counts[k], width=0.72, **k_style(k))
            axes.annotate(f"{counts[k]:,}\n{shares[k]:.0%}", (k, counts[k]), **LABEL_ABOVE)
        axes.set(xlabel="k, capabilities needed", xticks=list(ks))
        hide_axis(axes, "y")
        _mark_means(
            axes, {"here" if means else "": mean, **(means or {})}, max_count=max(counts.values(), default=0) or 1
        )
    bars_text = ", ".join(f"{counts[k]:,} of k = {k} ({shares[k]:.0%})" for k in ks)
    return Plot(
        "k-distribution",
        "Questions by k",
        f"Bars: {bars_text}. The mean k is {mean:.2f}.",
        Table(
            ("k", "questions", "share"),
            (
                *((str(k), f"{counts[k]:,}", f"{shares[k]:.1%}") for k in ks),
                ("all", f"{total:,}", f"mean k {mean:.2f}"),
            ),
        ),
        figure,
    )


def _mark_means(axes: Axes, means: Mapping[str, float], *, max_count: float) -> None:
    """Mark each mean above the bars, on a line of its own so that labels do not overlap."""
    middle = sum(axes.get_xlim()) / 2
    for index, (label, value) in enumerate(means.items()):
        # Above the highest bar with its two lines of numbers, and 0.16 of its height apart.
        position = (value, max_count * (1.42 + 0.16 * index))
        # A label in the right half is to the left of its marker, or it would leave the figure.
        is_left = value > middle
        axes.plot(*position, marker="v", color=tone("ink"), markersize=7)
        label_style = (
            {**LABEL_RIGHT, "xytext": (-8, 0), "ha": "right"} if is_left else {**LABEL_RIGHT, "xytext": (8, 0)}
        )
        axes.annotate(f"mean k {value:.2f}{', ' if label else ''}{label}", position, **label_style)
    axes.set_ylim(0, max_count * (1.42 + 0.16 * len(means)))


def plot_coverage(combination_counts: Mapping[tuple[str, ...], int]) -> Plot:
    """Draw the number of accepted questions that need each of the ten capabilities, by k (k >= 5 combined).

    Capabilities that no question needs are shown with 0, because the chart should reveal gaps.

    Args:
        combination_counts (`Mapping[tuple[str, ...], int]`): number of accepted questions by combination of
            capabilities.
    """
    # capability -> k -> number of questions; `_MAX_K` includes larger k
    counts = {name: Counter[int]() for name in CAPABILITIES}
    for combination, count in combination_counts.items():
        for name in combination:
            counts[name][min(len(combination), _MAX_K)] += count
    ks = sorted({min(len(combination), _MAX_K) for combination in combination_counts if combination})
    has_more = any(len(combination) > _MAX_K for combination in combination_counts)
    labels = [f"k ≥ {k}" if has_more and k == _MAX_K else f"k = {k}" for k in ks]
    names = list(CAPABILITIES)
    max_total = max(counter.total() for counter in counts.values()) or 1
    with new_figure(3.9) as (figure, axes):
        # Invariant: the right end of the bars that are drawn so far, by capability.
        offsets = [0] * len(names)
        for k, label in zip(ks, labels, strict=True):
            widths = [counts[name][k] for name in names]
            axes.barh(range(len(names)), widths, left=offsets, height=0.72, label=label, **k_style(k))
            offsets = [start + width for start, width in zip(offsets, widths, strict=True)]
        for position, end in enumerate(offsets):
            axes.annotate(f"{end:,}", (end, position), **LABEL_RIGHT)
        axes.set_xlim(0, max_total * 1.14)
        label_capabilities(axes, names)
        hide_axis(axes, "x")
        if ks:
            figure.legend(loc="outside lower center", ncols=legend_layout(labels)[0])
    totals = {name: counts[name].total() for name in names}
    extremes = find_extremes(totals)
    ranking = (
        f"Each is needed by the same number of questions, {totals[names[0]]:,}."
        if extremes is None
        else f"The fewest questions, {totals[extremes.lowest[0]]:,}, need "
        f"{join_names(map(get_label, extremes.lowest))}."
    )
    return Plot(
        "coverage",
        "Questions that need each capability",
        f"A stacked bar for each of the ten capabilities. {ranking}",
        Table(
            ("capability", *labels, "all"),
            tuple(
                (get_label(name), *(f"{counts[name][k]:,}" for k in ks), f"{counts[name].total():,}") for name in names
            ),
        ),
        figure,
    )


def plot_cooccurrence(combination_counts: Mapping[tuple[str, ...], int]) -> Plot:
    """Draw the number of accepted questions that need each of the 45 pairs of capabilities.

    Args:
        combination_counts (`Mapping[tuple[str, ...], int]`): number of accepted questions by combination of
            capabilities.
    """
    pairs: Counter[tuple[str, ...]] = Counter()
    for combination, count in combination_counts.items():
        # In the order of `PAIRS`, so that each pair has one key.
        for pair in combinations(canonicalize(combination), 2):
            pairs[pair] += count
    max_count = max(pairs.values(), default=0) or 1
    with new_figure(TRIANGLE_HEIGHT) as (figure, axes):
        draw_triangle(axes, {pair: Cell(f"{pairs[pair]:,}", pairs[pair] / max_count) for pair in PAIRS})
    missing = sum(pairs[pair] == 0 for pair in PAIRS)
    extremes = find_extremes({pair: pairs[pair] for pair in PAIRS})
    ranking = (
        f", each in {max_count:,} questions"
        if extremes is None
        else f", most often {join_names(' with '.join(map(get_label, pair)) for pair in extremes.highest)} "
        f"({max_count:,} questions)"
    )
    return Plot(
        "cooccurrence",
        "Capabilities needed together",
        f"A triangular matrix of the 45 pairs: {45 - missing} occur{ranking if missing < 45 else ''}.",
        Table(
            ("pair", "questions"),
            tuple(
                (f"{get_label(first)} + {get_label(second)}", f"{pairs[first, second]:,}")
                for first, second in sorted(PAIRS, key=lambda pair: -pairs[pair])
            ),
        ),
        figure,
    )


@dataclass(frozen=True, slots=True)
class RejectCount:
    """The number of rejects of one reason, and how many of the faults planted for it were caught.

    Attributes:
        reason (`str`): the reason, as in `records.Reject`.
        rejected (`int`): total number of rejects with this reason.
        injected_faults (`int`, *optional*): number of faults planted on purpose that this check should find; None if
            no such fault can be planted.
        caught_faults (`int`, *optional*): number of these faults that were rejected, for this reason or another.
    """

    reason: str
    rejected: int
    injected_faults: int | None = None
    caught_faults: int | None = None


def plot_rejects(counts: Sequence[RejectCount]) -> Plot:
    """Draw the number of rejects by reason, most frequent first, beside the number of planted faults.

    Args:
        counts (`Sequence[RejectCount]`): the counts, one per reason.
    """
    rows = sorted(counts, key=lambda count: (-count.rejected, count.reason))
    with_faults = [row for row in rows if row.injected_faults is not None]
    return Plot(
        "rejects",
        "Rejects by reason" + (", with planted faults" if with_faults else ""),
        _make_rejects_alt_text(rows, with_faults),
        _make_rejects_table(rows, has_faults=bool(with_faults)),
        _draw_rejects(rows),
    )


def _draw_rejects(rows: Sequence[RejectCount]) -> Figure:
    # Label -> position on the axis -> count. With two bars in a row, each is moved away from the center.
    bars_by_label: dict[str, dict[float, int]] = {"rejected": {}, "planted": {}}
    for index, row in enumerate(rows):
        # No fault can be planted for this reason: one bar in the center of the row.
        if row.injected_faults is None:
            bars_by_label["rejected"][index] = row.rejected
        else:
            bars_by_label["rejected"][index - 0.19] = row.rejected
            bars_by_label["planted"][index + 0.19] = row.injected_faults
    styles: dict[str, dict[str, Any]] = {
        "rejected": {"facecolor": tone("k3")},
        "planted": {"facecolor": tone("paper"), "edgecolor": tone("accent"), "hatch": "////", "hatchcolor": tone("k2")},
    }
    with new_figure(0.8 + 0.5 * max(len(rows), 1)) as (figure, axes):
        for label, counts in bars_by_label.items():
            if counts:
                # Two bars of 0.36 at a distance of 0.38 have a small gap.
                axes.barh(list(counts), list(counts.values()), 0.36, label=label, **styles[label])
            for position, count in counts.items():
                axes.annotate(f"{count:,}", (count, position), **LABEL_RIGHT)
        axes.set_yticks(range(len(rows)), [textwrap.fill(row.reason, 22) for row in rows])
        max_count = max((count for counts in bars_by_label.values() for count in counts.values()), default=0) or 1
        axes.set(xlim=(0, max_count * 1.16), ylim=(len(rows) - 0.5, -0.5))
        hide_axis(axes, "x")
        if bars_by_label["planted"]:
            figure.legend(loc="outside lower center", ncols=2)
    return figure


def _make_rejects_table(rows: Sequence[RejectCount], *, has_faults: bool) -> Table:
    if not has_faults:
        return Table(("reason", "rejected"), tuple((row.reason, f"{row.rejected:,}") for row in rows))
    return Table(
        ("reason", "rejected", "planted", "planted and rejected"),
        tuple(
            (
                row.reason,
                f"{row.rejected:,}",
                *("–" if count is None else f"{count:,}" for count in (row.injected_faults, row.caught_faults)),
            )
            for row in rows
        ),
    )


def _make_rejects_alt_text(rows: Sequence[RejectCount], with_faults: Sequence[RejectCount]) -> str:
    total = sum(row.rejected for row in rows)
    extremes = find_extremes({row.reason: row.rejected for row in rows})
    most_often = f", most often: {join_names(extremes.highest)}" if extremes else ""
    text = f"{total:,} rejects for {len(rows)} {'reason' if len(rows) == 1 else 'reasons'}{most_often}."
    if with_faults:
        caught = sum(row.caught_faults or 0 for row in with_faults)
        text += (
            f" Of {sum(row.injected_faults or 0 for row in with_faults):,} planted faults, {caught:,} were rejected."
        )
    return text
