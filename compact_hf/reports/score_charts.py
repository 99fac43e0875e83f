"""Draws and describes training results: loss by step, accuracy compared with the majority answer, model differences.

The functions take (step, loss) points, `ScoreRow`s with shares from 0 to 1, or `ModelDifference`s with shares from -1
to 1, and return `Plot`s and sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.figure import Plot
from compact_hf.reports.table import Table
from compact_hf.reports.theme import (
    MAX_MODELS,
    get_label,
    label_capabilities,
    legend_layout,
    model_style,
    new_figure,
    shorten,
    tone,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Interval:
    """A share of right answers with its 95% interval.

    Attributes:
        value (`float`): the share, 0 to 1.
        low (`float`): lower bound of the interval.
        high (`float`): upper bound of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """The scores of all models on one set of questions.

    Attributes:
        label (`str`): name of the set: `all`, `k = 2`, or the name of a capability.
        n (`int`): number of questions.
        majority (`float | None`): accuracy of always giving the most frequent answer (of the question's k, if the set
            has several k); None if the score is not a share of right answers.
        by_model (`tuple[Interval, ...]`): the scores in the order of the models.
    """

    label: str
    n: int
    majority: float | None
    by_model: tuple[Interval, ...]


def plot_loss(points: Sequence[tuple[int, float]]) -> Plot:
    """Draw the training loss.

    Args:
        points (`Sequence[tuple[int, float]]`): pairs of (step, loss) in the order of steps; may be empty.
    """
    steps, losses = [step for step, _ in points], [value for _, value in points]
    with new_figure(2.6) as (figure, axes):
        axes.plot(steps, losses, color=tone("accent"), linewidth=1.8)
        axes.set(xlabel="step", ylabel="loss, answers only", xlim=(0, max(steps, default=1)), ylim=(0, None))
        axes.grid(axis="y")
    # Eight rows show the course of the curve, however long the training is.
    rows = [points[round(index * (len(points) - 1) / 7)] for index in range(8)] if len(points) > 8 else list(points)
    summary = (
        f"The loss is {losses[0]:.2f} at step {steps[0]:,} and {losses[-1]:.2f} at step {steps[-1]:,}."
        if len(points) > 1
        else f"The loss is {losses[0]:.2f} at step {steps[0]:,}."
        if points
        else ""
    )
    return Plot(
        "loss",
        "Training loss",
        f"A line chart of {len(points)} logged {'step' if len(points) == 1 else 'steps'}. {summary}".strip(),
        Table(("step", "loss"), tuple((f"{step:,}", f"{value:.3f}") for step, value in rows)),
        figure,
    )


def plot_accuracy(scores: Sequence[ScoreRow], models: Sequence[str], *, name: str, title: str) -> Plot:
    """Draw the accuracy of each model with its 95% interval, and that of the majority answer, if known, as a bar.

    Args:
        scores (`Sequence[ScoreRow]`): the scores, one line each from top to bottom.
        models (`Sequence[str]`): names of the models, at most `theme.MAX_MODELS`, such as `("before", "after")`.
        name (`str`): name of the plot, unique on the page, such as `accuracy-by-k`.
        title (`str`): title of the plot.
    """
    labels = [shorten(model) for model in models]
    baselines = [score.majority for score in scores if score.majority is not None]
    columns, lines = legend_layout(("majority answer", *labels) if baselines else labels)
    # Distance of the models in a row, which is one unit high.
    step = min(0.25, 0.72 / max(len(models), 1))
    # Inches: axis and margins, the legend, and at least 0.42 for each row.
    with new_figure(0.95 + 0.22 * lines + max(0.42, 0.1 + 0.13 * len(models)) * len(scores)) as (figure, axes):
        positions = list(range(len(scores)))
        if baselines:
            widths = [100 * (score.majority or 0) for score in scores]
            axes.barh(positions, widths, 0.8, facecolor=tone("rule"), label="majority answer")
        for index, model in enumerate(labels):
            # The models of a row are centered on its position.
            offset = (index - (len(models) - 1) / 2) * step
            intervals = [score.by_model[index] for score in scores]
            axes.errorbar(
                [interval.value * 100 for interval in intervals],
                [position + offset for position in positions],
                # (2, rows): lengths to the left and to the right of the marker, not positions.
                xerr=list(zip(*map(error_bar, intervals), strict=True)),
                **model_style(index),
                linestyle="",
                markersize=6.5,
                elinewidth=1.6,
                clip_on=False,
                label=model,
            )
        # The y axis is reversed, so that the first score is at the top.
        limit = _axis_limit(scores)
        axes.set(xlim=(0, limit), xticks=range(0, limit + 1, 20 if limit > 40 else 10), ylim=(len(scores) - 0.5, -0.5))
        # Right-aligned: a centered label would not fit under a narrow axis.
        axes.set_xlabel("% right, with 95% interval" if baselines else "%, with 95% interval", loc="right")
        _label_rows(axes, scores)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
    return Plot(name, title, " ".join(describe_scores(scores, models)), make_score_table(scores, models), figure)


