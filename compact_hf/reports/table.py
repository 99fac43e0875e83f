"""Defines tables of results, and results that show a summary in notebooks.

    class Ablation(NotebookSummary):
        def summary(self) -> Iterator[str | Table]: ...

A notebook shows the summary of a result that is the last value of a cell; most commands print the same summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a header row.

    Attributes:
        head (`Sequence[str]`): names of the columns.
        rows (`Sequence[Sequence[object]]`): the rows, each with one cell per column. A column of integers is
            right-aligned.
        is_numeric (`bool`, *optional*, defaults to False): right-align all columns except the first, for numbers that
            are formatted as text.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    is_numeric: bool = False

    def numeric_columns(self) -> list[bool]:
        """Return for each column whether it is right-aligned."""
        if self.is_numeric:
            return [column > 0 for column in range(len(self.head))]
        return [all(isinstance(row[column], int) for row in self.rows) for column in range(len(self.head))]


class NotebookSummary:
    """A result that Jupyter shows as sentences and tables instead of its fields."""

    __slots__ = ()

    def summary(self) -> Iterator[str | Table]:
        """Yield the main results as sentences and tables; tables without rows are not shown."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return "\n".join(_render(part) for part in self.summary() if isinstance(part, str) or part.rows)


def _render(part: str | Table) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>" if part else ""
    aligned = ["right" if is_numeric else "left" for is_numeric in part.numeric_columns()]
    lines = [_render_row("th", part.head, aligned), *(_render_row("td", row, aligned) for row in part.rows)]
    return f"<table>\n{chr(10).join(lines)}\n</table>"


def _render_row(tag: str, cells: Sequence[object], aligned: Sequence[str]) -> str:
    return "<tr>{}</tr>".format(
        "".join(
            f'<{tag} style="text-align: {side}">{escape(str(cell))}</{tag}>'
            for cell, side in zip(cells, aligned, strict=True)
        )
    )
