"""An ablation told on one page: `AblationReport` in, a figure and one self-contained HTML file out.

The figure has a block for all questions and one for each k, and in it a line for each variant, named where it stands:
a dot for every seed, a diamond for their mean, and the mean's 95% interval. No color has to be told from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from compact_hf.reports.figure import Plot
from compact_hf.reports.table import Table
from compact_hf.reports.theme import jinja_environment, new_figure, tone

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Spread:
    """A share, 0 to 1, or a difference of two: the mean over seeds, its 95% interval, and each seed's own."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """How each variant answers one set of questions.

    Attributes:
        label (`str`): `all`, `k = 2`.
        n (`int`): how many questions.
        majority (`float`): share that the most frequent answer of each k gets right.
        accuracy (`Mapping[str, Spread]`): of each variant, in order.
        difference (`Mapping[str, Spread]`): of each but the baseline, to it.
    """

    label: str
    n: int
    majority: float
    accuracy: Mapping[str, Spread]
    difference: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class VariantData:
    """What a variant was tuned on, as it is to be read: counts, or `from to` where seeds differ; the last losses."""

    variant: str
    questions: str
    images: str
    rows: str
    steps: str
    loss: str


@dataclass(frozen=True, slots=True)
class AblationReport:
    """What one page tells.

    Attributes:
        dataset (`str`): what all models were asked, about `images` images.
        base, recipe (`str`): what all were tuned from, and how.
        seeds (`tuple[int, ...]`): one model each for every variant.
        baseline (`str`): the variant that the others are compared with.
        variants (`tuple[VariantData, ...]`): what each was tuned on.
        groups (`tuple[GroupScores, ...]`): all questions first, then each k.
    """

    dataset: str
    images: int
    base: str
    recipe: str
    seeds: tuple[int, ...]
    baseline: str
    variants: tuple[VariantData, ...]
    groups: tuple[GroupScores, ...]


def render_ablation(report: AblationReport) -> str:
    """Return the page as one HTML document. The same report gives the same text."""
    findings = [sentence for group in report.groups for sentence in _describe_differences(group, report.baseline)]
    variant_table = Table(
        ("variant", "training questions", "pictures", "rows", "steps", "last loss, by seed"),
        tuple(
            (variant.variant, variant.questions, variant.images, variant.rows, variant.steps, variant.loss)
            for variant in report.variants
        ),
    )
    return (
        jinja_environment()
        .get_template("ablation_page.html.jinja")
        .render(
            title="What the data does",
            report=report,
            variants=variant_table,
            findings=findings,
            accuracy=plot_accuracy_by_variant(report),
            differences=plot_variant_differences(report) if len(report.variants) > 1 else None,
        )
    )


def plot_accuracy_by_variant(report: AblationReport) -> Plot:
    """Draw each variant's share of right answers, over all questions and by k."""
    names = tuple(report.groups[0].accuracy)
    highest = max(
        max(group.majority, *(max(spread.high, *spread.by_seed) for spread in group.accuracy.values()))
        for group in report.groups
    )
    with new_figure(_height(report, len(names))) as (figure, axes):
        for top, group in _layout_groups(report, len(names)):
            axes.barh(
                top + (len(names) - 1) / 2,
                100 * group.majority,
                len(names),
                facecolor=tone("rule"),
                label="most frequent answer" if group is report.groups[0] else None,
            )
            for index, name in enumerate(names):
                _draw_spread(
                    axes,
                    top + index,
                    group.accuracy[name],
                    is_hollow=name == report.baseline,
                    is_labelled=top + index == 1,
                )
        axes.set_xlim(0, min(100, max(20, 10 * ceil(10.5 * highest))))
        _finish_axes(axes, report, names, "% right: mean over seeds, 95% interval")
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2)
    rows = tuple(
        (
            group.label,
            f"{group.n:,}",
            f"{group.majority:.1%}",
            *(f"{spread.mean:.1%} ({spread.low:.1%}–{spread.high:.1%})" for spread in group.accuracy.values()),
        )
        for group in report.groups
    )
    alt = " ".join(
        f"{group.label} (n = {group.n:,}): "
        + ", ".join(f"{name} {spread.mean:.0%}" for name, spread in group.accuracy.items())
        + f"; most frequent answer {group.majority:.0%}."
        for group in report.groups
    )
    head = ("questions", "n", "most frequent answer", *names)
    return Plot("accuracy-by-variant", "Accuracy by variant and k", alt, Table(head, rows), figure)


