"""Tests how a notebook shows results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compact_hf.reports.table import NotebookSummary, Table


@dataclass(frozen=True, slots=True)
class Counts(NotebookSummary):
    rows: tuple[tuple[object, ...], ...]

    def summary(self) -> Iterator[str | Table]:
        yield "a < b"
        yield ""
        yield Table(("name", "count"), self.rows)


def test_sentences_and_tables_become_html_with_whole_numbers_to_the_right() -> None:
    html = Counts((("<script>", 3), ("plain", 12)))._repr_html_()
    assert "<p>a &lt; b</p>" in html
    assert "<script>" not in html
    assert '<td style="text-align: left">&lt;script&gt;</td><td style="text-align: right">3</td>' in html
    assert html.count("<tr>") == 3


def test_a_table_without_rows_is_left_out() -> None:
    assert Counts(())._repr_html_() == "<p>a &lt; b</p>\n"
