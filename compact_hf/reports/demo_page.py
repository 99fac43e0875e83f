"""Renders a report of a run (accuracy, examples, data, dataset, training) as one self-contained HTML page.

The page begins with the result: the accuracy, and a few questions with the answers of the models. The page needs no
network and no script, follows the light or dark setting of the reader, and is legible on a phone and in print. Sections
without content are omitted, so a run without training gives a page without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from compact_hf.reports import contact_sheet, dataset_charts, score_charts
from compact_hf.reports.answered_questions import AnsweredQuestion
from compact_hf.reports.contact_sheet import SheetItem
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.figure import Plot
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.reports.score_charts import ScoreRow
from compact_hf.reports.theme import jinja_environment

# Images are embedded in the page, so their number decides its size.
_MAX_IMAGES: Final = 12


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
        questions (`str`): one or two sentences that say what the questions and the models are.
        caveat (`str`): what these numbers show, and what they do not show.
        examples (`Sequence[AnsweredQuestion]`): example questions with the answers of the models.
        selection_rule (`str`): one sentence that says how the examples were selected.
    """

    models: tuple[str, ...]
    overall: ScoreRow
    by_k: tuple[ScoreRow, ...]
    by_capability: tuple[ScoreRow, ...]
    questions: str
    caveat: str
    examples: Sequence[AnsweredQuestion] = ()
    selection_rule: str = ""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The content of the page.

    Attributes:
        title (`str`): heading of the page.
        summary (`str`): one or two sentences that say what this is and how it was made.
        facts (`tuple[Fact, ...]`): the most important numbers.
        data_facts (`tuple[Fact, ...]`): numbers about the accepted questions.
        combination_counts (`Mapping[tuple[str, ...], int]`): number of accepted questions by combination of
            capabilities; the length of a combination is k.
        images (`Sequence[SheetItem]`): images with questions; at most 12 are shown, spread evenly over k.
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
    data_facts: tuple[Fact, ...]
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
            # The function: the template decodes images one at a time.
            thumbnail=contact_sheet.thumbnail,
            # The template names plots as variables, such as `k_distribution`.
            **{plot.name.replace("-", "_"): plot for plot in make_plots(report)},
        )
    )


def make_plots(report: DemoReport) -> tuple[Plot, ...]:
    """Return all plots for which the report has data, in the order of the page.

    Args:
        report (`DemoReport`): the content.
    """
    plots = []
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
    # These are drawn for every run; the others need data that a run may not have.
    plots += [
        dataset_charts.plot_k_distribution(report.combination_counts, means=report.means),
        dataset_charts.plot_coverage(report.combination_counts),
        dataset_charts.plot_cooccurrence(report.combination_counts),
    ]
    if report.rejects:
        plots.append(dataset_charts.plot_rejects(report.rejects))
    if report.training:
        plots.append(score_charts.plot_loss(report.training.loss))
    return tuple(plots)