def plot_variant_differences(report: AblationReport) -> Plot:
    """Draw how much better or worse than the baseline each other variant is, in percentage points."""
    names = tuple(report.groups[0].difference)
    with new_figure(_height(report, len(names))) as (figure, axes):
        axes.axvline(0, color=tone("muted"), linewidth=1)
        for top, group in _layout_groups(report, len(names)):
            for index, name in enumerate(names):
                _draw_spread(axes, top + index, group.difference[name], is_hollow=False, is_labelled=top + index == 1)
        _finish_axes(axes, report, names, f"points against {report.baseline}")
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
    rows = tuple((group.label, *(_points(spread) for spread in group.difference.values())) for group in report.groups)
    alt = " ".join(sentence for group in report.groups for sentence in _describe_differences(group, report.baseline))
    title = f"Difference to {report.baseline}"
    return Plot("difference-by-variant", title, alt, Table(("questions", *names), rows), figure)


def _height(report: AblationReport, variants: int) -> float:
    return 1.0 + 0.21 * len(report.groups) * (variants + 1.2)


def _layout_groups(report: AblationReport, variants: int) -> list[tuple[float, GroupScores]]:
    """Return where each line's first variant stands, under its heading."""
    return [(1 + index * (variants + 1.2), group) for index, group in enumerate(report.groups)]


def _draw_spread(axes: Axes, y: float, spread: Spread, *, is_hollow: bool, is_labelled: bool) -> None:
    axes.plot(
        [100 * share for share in spread.by_seed],
        [y - 0.3] * len(spread.by_seed),
        linestyle="",
        marker="o",
        markersize=3,
        color=tone("ink"),
        clip_on=False,
        label="a seed" if is_labelled else None,
    )
    axes.errorbar(
        100 * spread.mean,
        y,
        xerr=[[100 * max(0.0, spread.mean - spread.low)], [100 * max(0.0, spread.high - spread.mean)]],
        fmt="D",
        markersize=5.5,
        elinewidth=1.4,
        color=tone("accent"),
        markerfacecolor=tone("paper") if is_hollow else tone("accent"),
        clip_on=False,
        label="mean" if is_labelled else None,
    )


def _finish_axes(axes: Axes, report: AblationReport, names: tuple[str, ...], label: str) -> None:
    positions: list[float] = []
    for top, group in _layout_groups(report, len(names)):
        axes.annotate(
            f"{group.label} (n = {group.n:,})",
            (0, top - 1),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontweight="bold",
        )
        positions += [top + index for index in range(len(names))]
    axes.set_yticks(positions, names * len(report.groups))
    axes.tick_params(axis="y", length=0, labelsize=9.5)
    axes.set_ylim(positions[-1] + 0.8, -0.6)
    axes.set_xlabel(label, loc="right")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _describe_differences(group: GroupScores, baseline: str) -> list[str]:
    """Return one sentence for each variant: better or worse is said only where the whole interval is."""
    sentences = []
    for name, spread in group.difference.items():
        scope = "On all questions" if group.label == "all" else f"At {group.label}"
        if spread.low > 0 or spread.high < 0:
            comparison = f"{name} is {'better' if spread.low > 0 else 'worse'} than {baseline}"
        else:
            comparison = f"no clear difference between {name} and {baseline}"
        sentences.append(f"{scope} (n = {group.n:,}): {comparison}, {_points(spread)} points.")
    return sentences


def _points(spread: Spread) -> str:
    # A minus is as wide as a plus and stands out; a hyphen does not.
    return f"{100 * spread.mean:+.1f} ({100 * spread.low:+.1f} to {100 * spread.high:+.1f})".replace("-", "−")
