"""How models answer one dataset's questions, on one page: `EvaluationReport` in, one self-contained HTML file out.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. `compact evaluate`
leaves it as report.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot
from compact_hf.reports.pair_charts import MIN_N, Pair, plot_accuracy_by_pair
from compact_hf.reports.score_charts import (
    ModelDifference,
    ScoreRow,
    compare_with_majority,
    describe_differences,
    plot_accuracy,
    plot_differences,
)
from compact_hf.reports.table import Table
from compact_hf.reports.theme import MAX_MODELS, jinja_environment

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
class AnsweredQuestion:
    """One question with its image and every model's answer.

    Attributes:
        image (`bytes`): the encoded file.
        k (`int`, *optional*): how many capabilities it needs; None where nobody knows.
        capabilities (`tuple[str, ...]`): which.
        question, answer (`str`): as asked, and the right one.
        model_answers (`tuple[ModelAnswer, ...]`): in the models' order.
        caption (`str`): the question's id; never an absolute path.
    """

    image: bytes
    k: int | None
    capabilities: tuple[str, ...]
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
        facts (`tuple[Fact, ...]`): about the questions: how many, of which k, about how many images.
        models (`tuple[str, ...]`): their names in the order of every score's `by_model`; any number.
        overall (`ScoreRow`): all questions together.
        by_k, by_capability (`tuple[ScoreRow, ...]`): the same questions, parted; empty where the dataset does not say.
        by_pair (`Mapping[tuple[str, str], Score]`): those that need both capabilities of a pair, in the paper's order.
        comparisons (`tuple[ModelDifference, ...]`): of the models, two by two.
        examples (`Sequence[AnsweredQuestion]`): shown as they come, by outcome.
        selection_rule (`str`): one sentence that says by which rule.
        matching (`str`): one sentence that says when an answer counts as right.
        notes (`tuple[str, ...]`): what a reader has to know of the questions.
        settings (`tuple[tuple[str, str], ...]`): settings and versions, each with its name.
        command (`Example`, *optional*): that makes this page again.
    """

    dataset: str
    facts: tuple[Fact, ...]
    models: tuple[str, ...]
    overall: ScoreRow
    by_k: tuple[ScoreRow, ...]
    by_capability: tuple[ScoreRow, ...]
    by_pair: Mapping[Pair, ScoreRow] = field(default_factory=dict)
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
            headline=tuple(_iter_headline(report)),
            by_k=tuple(_iter_accuracy_plots(report, (report.overall, *report.by_k) if report.by_k else (), "k")),
            by_capability=tuple(_iter_accuracy_plots(report, report.by_capability, "capability")),
            by_pair=tuple(_iter_pair_plots(report)),
            compared=describe_differences(report.comparisons),
            differences=plot_differences(report.comparisons) if report.comparisons else None,
            examples={
                _HEADINGS[outcome][len(report.models) > 1]: tuple(examples)
                for outcome in OUTCOMES
                if (examples := [example for example in report.examples if example.outcome == outcome])
            },
            fewest=MIN_N,
            made=Table(("what", "value"), report.settings),
            thumbnail=thumbnail,
        )
    )


def _format_models(models: Sequence[str]) -> str:
    return " and ".join(models) if len(models) < 3 else f"{len(models)} models"


def _iter_headline(report: EvaluationReport) -> Iterator[Fact]:
    """Yield each model's accuracy, and the majority answer's to hold it against."""
    majority = report.overall.majority
    for model, share in zip(report.models, report.overall.by_model, strict=True):
        comparison = compare_with_majority(share, majority).replace("it", "the majority answer")
        yield Fact(model, f"{share.value:.1%}", f"95% interval {share.low:.1%} to {share.high:.1%}; {comparison}")
    yield Fact("majority answer", f"{majority:.1%}", "the most frequent right answer of each k, known in hindsight")


def _iter_accuracy_plots(report: EvaluationReport, scores: Sequence[ScoreRow], grouping: str) -> Iterator[Plot]:
    """Yield one plot for every handful of models that one plot keeps apart."""
    for start in range(0, len(report.models) if scores else 0, MAX_MODELS):
        model_slice = slice(start, start + MAX_MODELS)
        subset = [replace(score, by_model=score.by_model[model_slice]) for score in scores]
        name = f"accuracy-by-{grouping}" + (f"-{start + 1}" if start else "")
        yield plot_accuracy(subset, report.models[model_slice], name=name, title=f"Accuracy by {grouping}")


def _iter_pair_plots(report: EvaluationReport) -> Iterator[Plot]:
    for index, model in enumerate(report.models if report.by_pair else ()):
        scores = {pair: (score.n, score.by_model[index]) for pair, score in report.by_pair.items()}
        yield plot_accuracy_by_pair(scores, model=model, name=f"accuracy-by-pair-{index + 1}")
