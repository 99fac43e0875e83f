"""How models answer one data set's questions, told on one page: `JudgingReport` in, one self-contained HTML file out.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. `compact evaluate`
leaves it as report.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot, Table
from compact_hf.reports.pair_charts import FEWEST, Pair, accuracy_by_pair
from compact_hf.reports.score_charts import (
    Difference,
    Score,
    accuracy,
    against_majority,
    describe_differences,
    differences,
)
from compact_hf.reports.theme import MOST_MODELS, environment

Outcome = Literal["differ", "wrong", "right"]

OUTCOMES: Final[tuple[Outcome, ...]] = ("differ", "wrong", "right")
_HEADINGS: Final[Mapping[Outcome, tuple[str, str]]] = {
    "differ": ("Some right, some wrong",) * 2,
    "wrong": ("Wrong", "All wrong"),
    "right": ("Right", "All right"),
}


@dataclass(frozen=True, slots=True)
class Given:
    """A model's answer to one question, and whether it counts as right."""

    model: str
    answer: str
    right: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with its picture and every model's answer.

    Attributes:
        picture (`bytes`): the encoded file.
        k (`int`, *optional*): how many capabilities it needs; None where nobody knows.
        capabilities (`tuple[str, ...]`): which.
        question, answer (`str`): as asked, and the right one.
        given (`tuple[Given, ...]`): in the models' order.
        caption (`str`): the question's id; never an absolute path.
    """

    picture: bytes
    k: int | None
    capabilities: tuple[str, ...]
    question: str
    answer: str
    given: tuple[Given, ...]
    caption: str = ""

    @property
    def outcome(self) -> Outcome:
        return outcome_of([one.right for one in self.given])


def outcome_of(rights: Sequence[bool]) -> Outcome:
    """Return whether all answers to a question are right, all wrong, or some are and some are not."""
    return "right" if all(rights) else "differ" if any(rights) else "wrong"


@dataclass(frozen=True, slots=True)
class JudgingReport:
    """What one page tells.

    Attributes:
        dataset (`str`): what the questions are called.
        facts (`tuple[Fact, ...]`): about the questions: how many, of which k, about how many pictures.
        models (`tuple[str, ...]`): their names in the order of every score's `by_model`; any number.
        overall (`Score`): all questions together.
        by_k, by_capability (`tuple[Score, ...]`): the same questions, parted; empty where the data set does not say.
        by_pair (`Mapping[tuple[str, str], Score]`): those that need both capabilities of a pair, in the paper's order.
        comparisons (`tuple[Difference, ...]`): of the models, two by two.
        examples (`Sequence[Answered]`): shown as they come, by outcome.
        chosen_by (`str`): one sentence that says by which rule.
        matching (`str`): one sentence that says when an answer counts as right.
        notes (`tuple[str, ...]`): what a reader has to know of the questions.
        made (`tuple[tuple[str, str], ...]`): settings and versions, each with its name.
        command (`Example`, *optional*): that makes this page again.
    """

    dataset: str
    facts: tuple[Fact, ...]
    models: tuple[str, ...]
    overall: Score
    by_k: tuple[Score, ...]
    by_capability: tuple[Score, ...]
    by_pair: Mapping[Pair, Score] = field(default_factory=dict)
    comparisons: tuple[Difference, ...] = ()
    examples: Sequence[Answered] = ()
    chosen_by: str = ""
    matching: str = ""
    notes: tuple[str, ...] = ()
    made: tuple[tuple[str, str], ...] = ()
    command: Example | None = None


def render_judging(report: JudgingReport) -> str:
    """Return the report as one HTML document. The same report gives the same text."""
    return (
        environment()
        .get_template("evaluation_page.html.jinja")
        .render(
            title=f"{_named(report.models)}, judged on {report.dataset}",
            report=report,
            headline=tuple(_headline(report)),
            by_k=tuple(_accuracy(report, (report.overall, *report.by_k) if report.by_k else (), "k")),
            by_capability=tuple(_accuracy(report, report.by_capability, "capability")),
            by_pair=tuple(_by_pair(report)),
            compared=describe_differences(report.comparisons),
            differences=differences(report.comparisons) if report.comparisons else None,
            examples={
                _HEADINGS[outcome][len(report.models) > 1]: tuple(found)
                for outcome in OUTCOMES
                if (found := [one for one in report.examples if one.outcome == outcome])
            },
            fewest=FEWEST,
            made=Table(("what", "value"), report.made),
            thumbnail=thumbnail,
        )
    )


def _named(models: Sequence[str]) -> str:
    return " and ".join(models) if len(models) < 3 else f"{len(models)} models"


def _headline(report: JudgingReport) -> Iterator[Fact]:
    """Yield each model's accuracy, and the majority answer's to hold it against."""
    majority = report.overall.majority
    for model, share in zip(report.models, report.overall.by_model, strict=True):
        stands = against_majority(share, majority).replace("it", "the majority answer")
        yield Fact(model, f"{share.value:.1%}", f"95% interval {share.low:.1%} to {share.high:.1%}; {stands}")
    yield Fact("majority answer", f"{majority:.1%}", "the most frequent right answer of each k, known in hindsight")


def _accuracy(report: JudgingReport, scores: Sequence[Score], parted: str) -> Iterator[Plot]:
    """Yield one plot for every handful of models that one plot keeps apart."""
    for start in range(0, len(report.models) if scores else 0, MOST_MODELS):
        part = slice(start, start + MOST_MODELS)
        some = [replace(score, by_model=score.by_model[part]) for score in scores]
        name = f"accuracy-by-{parted}" + (f"-{start + 1}" if start else "")
        yield accuracy(some, report.models[part], name=name, title=f"Accuracy by {parted}")


def _by_pair(report: JudgingReport) -> Iterator[Plot]:
    for index, model in enumerate(report.models if report.by_pair else ()):
        scores = {pair: (score.n, score.by_model[index]) for pair, score in report.by_pair.items()}
        yield accuracy_by_pair(scores, model=model, name=f"accuracy-by-pair-{index + 1}")
