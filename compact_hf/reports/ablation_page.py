"""Renders the results of an ablation as figures and as one self-contained HTML page.

A figure has a block for all questions and a block for each k. A block has a labelled line for each variant, with a dot
for each seed, and a diamond for their mean with its 95% interval. No information depends on color.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from compact_hf.reports.figure import Plot
from compact_hf.reports.score_charts import Interval, error_bar
from compact_hf.reports.table import Table
from compact_hf.reports.theme import jinja_environment, new_figure, tone

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Spread:
    """A share of right answers, 0 to 1, or a difference of two shares, measured over several seeds.

    Attributes:
        mean (`float`): mean over the seeds.
        low (`float`): lower bound of its 95% interval.
        high (`float`): upper bound of its 95% interval.
        by_seed (`tuple[float, ...]`): the value of each seed.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The results of each variant on one set of questions.

    Attributes:
        label (`str`): name of the set, such as `all` or `k = 2`.
        n (`int`): number of questions.
        majority (`float`): share of questions that the most frequent answer of each k gets right.
        accuracy (`Mapping[str, Spread]`): accuracy by variant, in the order of the page.
        difference (`Mapping[str, Spread]`): accuracy minus that of the baseline, by variant, without the baseline.
    """

    label: str
    n: int
    majority: float
    accuracy: Mapping[str, Spread]
    difference: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class VariantData:
    """The training data of a variant as text for the page: counts (a range if seeds differ), and the last losses.

    Attributes:
        variant (`str`): name of the variant.
        questions (`str`): number of training questions.
        images (`str`): number of images.
        rows (`str`): number of rows.
        steps (`str`): number of training steps.
        loss (`str`): last training loss of each seed.
    """

    variant: str
    questions: str
    images: str
    rows: str
    steps: str
    loss: str


@dataclass(frozen=True, slots=True)
class AblationReport:
    """The content of the page.

    Attributes:
        dataset (`str`): name of the dataset whose questions all models were asked.
        images (`int`): number of images of these questions.
        base (`str`): name of the model that all variants were tuned from.
        recipe (`str`): name of the training recipe.
        matching_version (`str`): version of the rules that marked the answers.
        seeds (`tuple[int, ...]`): the seeds; each variant was tuned once per seed.
        baseline (`str`): name of the variant that the others are compared with.
        variants (`tuple[VariantData, ...]`): the training data of each variant.
        groups (`tuple[GroupScores, ...]`): the results on all questions, then for each k.
    """

    dataset: str
    images: int
    base: str
    recipe: str
    matching_version: str
    seeds: tuple[int, ...]
    baseline: str
    variants: tuple[VariantData, ...]
    groups: tuple[GroupScores, ...]


def render_ablation(report: AblationReport) -> str:
    """Return the page as one HTML document. The same report gives the same text.

    Args:
        report (`AblationReport`): the content.
    """
    findings = [sentence for group in report.groups for sentence in _describe_differences(group, report.baseline)]
    variant_table = Table(
        ("variant", "training questions", "images", "rows", "steps", "last loss, by seed"),
        tuple(
            (variant.variant, variant.questions, variant.images, variant.rows, variant.steps, variant.loss)
            for variant in report.variants
        ),
    )
    return (
        jinja_environment()
        .get_template("ablation_page.html.jinja")
        .render(
            title="Effect of the training data",
            report=report,
            variants=variant_table,
            findings=findings,
            accuracy=plot_accuracy_by_variant(report),
            differences=plot_variant_differences(report) if len(report.variants) > 1 else None,
        )
    )


def plot_accuracy_by_variant(report: AblationReport) -> Plot:
    """Draw the accuracy of each variant, over all questions and by k.

    Args:
        report (`AblationReport`): the results.
    """
    # All groups have the same variants in the same order.
    names = tuple(report.groups[0].accuracy)
    # A share, 0 to 1. A seed may be beyond the interval of the mean, so the dots count too.
    highest = max(
        max(group.majority, *(max(spread.high, *spread.by_seed) for spread in group.accuracy.values()))
        for group in report.groups
    )
    with new_figure(_height(report, len(names))) as (figure, axes):
        for top, group in _layout_groups(report, len(names)):
            # One bar behind the whole block: centered on its lines and one unit high per variant.
            axes.barh(
                top + (len(names) - 1) / 2,
                100 * group.majority,
                len(names),
                facecolor=tone("rule"),
                # A label on one element only, or the legend would repeat the entry.
                label="most frequent answer" if group is report.groups[0] else None,
            )
            for index, name in enumerate(names):
                _draw_spread(
                    axes,
                    top + index,
                    group.accuracy[name],
                    is_hollow=name == report.baseline,
                    # The first line of the first block is at y = 1 (`_layout_groups`).
                    is_labelled=top + index == 1,
                )
        # In per cent: 5% above the highest value, rounded up to a multiple of 10, and from 20 to 100.
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
    """Draw the difference of each variant to the baseline, in percentage points.

    Args:
        report (`AblationReport`): the results.
    """
    names = tuple(report.groups[0].difference)
    with new_figure(_height(report, len(names))) as (figure, axes):
        # No difference to the baseline.
        axes.axvline(0, color=tone("muted"), linewidth=1)
        for top, group in _layout_groups(report, len(names)):
            for index, name in enumerate(names):
                _draw_spread(axes, top + index, group.difference[name], is_hollow=False, is_labelled=top + index == 1)
        _finish_axes(axes, report, names, f"percentage points relative to {report.baseline}")
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
    rows = tuple((group.label, *(_points(spread) for spread in group.difference.values())) for group in report.groups)
    alt = " ".join(sentence for group in report.groups for sentence in _describe_differences(group, report.baseline))
    title = f"Difference to {report.baseline}"
    return Plot("difference-by-variant", title, alt, Table(("questions", *names), rows), figure)


def _height(report: AblationReport, variants: int) -> float:
    """Return the height of a figure in inches: 0.21 per line, with a heading and a gap above each block."""
    return 1.0 + 0.21 * len(report.groups) * (variants + 1.2)


def _layout_groups(report: AblationReport, variants: int) -> list[tuple[float, GroupScores]]:
    """Return the groups, each with the y position of its first variant, one below that of its heading."""
    return [(1 + index * (variants + 1.2), group) for index, group in enumerate(report.groups)]


def _draw_spread(axes: Axes, y: float, spread: Spread, *, is_hollow: bool, is_labelled: bool) -> None:
    axes.plot(
        [100 * share for share in spread.by_seed],
        # Above the line of the mean: the y axis points down.
        [y - 0.3] * len(spread.by_seed),
        linestyle="",
        marker="o",
        markersize=3,
        color=tone("ink"),
        # Markers at the ends of the axis are drawn in full.
        clip_on=False,
        label="a seed" if is_labelled else None,
    )
    axes.errorbar(
        100 * spread.mean,
        y,
        xerr=[[length] for length in error_bar(Interval(spread.mean, spread.low, spread.high))],
        fmt="D",
        markersize=5.5,
        elinewidth=1.4,
        color=tone("accent"),
        markerfacecolor=tone("paper") if is_hollow else tone("accent"),
        clip_on=False,
        label="mean" if is_labelled else None,
    )


def _finish_axes(axes: Axes, report: AblationReport, names: tuple[str, ...], label: str) -> None:
    """Add headings, labels of the variants and the grid."""
    positions: list[float] = []
    for top, group in _layout_groups(report, len(names)):
        # x in fractions of the axes, y in lines: the heading is left of the axis, above the names of the variants.
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
    # Reversed, so that the first block is at the top.
    axes.set_ylim(positions[-1] + 0.8, -0.6)
    axes.set_xlabel(label, loc="right")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _describe_differences(group: GroupScores, baseline: str) -> list[str]:
    """Return one sentence per variant; it says better or worse only if the whole interval is on one side of zero."""
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
    # A minus sign is as wide as a plus sign and easy to see; a hyphen is not.
    return f"{100 * spread.mean:+.1f} ({100 * spread.low:+.1f} to {100 * spread.high:+.1f})".replace("-", "−")