def error_bar(share: Interval) -> tuple[float, float]:
    """Return the lengths of an error bar to the left and to the right of its marker, in percentage points.

    A value may be outside its interval: by rounding, or because resampling gave an interval beside it. The length is
    then 0, because matplotlib raises an error for a negative one.

    Args:
        share (`Interval`): the value with its interval.
    """
    return 100 * max(0.0, share.value - share.low), 100 * max(0.0, share.high - share.value)


def plot_accuracy_in_handfuls(
    scores: Sequence[ScoreRow], models: Sequence[str], *, name: str, title: str
) -> Iterator[Plot]:
    """Yield plots with at most `theme.MAX_MODELS` models each.

    Args:
        scores (`Sequence[ScoreRow]`): the scores of all models.
        models (`Sequence[str]`): names of the models; any number.
        name (`str`): name of the first plot; a number is appended to the names of others.
        title (`str`): title of the plots.
    """
    for start in range(0, len(models), MAX_MODELS):
        handful = slice(start, start + MAX_MODELS)
        subset = [replace(score, by_model=score.by_model[handful]) for score in scores]
        yield plot_accuracy(subset, models[handful], name=name + (f"-{start + 1}" if start else ""), title=title)


def _axis_limit(scores: Sequence[ScoreRow]) -> int:
    """Return the end of the axis in per cent, a multiple of 10, so that low scores use the whole width."""
    highest = max(
        (max(score.majority or 0, *(interval.high for interval in score.by_model)) for score in scores), default=1.0
    )
    return min(100, max(20, 10 * ceil(10.5 * highest)))


def describe_scores(scores: Sequence[ScoreRow], models: Sequence[str]) -> tuple[str, ...]:
    """Return one sentence per score: n, the accuracy of the majority answer, and each model's accuracy compared to it.

    Args:
        scores (`Sequence[ScoreRow]`): the scores.
        models (`Sequence[str]`): names of the models.
    """
    return tuple(
        f"{_format_label(score)} (n = {score.n:,}{_describe_majority(score)}): "
        + "; ".join(
            f"{model} {interval.value:.0%}"
            + ("" if score.majority is None else f", {compare_with_majority(interval, score.majority)} it")
            for interval, model in zip(score.by_model, models, strict=True)
        )
        + "."
        for score in scores
    )


def _describe_majority(score: ScoreRow) -> str:
    return "" if score.majority is None else f"; the majority answer gets {score.majority:.0%} right"


def compare_with_majority(share: Interval, majority: float) -> str:
    """Return "above" or "below" if the whole interval is, else "not clearly different from"; the object follows.

    Args:
        share (`Interval`): accuracy of a model.
        majority (`float`): accuracy of the majority answer.
    """
    # Clear only if the whole interval is on one side.
    if share.low > majority:
        return "above"
    return "below" if share.high < majority else "not clearly different from"


def _label_rows(axes: Axes, scores: Sequence[ScoreRow]) -> None:
    labels = [f"{_format_label(score)}  (n = {score.n:,})" for score in scores]
    label_capabilities(axes, [score.label for score in scores], labels)


def _format_label(score: ScoreRow) -> str:
    return get_label(score.label) if score.label in CAPABILITIES else score.label


