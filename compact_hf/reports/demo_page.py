"""A run told on one page: `Report` in, one self-contained HTML file out.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. A section whose
part of the report is missing is left out, so that a run without training gives a report without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from compact_hf.reports import contact_sheet, dataset_charts, score_charts
from compact_hf.reports.contact_sheet import Shown
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.figure import Plot
from compact_hf.reports.score_charts import Score
from compact_hf.reports.theme import environment

_SHOWN_PICTURES: Final = 24


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure with its name: `label` "pictures kept", `value` "187 of 200", `note` what to know about it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A command or a piece of code, what it is for, and what it really printed, if it was run.

    Attributes:
        purpose (`str`): one line for people.
        code (`str`): as it is to be typed.
        output (`str`, *optional*): what it printed when it was run here; empty where it was not.
    """

    purpose: str
    code: str
    output: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseSection:
    """The data set that was written: its facts (rows by config, files, size) and how to load it."""

    facts: tuple[Fact, ...]
    example: Example


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """A training run: its settings as facts, and its (step, loss) points in order."""

    facts: tuple[Fact, ...]
    loss: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class AccuracySection:
    """How models answer reserved questions.

    Attributes:
        models (`tuple[str, ...]`): their names in the order of every score's `by_model`, such as ("before", "after").
        overall (`Score`): all questions together.
        by_k, by_capability (`tuple[Score, ...]`): the same questions, parted.
        questions (`str`): one sentence that says where the questions come from.
        caveat (`str`): what these figures show, and what they do not.
    """

    models: tuple[str, ...]
    overall: Score
    by_k: tuple[Score, ...]
    by_capability: tuple[Score, ...]
    questions: str
    caveat: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one page tells.

    Attributes:
        title (`str`): the page's heading.
        summary (`str`): one or two sentences: what this is and how it came about.
        facts (`tuple[Fact, ...]`): the few figures to see first.
        accepted (`Mapping[tuple[str, ...], int]`): how often each combination was accepted; its length is k.
        pictures (`Sequence[Shown]`): any number; 24 of them are shown, evenly over k.
        means (`Mapping[str, float]`): label -> mean k of other data, to set beside this one's.
        rejects (`Sequence[RejectCount]`): one per reason.
        release, training, accuracy: a section each, or None.
        next_steps (`tuple[Example, ...]`): commands to go on with.
    """

    title: str
    summary: str
    facts: tuple[Fact, ...]
    accepted: Mapping[tuple[str, ...], int]
    pictures: Sequence[Shown] = ()
    means: Mapping[str, float] = field(default_factory=lambda: dataset_charts.PAPER_MEAN_K)
    rejects: Sequence[RejectCount] = ()
    release: ReleaseSection | None = None
    training: TrainingSection | None = None
    accuracy: AccuracySection | None = None
    next_steps: tuple[Example, ...] = ()


def render(report: Report) -> str:
    """Return the report as one HTML document. The same report gives the same text."""
    shown = contact_sheet.pick(report.pictures, _SHOWN_PICTURES)
    return (
        environment()
        .get_template("demo_page.html.jinja")
        .render(
            title=report.title,
            report=report,
            shown=len(shown),
            sheet=contact_sheet.fragment(shown),
            **{plot.name.replace("-", "_"): plot for plot in drawn(report)},
            accuracy_told=_accuracy_told(report.accuracy),
        )
    )


def drawn(report: Report) -> tuple[Plot, ...]:
    """Return every plot that the report has the figures for, in the order of the page."""
    made = [
        dataset_charts.k_distribution(report.accepted, means=report.means),
        dataset_charts.coverage(report.accepted),
        dataset_charts.cooccurrence(report.accepted),
    ]
    if report.rejects:
        made.append(dataset_charts.rejects(report.rejects))
    if report.training:
        made.append(score_charts.loss(report.training.loss))
    if report.accuracy:
        judged = report.accuracy
        by_k = (judged.overall, *judged.by_k)
        made.append(score_charts.accuracy(by_k, judged.models, name="accuracy-by-k", title="Accuracy by k"))
        made.append(
            score_charts.accuracy(
                judged.by_capability,
                judged.models,
                name="accuracy-by-capability",
                title="Accuracy by capability",
            )
        )
    return tuple(made)


def _accuracy_told(section: AccuracySection | None) -> tuple[str, ...]:
    return score_charts.describe_scores((section.overall, *section.by_k), section.models) if section else ()
