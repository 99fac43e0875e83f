"""A dataset's questions, or two datasets' beside each other, told on one page: in goes `AnalysisPage`, out HTML.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. `compact analyze --out`
leaves it as analysis.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot
from compact_hf.reports.table import Table
from compact_hf.reports.theme import jinja_environment


@dataclass(frozen=True, slots=True)
class PlotBlock:
    """A plot, and whether its table is folded away, as a long one should be."""

    plot: Plot
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class TableBlock:
    """A table without a plot, and its heading."""

    title: str
    table: Table


@dataclass(frozen=True, slots=True)
class Findings:
    """Sentences, and whom they are about; an empty name where there is nobody else."""

    label: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One question that the page answers.

    Attributes:
        anchor (`str`): its id on the page.
        title (`str`): its heading.
        paragraphs (`tuple[str, ...]`): paragraphs: how to read what follows.
        blocks (`tuple[PlotBlock | TableBlock, ...]`): in order; neighbouring plots of one kind stand below each other.
    """

    anchor: str
    title: str
    paragraphs: tuple[str, ...]
    blocks: tuple[PlotBlock | TableBlock, ...]


@dataclass(frozen=True, slots=True)
class AnalysisPage:
    """What the page tells.

    Attributes:
        title (`str`): its heading.
        lead (`str`): one or two sentences: what was analyzed.
        facts (`tuple[Fact, ...]`): of one dataset: the few figures to see first.
        summary_table (`Table | None`): of two: the same figures side by side.
        findings (`tuple[Findings, ...]`): what stands out, in sentences.
        sections (`Sequence[Section]`): the rest.
        command (`Example`): how to have it anew.
    """

    title: str
    lead: str
    facts: tuple[Fact, ...]
    summary_table: Table | None
    findings: tuple[Findings, ...]
    sections: Sequence[Section]
    command: Example


def render_analysis(page: AnalysisPage) -> str:
    """Return the page as one HTML document. The same page gives the same text."""
    return jinja_environment().get_template("analysis_page.html.jinja").render(title=page.title, page=page)
