"""An ablation told on one page: `AblationReport` in, a figure and one self-contained HTML file out.

The figure has a block for all questions and one for each k, and in it a line for each variant, named where it stands:
a dot for every seed, a diamond for their mean, and the mean's 95% interval. No color has to be told from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.theme import canvas, environment, tone

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
class VariantLine:
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
class Arm:
    """What a variant was tuned on, as it is to be read: counts, or `from to` where seeds differ; the last losses."""

    variant: str
    questions: str
    pictures: str
    rows: str
    steps: str
    loss: str


@dataclass(frozen=True, slots=True)
class AblationReport:
    """What one page tells.

    Attributes:
        dataset (`str`): what all models were asked, about `pictures` pictures.
        base, recipe (`str`): what all were tuned from, and how.
        seeds (`tuple[int, ...]`): one model each for every variant.
        baseline (`str`): the variant that the others are compared with.
        arms (`tuple[Arm, ...]`), lines (`tuple[VariantLine, ...]`): all questions first, then each k.
    """

    dataset: str
    pictures: int
    base: str
    recipe: str
    seeds: tuple[int, ...]
    baseline: str
    arms: tuple[Arm, ...]
    lines: tuple[VariantLine, ...]


def render_ablation(report: AblationReport) -> str:
    """Return the page as one HTML document. The same report gives the same text."""
    told = [sentence for line in report.lines for sentence in _told(line, report.baseline)]
    arms = Table(
        ("variant", "training questions", "pictures", "rows", "steps", "last loss, by seed"),
        tuple((arm.variant, arm.questions, arm.pictures, arm.rows, arm.steps, arm.loss) for arm in report.arms),
    )
    return (
        environment()
        .get_template("ablation_page.html.jinja")
        .render(
            title="What the data does",
            report=report,
            arms=arms,
            told=told,
            accuracy=accuracy_of_variants(report),
            differences=differences_of_variants(report) if len(report.arms) > 1 else None,
        )
    )


def accuracy_of_variants(report: AblationReport) -> Plot:
    """Draw each variant's share of right answers, over all questions and by k."""
    names = tuple(report.lines[0].accuracy)
    highest = max(
        max(line.majority, *(max(one.high, *one.by_seed) for one in line.accuracy.values())) for line in report.lines
    )
    with canvas(_height(report, len(names))) as (figure, axes):
        for top, line in _blocks(report, len(names)):
            axes.barh(
                top + (len(names) - 1) / 2,
                100 * line.majority,
                len(names),
                facecolor=tone("rule"),
                label="most frequent answer" if line is report.lines[0] else None,
            )
            for at, name in enumerate(names):
                _mark(axes, top + at, line.accuracy[name], hollow=name == report.baseline, labelled=top + at == 1)
        axes.set_xlim(0, min(100, max(20, 10 * ceil(10.5 * highest))))
        _finish(axes, report, names, "% right: mean over seeds, 95% interval")
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2)
    rows = tuple(
        (
            line.label,
            f"{line.n:,}",
            f"{line.majority:.1%}",
            *(f"{one.mean:.1%} ({one.low:.1%}–{one.high:.1%})" for one in line.accuracy.values()),
        )
        for line in report.lines
    )
    alt = " ".join(
        f"{line.label} (n = {line.n:,}): "
        + ", ".join(f"{name} {one.mean:.0%}" for name, one in line.accuracy.items())
        + f"; most frequent answer {line.majority:.0%}."
        for line in report.lines
    )
    head = ("questions", "n", "most frequent answer", *names)
    return Plot("accuracy-by-variant", "Accuracy by variant and k", alt, Table(head, rows), figure)


def differences_of_variants(report: AblationReport) -> Plot:
    """Draw how much better or worse than the baseline each other variant is, in percentage points."""
    names = tuple(report.lines[0].difference)
    with canvas(_height(report, len(names))) as (figure, axes):
        axes.axvline(0, color=tone("muted"), linewidth=1)
        for top, line in _blocks(report, len(names)):
            for at, name in enumerate(names):
                _mark(axes, top + at, line.difference[name], hollow=False, labelled=top + at == 1)
        _finish(axes, report, names, f"points against {report.baseline}")
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
    rows = tuple((line.label, *(_points(one) for one in line.difference.values())) for line in report.lines)
    alt = " ".join(sentence for line in report.lines for sentence in _told(line, report.baseline))
    title = f"Difference to {report.baseline}"
    return Plot("difference-by-variant", title, alt, Table(("questions", *names), rows), figure)


def _height(report: AblationReport, variants: int) -> float:
    return 1.0 + 0.21 * len(report.lines) * (variants + 1.2)


def _blocks(report: AblationReport, variants: int) -> list[tuple[float, VariantLine]]:
    """Return where each line's first variant stands, under its heading."""
    return [(1 + at * (variants + 1.2), line) for at, line in enumerate(report.lines)]


def _mark(axes: Axes, place: float, one: Spread, *, hollow: bool, labelled: bool) -> None:
    axes.plot(
        [100 * share for share in one.by_seed],
        [place - 0.3] * len(one.by_seed),
        linestyle="",
        marker="o",
        markersize=3,
        color=tone("ink"),
        clip_on=False,
        label="a seed" if labelled else None,
    )
    axes.errorbar(
        100 * one.mean,
        place,
        xerr=[[100 * max(0.0, one.mean - one.low)], [100 * max(0.0, one.high - one.mean)]],
        fmt="D",
        markersize=5.5,
        elinewidth=1.4,
        color=tone("accent"),
        markerfacecolor=tone("paper") if hollow else tone("accent"),
        clip_on=False,
        label="mean" if labelled else None,
    )


def _finish(axes: Axes, report: AblationReport, names: tuple[str, ...], label: str) -> None:
    places: list[float] = []
    for top, line in _blocks(report, len(names)):
        axes.annotate(
            f"{line.label} (n = {line.n:,})",
            (0, top - 1),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontweight="bold",
        )
        places += [top + at for at in range(len(names))]
    axes.set_yticks(places, names * len(report.lines))
    axes.tick_params(axis="y", length=0, labelsize=9.5)
    axes.set_ylim(places[-1] + 0.8, -0.6)
    axes.set_xlabel(label, loc="right")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _told(line: VariantLine, baseline: str) -> list[str]:
    """Return one sentence for each variant: better or worse is said only where the whole interval is."""
    sentences = []
    for name, one in line.difference.items():
        where = "On all questions" if line.label == "all" else f"At {line.label}"
        if one.low > 0 or one.high < 0:
            against = f"{name} is {'better' if one.low > 0 else 'worse'} than {baseline}"
        else:
            against = f"no clear difference between {name} and {baseline}"
        sentences.append(f"{where} (n = {line.n:,}): {against}, {_points(one)} points.")
    return sentences


def _points(one: Spread) -> str:
    # A minus is as wide as a plus and stands out; a hyphen does not.
    return f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})".replace("-", "−")
