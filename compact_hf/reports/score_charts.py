"""Figures and sentences about learning: loss by step, accuracy beside the majority answer, and differences of models.

They take points, `Score`s with shares from 0 to 1 and `Difference`s with shares from -1 to 1, and return `Plot`s and
sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.theme import (
    canvas,
    legend_of,
    model_look,
    name_capabilities,
    shortened,
    spoken,
    tone,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Interval:
    """A share of right answers with its 95% interval, each from 0 to 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Score:
    """How well each model answers one set of questions.

    Attributes:
        label (`str`): what the questions have in common: `k = 2`, a capability's name, `all`.
        n (`int`): how many questions.
        majority (`float`): share that the majority answers get right: for each k the most frequent one.
        by_model (`tuple[Interval, ...]`): in the order of the models' names.
    """

    label: str
    n: int
    majority: float
    by_model: tuple[Interval, ...]


def loss(points: Sequence[tuple[int, float]]) -> Plot:
    """Draw the training loss: `points` are (step, loss) in order of step."""
    steps, losses = [step for step, _ in points], [value for _, value in points]
    with canvas(2.6) as (figure, axes):
        axes.plot(steps, losses, color=tone("accent"), linewidth=1.8)
        axes.set(xlabel="step", ylabel="loss, answers only", xlim=(0, max(steps, default=1)), ylim=(0, None))
        axes.grid(axis="y")
    # Enough rows to read the curve from, whatever the run's length.
    rows = [points[round(index * (len(points) - 1) / 7)] for index in range(8)] if len(points) > 8 else list(points)
    told = (
        f"It falls from {losses[0]:.2f} at step {steps[0]} to {losses[-1]:.2f} at step {steps[-1]}." if points else ""
    )
    return Plot(
        "loss",
        "Training loss",
        f"A line over {len(points)} logged steps. {told}".strip(),
        Table(("step", "loss"), tuple((f"{step:,}", f"{value:.3f}") for step, value in rows)),
        figure,
    )


def accuracy(scores: Sequence[Score], models: Sequence[str], *, name: str, title: str) -> Plot:
    """Draw each model's share of right answers with its 95% interval, and the majority answer's as a bar.

    Args:
        scores: one line each, from top to bottom.
        models: the models' names, at most `style.MOST_MODELS`, such as `("before", "after")`.
        name: unique on the page, such as `accuracy-by-k`.
    """
    shown = [shortened(model) for model in models]
    columns, lines = legend_of(("majority answer", *shown))
    step = min(0.25, 0.72 / max(len(models), 1))
    with canvas(0.95 + 0.22 * lines + max(0.42, 0.1 + 0.13 * len(models)) * len(scores)) as (figure, axes):
        places = list(range(len(scores)))
        axes.barh(
            places,
            [score.majority * 100 for score in scores],
            0.8,
            facecolor=tone("rule"),
            label="majority answer",
        )
        for index, model in enumerate(shown):
            shift = (index - (len(models) - 1) / 2) * step
            found = [score.by_model[index] for score in scores]
            axes.errorbar(
                [one.value * 100 for one in found],
                [place + shift for place in places],
                xerr=[[(one.value - one.low) * 100 for one in found], [(one.high - one.value) * 100 for one in found]],
                **model_look(index),
                linestyle="",
                markersize=6.5,
                elinewidth=1.6,
                clip_on=False,
                label=model,
            )
        limit = _limit(scores)
        axes.set(xlim=(0, limit), xticks=range(0, limit + 1, 20 if limit > 40 else 10), ylim=(len(scores) - 0.5, -0.5))
        # To the right: centred under a narrow axis it would run out of the figure.
        axes.set_xlabel("% right, with 95% interval", loc="right")
        _name_lines(axes, scores)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
    return Plot(name, title, " ".join(describe_scores(scores, models)), table(scores, models), figure)


def _limit(scores: Sequence[Score]) -> int:
    """Return where the axis ends, per cent in tens: low scores would be a heap at the left of a full axis."""
    highest = max((max(score.majority, *(one.high for one in score.by_model)) for score in scores), default=1.0)
    return min(100, max(20, 10 * ceil(10.5 * highest)))


def describe_scores(scores: Sequence[Score], models: Sequence[str]) -> tuple[str, ...]:
    """Return one sentence per score: n, the majority answer's share, each model's, and how that stands to it."""
    return tuple(
        f"{_spoken_label(score)} (n = {score.n:,}; the majority answer gets {score.majority:.0%} right): "
        + "; ".join(
            f"{model} {one.value:.0%}, {against_majority(one, score.majority)}"
            for one, model in zip(score.by_model, models, strict=True)
        )
        + "."
        for score in scores
    )