def make_score_table(scores: Sequence[ScoreRow], models: Sequence[str]) -> Table:
    """Return a table of the numbers that `plot_accuracy` draws, for any number of scores and models.

    Args:
        scores (`Sequence[ScoreRow]`): the scores, one row each.
        models (`Sequence[str]`): names of the models, one column each.
    """
    has_baselines = any(score.majority is not None for score in scores)
    return Table(
        ("questions", "n", *(["majority"] if has_baselines else []), *(f"{model} (95%)" for model in models)),
        tuple(
            (
                _format_label(score),
                f"{score.n:,}",
                *(["" if score.majority is None else f"{score.majority:.1%}"] if has_baselines else []),
                *(
                    f"{interval.value:.1%} ({100 * interval.low:.0f}–{100 * interval.high:.0f})"
                    for interval in score.by_model
                ),
            )
            for score in scores
        ),
    )


# Differences with p below this count as clear; p below `_MIN_P` is shown as < 0.001.
_SIGNIFICANCE_LEVEL: Final = 0.05
_MIN_P: Final = 0.001


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """The difference in accuracy of two models on the same questions.

    Attributes:
        baseline (`str`): name of the first model.
        model (`str`): name of the second model.
        n (`int`): number of questions.
        share (`Interval`): accuracy of `model` minus accuracy of `baseline`, -1 to 1, with its 95% interval.
        p (`float`): p-value of McNemar's exact test.
    """

    baseline: str
    model: str
    n: int
    share: Interval
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether the difference is clear: the whole interval is on one side of zero, and p is below 0.05."""
        return self.p < _SIGNIFICANCE_LEVEL and (self.share.low > 0 or self.share.high < 0)


def describe_differences(differences: Sequence[ModelDifference]) -> tuple[str, ...]:
    """Return one sentence per pair, such as "B is better than A on these questions: +4.1 points (+1.2 to +7.0).".

    Args:
        differences (`Sequence[ModelDifference]`): the differences.
    """
    return tuple(_describe_difference(diff) for diff in differences)


def plot_differences(differences: Sequence[ModelDifference]) -> Plot:
    """Draw each difference in percentage points with its interval; a filled marker means that it is clear.

    Args:
        differences (`Sequence[ModelDifference]`): the differences, one line each.
    """
    names = [f"{shorten(diff.model, 24)}\nminus {shorten(diff.baseline, 24)}" for diff in differences]
    with new_figure(0.8 + 0.48 * len(differences)) as (figure, axes):
        axes.axvline(0, color=tone("muted"), linewidth=1)
        for position, diff in enumerate(differences):
            axes.errorbar(
                100 * diff.share.value,
                position,
                xerr=[[length] for length in error_bar(diff.share)],
                marker="D",
                markersize=6.5,
                elinewidth=1.6,
                color=tone("accent"),
                markerfacecolor=tone("accent" if diff.is_clear else "paper"),
            )
        axes.set_yticks(range(len(differences)), names)
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.set_xlabel("percentage points, with 95% interval", loc="right")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, labelsize=10)
        axes.spines["left"].set_visible(False)
    return Plot(
        "differences",
        "Differences between models, on the same questions",
        " ".join(describe_differences(differences)),
        Table(
            ("models", "n", "points (95%)", "p"),
            tuple(
                (f"{diff.model} minus {diff.baseline}", f"{diff.n:,}", f"{_points(diff)} ({_range(diff)})", _p(diff.p))
                for diff in differences
            ),
        ),
        figure,
    )


def _describe_difference(diff: ModelDifference) -> str:
    if not diff.is_clear:
        return f"No clear difference between {diff.model} and {diff.baseline}: {_points(diff)} points ({_range(diff)})."
    # The better model is named first, whichever is the baseline.
    gain = diff if diff.share.value > 0 else _reverse(diff)
    return f"{gain.model} is better than {gain.baseline} on these questions: {_points(gain)} points ({_range(gain)})."


def _reverse(diff: ModelDifference) -> ModelDifference:
    """Return the difference with the roles of the two models exchanged."""
    # With the sign, the two bounds exchange their roles.
    share = Interval(-diff.share.value, -diff.share.high, -diff.share.low)
    return replace(diff, baseline=diff.model, model=diff.baseline, share=share)


def _points(diff: ModelDifference) -> str:
    return _signed(diff.share.value)


def _range(diff: ModelDifference) -> str:
    return f"{_signed(diff.share.low)} to {_signed(diff.share.high)}"


def _signed(share: float) -> str:
    # A minus sign is as wide as a plus sign and easy to see; a hyphen is not.
    return f"{100 * share:+.1f}".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < _MIN_P else f"{p:.3f}"
