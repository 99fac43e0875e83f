"""How models answer one dataset's questions, on one page: `EvaluationReport` in, one self-contained HTML file out.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. `compact evaluate`
leaves it as report.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot
from compact_hf.reports.score_charts import ModelDifference, describe_differences, plot_differences
from compact_hf.reports.table import Table
from compact_hf.reports.theme import jinja_environment

Outcome = Literal["differ", "wrong", "right"]

OUTCOMES: Final[tuple[Outcome, ...]] = ("differ", "wrong", "right")
_HEADINGS: Final[Mapping[Outcome, tuple[str, str]]] = {
    "differ": ("Some right, some wrong",) * 2,
    "wrong": ("Wrong", "All wrong"),
    "right": ("Right", "All right"),
}


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model's answer to one question, and whether it counts as right."""

    model: str
    answer: str
    is_correct: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """What is shown beside an example, such as its k or a capability that it needs.

    Attributes:
        text (`str`): as it is shown.
        title (`str`): what it means, for who points at it.
        group (`str`): one of `capabilities.GROUPS`, whose color it has.
        tone (`str`): one of `theme.TONES`; one that has it stands above the question, the others below.
    """

    text: str
    title: str = ""
    group: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Some plots under a heading.

    Attributes:
        anchor (`str`): unique on the page, such as `by-k`.
        link (`str`): what the page's list of sections calls it.
        heading (`str`): above it.
        text (`str`): one paragraph that says how to read it; empty for none.
        plots (`tuple[Plot, ...]`): at least one.
        is_grid (`bool`): whether plots stand side by side, their tables folded.
    """

    anchor: str
    link: str
    heading: str
    text: str
    plots: tuple[Plot, ...]
    is_grid: bool = False


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """One question with its image and every model's answer.

    Attributes:
        image (`bytes | None`): the encoded file; None where it was asked without one.
        tags (`tuple[Tag, ...]`): what is known of the question.
        question, answer (`str`): as asked, and the right one.
        model_answers (`tuple[ModelAnswer, ...]`): in the models' order.
        caption (`str`): the question's id; never an absolute path.
    """

    image: bytes | None
    tags: tuple[Tag, ...]
    question: str
    answer: str
    model_answers: tuple[ModelAnswer, ...]
    caption: str = ""

    @property
    def outcome(self) -> Outcome:
        return get_outcome([answer.is_correct for answer in self.model_answers])


def get_outcome(correct: Sequence[bool]) -> Outcome:
    """Return whether all answers to a question are right, all wrong, or some are and some are not."""
    return "right" if all(correct) else "differ" if any(correct) else "wrong"


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What one page tells.

    Attributes:
        dataset (`str`): what the questions are called.
        questions (`int`): how many.
        lead (`str`): what the scores are, as the first sentence goes on; empty for nothing.
        facts (`tuple[Fact, ...]`): about the questions: how many, of which parts, about how many images.
        models (`tuple[str, ...]`): their names; any number.
        headline (`tuple[Fact, ...]`): each model's, and what to hold it against.
        sections (`tuple[Section, ...]`): what the task shows of the scores.
        published (`Table`, *optional*): the models' headlines beside those that others have published.
        comparisons (`tuple[ModelDifference, ...]`): of the models, two by two.
        examples (`Sequence[AnsweredQuestion]`): shown as they come, by outcome.
        selection_rule (`str`): one sentence that says by which rule.
        matching (`str`): one sentence that says when an answer counts as right.
        notes (`tuple[str, ...]`): what a reader has to know of the questions.
        settings (`tuple[tuple[str, str], ...]`): settings and versions, each with its name.
        command (`Example`, *optional*): that makes this page again.
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
    """Return the report as one HTML document. The same report gives the same text."""
    return (
        jinja_environment()
        .get_template("evaluation_page.html.jinja")
        .render(
            title=f"{_format_models(report.models)}, judged on {report.dataset}",
            report=report,
            compared=describe_differences(report.comparisons),
            differences=plot_differences(report.comparisons) if report.comparisons else None,
            examples={
                _HEADINGS[outcome][len(report.models) > 1]: tuple(examples)
                for outcome in OUTCOMES
                if (examples := [example for example in report.examples if example.outcome == outcome])
            },
            has_groups=any(tag.group for example in report.examples for tag in example.tags),
            made=Table(("what", "value"), report.settings),
            thumbnail=thumbnail,
        )
    )


def _format_models(models: Sequence[str]) -> str:
    return " and ".join(models) if len(models) < 3 else f"{len(models)} models"
