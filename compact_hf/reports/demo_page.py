"""A run told on one page: `DemoReport` in, one self-contained HTML file out.

No network, no script; light and dark by the reader's setting; legible on a phone and on paper. A section whose
part of the report is missing is left out, so that a run without training gives a report without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from compact_hf.reports import contact_sheet, dataset_charts, score_charts
from compact_hf.reports.contact_sheet import SheetItem
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.figure import Plot
from compact_hf.reports.score_charts import ScoreRow
from compact_hf.reports.theme import jinja_environment

_MAX_IMAGES: Final = 24


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
    """The dataset that was written: its facts (rows by config, files, size) and how to load it."""

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
        overall (`ScoreRow`): all questions together.
        by_k, by_capability (`tuple[ScoreRow, ...]`): the same questions, parted.
        questions (`str`): one sentence that says where the questions come from.
        caveat (`str`): what these figures show, and what they do not.
    """

    models: tuple[str, ...]
    overall: ScoreRow
    by_k: tuple[ScoreRow, ...]
    by_capability: tuple[ScoreRow, ...]
    questions: str
    caveat: str


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What one page tells.

    Attributes:
        title (`str`): the page's heading.
        summary (`str`): one or two sentences: what this is and how it came about.
        facts (`tuple[Fact, ...]`): the few figures to see first.
        combination_counts (`Mapping[tuple[str, ...], int]`): how often each combination was accepted; its length is k.
        images (`Sequence[SheetItem]`): any number; 24 of them are shown, evenly over k.
        means (`Mapping[str, float]`): label -> mean k of other data, to set beside this one's.
        rejects (`Sequence[RejectCount]`): one per reason.
        release, training, accuracy: a section each, or None.
        next_steps (`tuple[Example, ...]`): commands to go on with.
    """

    title: str
    summary: str
    facts: tuple[Fact, ...]
    combination_counts: Mapping[tuple[str, ...], int]
    images: Sequence[SheetItem] = ()
    means: Mapping[str, float] = field(default_factory=lambda: dataset_charts.PAPER_MEAN_K)
    rejects: Sequence[RejectCount] = ()
    release: ReleaseSection | None = None
    training: TrainingSection | None = None
    accuracy: AccuracySection | None = None
    next_steps: tuple[Example, ...] = ()


def render_demo(report: DemoReport) -> str:
    """Return the report as one HTML document. The same report gives the same text."""
    items = contact_sheet.pick(report.images, _MAX_IMAGES)
    return (
        jinja_environment()
        .get_template("demo_page.html.jinja")
        .render(
            title=report.title,
            report=report,
            shown=len(items),
            sheet=contact_sheet.render_fragment(items),
            **{plot.name.replace("-", "_"): plot for plot in make_plots(report)},
            accuracy_text=_describe_accuracy(report.accuracy),
        )
    )


def make_plots(report: DemoReport) -> tuple[Plot, ...]:
    """Return every plot that the report has the figures for, in the order of the page."""
    plots = [
        dataset_charts.plot_k_distribution(report.combination_counts, means=report.means),
        dataset_charts.plot_coverage(report.combination_counts),
        dataset_charts.plot_cooccurrence(report.combination_counts),
    ]
    if report.rejects:
        plots.append(dataset_charts.plot_rejects(report.rejects))
    if report.training:
        plots.append(score_charts.plot_loss(report.training.loss))
    if report.accuracy:
        section = report.accuracy
        by_k = (section.overall, *section.by_k)
        plots.append(score_charts.plot_accuracy(by_k, section.models, name="accuracy-by-k", title="Accuracy by k"))
        plots.append(
            score_charts.plot_accuracy(
                section.by_capability,
                section.models,
                name="accuracy-by-capability",
                title="Accuracy by capability",
            )
        )
    return tuple(plots)


def _describe_accuracy(section: AccuracySection | None) -> tuple[str, ...]:
    return score_charts.describe_scores((section.overall, *section.by_k), section.models) if section else ()
