"""Renders how models answer the questions of a dataset as one self-contained HTML page.

`compact evaluate` writes it as report.html. The page needs no network and no script, follows the light or dark setting
of the reader, and is legible on a phone and in print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.reports.answered_questions import OUTCOMES, AnsweredQuestion, Outcome
from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.figure import Plot
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.reports.score_charts import ModelDifference, describe_differences, plot_differences
from compact_hf.reports.table import Table
from compact_hf.reports.theme import jinja_environment

# outcome -> (heading for one model, heading for several); one model gives no `differ`.
_HEADINGS: Final[Mapping[Outcome, tuple[str, str]]] = {
    "differ": ("Some right, some wrong",) * 2,
    "wrong": ("Wrong", "All wrong"),
    "right": ("Right", "All right"),
}


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page with plots.

    Attributes:
        anchor (`str`): id of the section, unique on the page, such as `by-k`.
        link (`str`): name of the section in the list of sections.
        heading (`str`): heading of the section.
        text (`str`): a paragraph that explains how to read the plots; may be empty.
        plots (`tuple[Plot, ...]`): the plots, at least one.
        is_grid (`bool`): whether the plots are shown side by side, with their tables collapsed.
    """

    anchor: str
    link: str
    heading: str
    text: str
    plots: tuple[Plot, ...]
    is_grid: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """The content of the page.

    Attributes:
        dataset (`str`): name of the dataset.
        questions (`int`): number of questions.
        lead (`str`): explanation of the scores that completes the first sentence after a colon; may be empty.
        facts (`tuple[Fact, ...]`): facts about the questions: numbers of questions, of their parts, and of images.
        models (`tuple[str, ...]`): names of the models; any number.
        headline (`tuple[Fact, ...]`): the main score of each model, and a baseline to compare it with.
        sections (`tuple[Section, ...]`): the plots of the evaluation task.
        published (`Table`, *optional*): the main scores of the models beside published scores.
        comparisons (`tuple[ModelDifference, ...]`): the differences between pairs of models.
        examples (`Sequence[AnsweredQuestion]`): example questions, which are grouped by outcome in their given order.
        selection_rule (`str`): one sentence that says how the examples were selected.
        matching (`str`): one sentence that says when an answer counts as right.
        notes (`tuple[str, ...]`): what the reader has to know about the questions.
        settings (`tuple[tuple[str, str], ...]`): settings and versions, each with its name.
        command (`Example`, *optional*): the command that writes this page again.
    """

    dataset: str
    questions: int
    lead: str
    facts: tuple[Fact, ...]
    models: tuple[str, ...]
    headline: tuple[Fact, ...]
    sections: tuple[Section, ...] = ()
    published: Table | None = None
    comparisons: tuple[ModelDifference, ...] = ()
    examples: Sequence[AnsweredQuestion] = ()
    selection_rule: str = ""
    matching: str = ""
    notes: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    command: Example | None = None


def render_evaluation(report: EvaluationReport) -> str:
    """Return the report as one HTML document. The same report gives the same text.

    Args:
        report (`EvaluationReport`): the content.
    """
    return (
        jinja_environment()
        .get_template("evaluation_page.html.jinja")
        .render(
            title=f"{_format_models(report.models)}, evaluated on {report.dataset}",
            report=report,
            compared=describe_differences(report.comparisons),
            differences=plot_differences(report.comparisons) if report.comparisons else None,
            examples={
                # heading -> its questions; outcomes without examples have no heading. A bool is the index 0 or 1.
                _HEADINGS[outcome][len(report.models) > 1]: tuple(examples)
                for outcome in OUTCOMES
                if (examples := [example for example in report.examples if example.outcome == outcome])
            },
            has_groups=any(tag.group for example in report.examples for tag in example.tags),
            made=Table(("setting", "value"), report.settings),
            # The function: the template decodes images one at a time.
            thumbnail=thumbnail,
        )
    )


def _format_models(models: Sequence[str]) -> str:
    return " and ".join(models) if len(models) < 3 else f"{len(models)} models"
