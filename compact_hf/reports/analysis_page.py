"""A data set's questions, or two data sets' beside each other, told on one page: in goes `AnalysisPage`, out HTML.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. `compact analyze --out`
leaves it as analysis.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.theme import environment


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot, and whether its table is folded away, as a long one should be."""

    plot: Plot
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A table without a plot, and its heading."""

    title: str
    table: Table


@dataclass(frozen=True, slots=True)
class Told:
    """Sentences, and whom they are about; an empty name where there is nobody else."""

    about: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One question that the page answers.

    Attributes:
        anchor (`str`): its id on the page.
        title (`str`): its heading.
        words (`tuple[str, ...]`): paragraphs: how to read what follows.
        shown (`tuple[Drawn | Listed, ...]`): in order; neighbouring plots of one kind stand below each other.
    """

    anchor: str
    title: str
    words: tuple[str, ...]
    shown: tuple[Drawn | Listed, ...]


@dataclass(frozen=True, slots=True)
class AnalysisPage:
    """What the page tells.

    Attributes:
        title (`str`): its heading.
        lead (`str`): one or two sentences: what was analyzed.
        facts (`tuple[Fact, ...]`): of one data set: the few figures to see first.
        figures (`Table | None`): of two: the same figures side by side.
        told (`tuple[Told, ...]`): what stands out, in sentences.
        sections (`Sequence[Section]`): the rest.
        again (`Example`): how to have it anew.
    """

    title: str
    lead: str
    facts: tuple[Fact, ...]
    figures: Table | None
    told: tuple[Told, ...]
    sections: Sequence[Section]
    again: Example


def render_analysis(page: AnalysisPage) -> str:
    """Return the page as one HTML document. The same page gives the same text."""
    return environment().get_template("analysis_page.html.jinja").render(title=page.title, page=page)