def against_majority(share: Interval, majority: float) -> str:
    """Return "above it", "below it" or "not clearly apart": above and below only where the whole interval is."""
    if share.low > majority:
        return "above it"
    return "below it" if share.high < majority else "not clearly apart from it"


def _name_lines(axes: Axes, scores: Sequence[Score]) -> None:
    labels = [f"{_spoken_label(score)}  (n = {score.n:,})" for score in scores]
    name_capabilities(axes, [score.label for score in scores], labels)


def _spoken_label(score: Score) -> str:
    return spoken(score.label) if score.label in CAPABILITIES else score.label


def table(scores: Sequence[Score], models: Sequence[str]) -> Table:
    """Return every number that `accuracy` draws, and what it would of more lines."""
    return Table(
        ("questions", "n", "majority", *(f"{model} (95%)" for model in models)),
        tuple(
            (
                _spoken_label(score),
                f"{score.n:,}",
                f"{score.majority:.1%}",
                *(f"{one.value:.1%} ({100 * one.low:.0f}–{100 * one.high:.0f})" for one in score.by_model),
            )
            for score in scores
        ),
    )


_LEVEL: Final = 0.05
_SMALLEST: Final = 0.001


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better `other` does than `one` on the same questions.

    Attributes:
        one, other (`str`): the models' names.
        n (`int`): how many questions.
        share (`Interval`): accuracy of `other` minus accuracy of `one`, -1 to 1, with its 95% interval.
        p (`float`): of McNemar's exact test.
    """

    one: str
    other: str
    n: int
    share: Interval
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether both say so: the whole interval lies on one side of nought, and p is below .05."""
        return self.p < _LEVEL and (self.share.low > 0 or self.share.high < 0)


def describe_differences(differences: Sequence[Difference]) -> tuple[str, ...]:
    """Return one sentence per pair: "B is better than A on these questions: +4.1 points (+1.2 to +7.0)."."""
    return tuple(_sentence(one) for one in differences)


def differences(pairs: Sequence[Difference]) -> Plot:
    """Draw each difference in percentage points with its interval, filled where it is clear."""
    names = [f"{shortened(pair.other, 24)}\nminus {shortened(pair.one, 24)}" for pair in pairs]
    with canvas(0.8 + 0.48 * len(pairs)) as (figure, axes):
        axes.axvline(0, color=tone("muted"), linewidth=1)
        for place, pair in enumerate(pairs):
            value, low, high = (100 * part for part in (pair.share.value, pair.share.low, pair.share.high))
            axes.errorbar(
                value,
                place,
                xerr=[[value - low], [high - value]],
                marker="D",
                markersize=6.5,
                elinewidth=1.6,
                color=tone("accent"),
                markerfacecolor=tone("accent" if pair.is_clear else "paper"),
            )
        axes.set_yticks(range(len(pairs)), names)
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.set_xlabel("percentage points, with 95% interval", loc="right")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, labelsize=9.5)
        axes.spines["left"].set_visible(False)
    return Plot(
        "differences",
        "Differences between models, on the same questions",
        " ".join(describe_differences(pairs)),
        Table(
            ("models", "n", "points (95%)", "p"),
            tuple(
                (f"{pair.other} minus {pair.one}", f"{pair.n:,}", f"{_points(pair)} ({_range(pair)})", _p(pair.p))
                for pair in pairs
            ),
        ),
        figure,
    )


def _sentence(pair: Difference) -> str:
    if not pair.is_clear:
        return f"No clear difference between {pair.other} and {pair.one}: {_points(pair)} points ({_range(pair)})."
    ahead = pair if pair.share.value > 0 else _turned(pair)
    return f"{ahead.other} is better than {ahead.one} on these questions: {_points(ahead)} points ({_range(ahead)})."


def _turned(pair: Difference) -> Difference:
    share = Interval(-pair.share.value, -pair.share.high, -pair.share.low)
    return replace(pair, one=pair.other, other=pair.one, share=share)


def _points(pair: Difference) -> str:
    return _signed(pair.share.value)


def _range(pair: Difference) -> str:
    return f"{_signed(pair.share.low)} to {_signed(pair.share.high)}"


def _signed(share: float) -> str:
    # A minus is as wide as a plus and stands out; a hyphen does not.
    return f"{100 * share:+.1f}".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < _SMALLEST else f"{p:.3f}"
