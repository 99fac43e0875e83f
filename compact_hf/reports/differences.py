"""Pairs of models on the same questions: which one is better, in a drawing and in words.

In: `Difference`s, shares from -1 to 1. Out: a `Plot`, and `told`, a sentence each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.score_charts import Interval
from compact_hf.reports.theme import canvas, shortened, tone

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


def told(differences: Sequence[Difference]) -> tuple[str, ...]:
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
        " ".join(told(pairs)),
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
