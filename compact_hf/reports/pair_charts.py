"""Draws triangular matrices of the 45 pairs of capabilities: a number or an accuracy for each pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.figure import Plot
from compact_hf.reports.ranking import find_extremes, join_names
from compact_hf.reports.table import Table
from compact_hf.reports.theme import get_label, new_figure, tone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from compact_hf.reports.score_charts import Interval

Pair = tuple[str, str]

PAIRS: Final[tuple[Pair, ...]] = tuple(combinations(CAPABILITIES, 2))
"""All pairs of capabilities, in the order of the paper."""

MIN_N: Final = 10
"""Smallest number of questions for which a share is colored: the 95% interval of 5 right of 9 is 27% to 81%."""

TRIANGLE_HEIGHT: Final = 4.6
_CELL_SIZE: Final = 0.94
# The strength is drawn as opacity, so that the text on top is legible in the light and in the dark theme.
_MAX_OPACITY: Final = 0.65


@dataclass(frozen=True, slots=True)
class Cell:
    """The cell of a pair of capabilities.

    Attributes:
        text (`str`): text in the cell.
        strength (`float`, *optional*): depth of the color, 0 to 1; None marks a value that is based on too few
            questions.
        note (`str`): text below, in smaller type; may be empty.
    """

    text: str
    strength: float | None
    note: str = ""


def draw_triangle(axes: Axes, cells: Mapping[Pair, Cell]) -> None:
    """Draw a cell for each pair, and the names of the capabilities on the left and below.

    Args:
        axes (`Axes`): where to draw.
        cells (`Mapping[Pair, Cell]`): the cells of all 45 pairs.
    """
    names = list(CAPABILITIES)
    # `first` precedes `second`, so only cells below the diagonal are drawn.
    for first, second in PAIRS:
        column, row, cell = names.index(first), names.index(second), cells[first, second]
        _draw_cell(axes, column, row, cell.strength)
        if cell.note:
            axes.text(column, row - 0.14, cell.text, ha="center", va="center", fontsize=10)
            axes.text(column, row + 0.25, cell.note, ha="center", va="center", fontsize=8)
        else:
            axes.text(column, row, cell.text, ha="center", va="center", fontsize=10)
    # The last capability has no column and the first one no row; the y axis points down.
    axes.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 0.5, 0.5))
    axes.set_xticks(
        range(len(names) - 1), [get_label(name) for name in names[:-1]], rotation=55, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(1, len(names)), [get_label(name) for name in names[1:]])
    axes.tick_params(length=0, labelsize=10)
    axes.spines[:].set_visible(False)


def plot_accuracy_by_pair(scores: Mapping[Pair, tuple[int, Interval]], *, model: str, name: str) -> Plot:
    """Draw the accuracy of a model on the questions that need both capabilities of each pair.

    Args:
        scores (`Mapping[Pair, tuple[int, Interval]]`): number of questions, and accuracy with its interval, by pair in
            the order of the paper. Pairs that no question needs are missing.
        model (`str`): name of the model.
        name (`str`): name of the plot, unique on the page.
    """
    cells = {}
    for pair in PAIRS:
        # No questions: an empty cell. Too few: a number without a color.
        n, share = scores.get(pair, (0, None))
        strength = share.value if share and n >= MIN_N else None
        cells[pair] = Cell(f"{100 * share.value:.0f}", strength, _format_count(n)) if share else Cell("", None)
    with new_figure(TRIANGLE_HEIGHT) as (figure, axes):
        draw_triangle(axes, cells)
        _draw_legend(axes)
    return Plot(
        name,
        f"Accuracy by pair of capabilities: {model}",
        _make_alt_text(scores),
        Table(
            ("pair", "n", f"{model} (95%)"),
            tuple(
                (
                    f"{get_label(first)} + {get_label(second)}",
                    f"{n:,}",
                    f"{share.value:.0%} ({100 * share.low:.0f}–{100 * share.high:.0f})",
                )
                for (first, second), (n, share) in scores.items()
            ),
        ),
        figure,
    )


def _make_alt_text(scores: Mapping[Pair, tuple[int, Interval]]) -> str:
    """Describe the matrix in words; pairs with few questions are not compared."""
    # Few questions give extreme shares by chance.
    shares = {pair: share.value for pair, (n, share) in scores.items() if n >= MIN_N}
    text = f"A triangular matrix of the 45 pairs: {len(scores)} have questions, {len(shares)} have {MIN_N} or more."
    if not shares:
        return text
    extremes = find_extremes(shares)
    if extremes is None:
        return f"{text} Accuracy is {next(iter(shares.values())):.0%} for {'each of ' * (len(shares) > 1)}the latter."
    parts = [
        f"{join_names(' with '.join(map(get_label, pair)) for pair in pairs)} ({shares[pairs[0]]:.0%})"
        for pairs in (extremes.lowest, extremes.highest)
    ]
    return f"{text} Among the latter, accuracy is lowest for {parts[0]} and highest for {parts[1]}."


def _format_count(n: int) -> str:
    return f"{n:,}" if n < 10_000 else f"{n / 1000:,.0f}k"


def _draw_cell(axes: Axes, column: float, row: float, strength: float | None) -> None:
    from matplotlib.patches import Rectangle

    # add_artist, not add_patch, which would recompute the limits of the axes each time; draw_triangle sets them once.
    corner = (column - _CELL_SIZE / 2, row - _CELL_SIZE / 2)
    if strength is not None:
        axes.add_artist(
            Rectangle(
                corner,
                _CELL_SIZE,
                _CELL_SIZE,
                facecolor=tone("k3"),
                alpha=_MAX_OPACITY * strength,
                linewidth=0,
                # Below the outline, which has matplotlib's default of 1 for patches.
                zorder=0.9,
            )
        )
    line_style = ":" if strength is None else "-"
    axes.add_artist(Rectangle(corner, _CELL_SIZE, _CELL_SIZE, fill=False, edgecolor=tone("rule"), linestyle=line_style))


def _draw_legend(axes: Axes) -> None:
    """Draw the legend in the empty half of the matrix."""
    # Columns and rows of the matrix: its upper right half is empty.
    right, top = len(CAPABILITIES) - 2, 1.0
    for position, share in enumerate((0, 25, 50, 75, 100)):
        _draw_cell(axes, right - 4 + position, top, share / 100)
        axes.text(right - 4 + position, top, f"{share}", ha="center", va="center", fontsize=10)
    axes.text(right + _CELL_SIZE / 2, top + 0.85, "% right; below: questions", ha="right", va="center", fontsize=10)
    _draw_cell(axes, right, top + 2, None)
    axes.text(right - 0.7, top + 2, f"fewer than {MIN_N}", ha="right", va="center", fontsize=10)
