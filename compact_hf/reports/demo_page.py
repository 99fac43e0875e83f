"""Renders a report of a run (data, dataset, training, accuracy) as one self-contained HTML page.

The page needs no network and no script, follows the light or dark setting of the reader, and is legible on a phone and
in print. Sections without content are omitted, so a run without training gives a page without training.
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

# Images are embedded in the page, so their number decides its size.
_MAX_IMAGES: Final = 24


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name.

    Attributes:
        label (`str`): name of the number, such as "images with questions".
        value (`str`): the number as text, such as "187 of 200".
        note (`str`): what the reader should know about it; may be empty.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A command or a piece of code, with its purpose, and its real output if it was run.

    Attributes:
        purpose (`str`): one line that says what it is for.
        code (`str`): the command or code.
        output (`str`): what it printed; empty if it was not run.
    """

    purpose: str
    code: str
    output: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseSection:
    """The release that was written.

    Attributes:
        facts (`tuple[Fact, ...]`): numbers about it, such as rows by config, files and size.
        example (`Example`): code that loads it.
    """

    facts: tuple[Fact, ...]
    example: Example


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """A training run.

    Attributes:
        facts (`tuple[Fact, ...]`): settings and results of the training.
        loss (`tuple[tuple[int, float], ...]`): pairs of (step, loss) in the order of steps.
    """

    facts: tuple[Fact, ...]
    loss: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class AccuracySection:
    """The accuracy of models on held-out questions.

    Attributes:
        models (`tuple[str, ...]`): names of the models in the order of every score's `by_model`, such as
            ("before", "after").
        overall (`ScoreRow`): the accuracy on all questions.
        by_k (`tuple[ScoreRow, ...]`): the accuracy by k.
        by_capability (`tuple[ScoreRow, ...]`): the accuracy by capability.
        questions (`str`): one sentence that says where the questions come from.
        caveat (`str`): what these numbers show, and what they do not show.
    """

    models: tuple[str, ...]
    overall: ScoreRow
    by_k: tuple[ScoreRow, ...]
    by_capability: tuple[ScoreRow, ...]
    questions: str
    caveat: str


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The content of the page.

    Attributes:
        title (`str`): heading of the page.
        summary (`str`): one or two sentences that say what this is and how it was made.
        facts (`tuple[Fact, ...]`): the most important numbers.
        combination_counts (`Mapping[tuple[str, ...], int]`): number of accepted questions by combination of
            capabilities; the length of a combination is k.
        images (`Sequence[SheetItem]`): images with questions; at most 24 are shown, spread evenly over k.
        means (`Mapping[str, float]`): mean k of other datasets, by label, for comparison.
        rejects (`Sequence[RejectCount]`): counts of rejects, one per reason.
        release (`ReleaseSection`, *optional*): the release that was written.
        training (`TrainingSection`, *optional*): the training run.
        accuracy (`AccuracySection`, *optional*): the accuracy of the tuned model.
        next_steps (`tuple[Example, ...]`): commands to continue with.
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
    """Return the report as one HTML document. The same report gives the same text.

    Args:
        report (`DemoReport`): the content.
    """
    items = contact_sheet.pick(report.images, _MAX_IMAGES)
    return (
        jinja_environment()
        .get_template("demo_page.html.jinja")
        .render(
            title=report.title,
            report=report,
            shown=len(items),
            sheet=contact_sheet.render_fragment(items),
            # The template names plots as variables, such as `k_distribution`.
            **{plot.name.replace("-", "_"): plot for plot in make_plots(report)},
            accuracy_text=_describe_accuracy(report.accuracy),
        )
    )


def make_plots(report: DemoReport) -> tuple[Plot, ...]:
    """Return all plots for which the report has data, in the order of the page.

    Args:
        report (`DemoReport`): the content.
    """
    # These are drawn for every run; the others need data that a run may not have.
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
        # The score on all questions is the first line of this plot only.
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
