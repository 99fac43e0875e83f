"""Renders the analysis of a dataset's questions, or the comparison of two datasets, as one self-contained HTML page.

`compact analyze --out` writes it as analysis.html. The page needs no network and no script, follows the light or dark
setting of the reader, and is legible on a phone and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compact_hf.reports.figure import Plot
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.reports.table import Table
from compact_hf.reports.theme import jinja_environment


@dataclass(frozen=True, slots=True)
class PlotBlock:
    """A plot with its table.

    Attributes:
        plot (`Plot`): the plot.
        is_folded (`bool`): whether the table is collapsed at first; use it for long tables.
    """

    plot: Plot
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class TableBlock:
    """A table without a plot.

    Attributes:
        title (`str`): heading of the table.
        table (`Table`): the table.
    """

    title: str
    table: Table


@dataclass(frozen=True, slots=True)
class Findings:
    """Sentences about one dataset.

    Attributes:
        label (`str`): name of the dataset; empty if the page has only one.
        sentences (`tuple[str, ...]`): the sentences.
    """

    label: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page.

    Attributes:
        anchor (`str`): id of the section on the page.
        title (`str`): heading.
        paragraphs (`tuple[str, ...]`): paragraphs that explain how to read the blocks.
        blocks (`tuple[PlotBlock | TableBlock, ...]`): plots and tables, in the order of the page.
    """

    anchor: str
    title: str
    paragraphs: tuple[str, ...]
    blocks: tuple[PlotBlock | TableBlock, ...]


@dataclass(frozen=True, slots=True)
class AnalysisPage:
    """The content of the page.

    Attributes:
        title (`str`): heading of the page.
        lead (`str`): one or two sentences that say what was analyzed.
        facts (`tuple[Fact, ...]`): the most important numbers, on the page of one dataset.
        summary_table (`Table | None`): the same numbers side by side, on the page of two datasets.
        findings (`tuple[Findings, ...]`): the most notable results as sentences.
        sections (`Sequence[Section]`): all other results.
        command (`Example`): the command that writes this page again.
    """

    title: str
    lead: str
    facts: tuple[Fact, ...]
    summary_table: Table | None
    findings: tuple[Findings, ...]
    sections: Sequence[Section]
    command: Example


def render_analysis(page: AnalysisPage) -> str:
    """Return the page as one HTML document. The same content gives the same text.

    Args:
        page (`AnalysisPage`): the content.
    """
    return jinja_environment().get_template("analysis_page.html.jinja").render(title=page.title, page=page)
