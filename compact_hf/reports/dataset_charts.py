"""Plots of one data set, or of two beside each other: shares by name, and how long texts are.

In: numbers by name for each data set. Out: `Plot`s. Two data sets are told apart by dark and light, by a hatch, and by
a full and a broken line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.theme import BESIDE, canvas, hide_axis, legend_of, name_capabilities, shortened, spoken, tone

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
