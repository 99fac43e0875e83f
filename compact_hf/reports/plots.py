"""Plots of what was made: how complex it is, how broad, and which capabilities are needed together.

In: how often each combination of capabilities was accepted (its length is k). Out: `Plot`s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Final

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
    spoken,
    tone,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
