"""Builds the HTML page of an analysis of one or two datasets. reports/analysis_page.py does the layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.evaluation.analysis import tables
from compact_hf.evaluation.analysis.compare import DatasetComparison
from compact_hf.evaluation.analysis.highlights import describe_overlap, list_highlights
from compact_hf.evaluation.analysis.stats import Analysis
from compact_hf.evaluation.analysis.text_only import TextOnlyBaseline
from compact_hf.reports import dataset_charts, score_charts
from compact_hf.reports.analysis_page import AnalysisPage, Findings, PlotBlock, Section, TableBlock, render_analysis
from compact_hf.reports.dataset_charts import Series, plot_bars, plot_lengths
from compact_hf.reports.figure import Plot
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.reports.ranking import join_names
from compact_hf.wording import format_count

_K_EXPLANATION: Final = (
    "k is the number of capabilities, of ten, that a question needs at once. {asked}For the numbers in the paper, k "
    "was judged afterwards by Gemini, which finds more capabilities than were requested, since some imply others."
)


def render_page(data: Sequence[Analysis], comparison: DatasetComparison | None, *, command: str) -> str:
    """Return the HTML page about one dataset, or about two side by side.

    Args:
        data (`Sequence[Analysis]`): the statistics of one or two datasets.
        comparison (`DatasetComparison | None`): the comparison of two datasets; None for a single one.
        command (`str`): the command that reproduces the page.
    """
    return render_analysis(
        AnalysisPage(
            title=f"Analysis of {' and '.join(analysis.name for analysis in data)}",
            lead=_lead(data[0])
            if len(data) == 1
            else " ".join(f"{analysis.name}: {_lead(analysis)}" for analysis in data),
            # One dataset has its key statistics at the top; two have a table with all of them side by side.
            facts=() if len(data) > 1 else tuple(_iter_facts(data[0])),
            summary_table=tables.stats_table(data) if len(data) > 1 else None,
            findings=(
                *(Findings(analysis.name if len(data) > 1 else "", list_highlights(analysis)) for analysis in data),
                *([Findings("Shared by both", describe_overlap(comparison))] if comparison is not None else []),
            ),
            sections=(
                _complexity_section(data),
                _capabilities_section(data),
                _text_only_section(data),
                _answers_section(data),
                _questions_section(data),
                *([_distance_section(comparison)] if comparison is not None else []),
            ),
            command=Example("Reproduces this page. With --json, the command prints the statistics as JSON.", command),
        )
    )


def _lead(analysis: Analysis) -> str:
    origin = (
        "the capabilities were requested from a teacher and confirmed by a verifier"
        if analysis.k_is == "asked"
        else "the capabilities were determined by a verifier"
    )
    return f"{format_count(analysis.questions, 'question')} about {format_count(analysis.pictures, 'image')}; {origin}."


def _iter_facts(analysis: Analysis) -> Iterator[Fact]:
    """Yield the key statistics that the page of a single dataset shows at the top."""
    complexity = analysis.complexity
    yield Fact("questions", f"{analysis.questions:,}", f"{analysis.questions / analysis.pictures:.1f} per image")
    yield Fact(
        "mean k",
        f"{complexity.mean_k or 0:.2f}",
        f"{tables.K_SOURCE_NAMES[analysis.k_is]}; most frequent: {_format_modes(complexity.by_k)}",
    )
    yield Fact("with k ≤ 2", f"{complexity.at_most_2 or 0:.0%}", f"{complexity.none_needed or 0:.1%} need none (k = 0)")
    if analysis.text_alone is not None:
        score = analysis.text_alone.overall
        yield Fact(
            "answered from the text alone",
            f"{score.accuracy:.0%}",
            f"{score.majority:.0%} with the most frequent answers",
        )
    if analysis.answers is not None:
        yield Fact(
            "distinct answers",
            f"{analysis.answers.all.different:,}",
            f"most frequent: {tables.format_top_answer(analysis)}",
        )
    yield Fact(
        "repeated questions",
        f"{analysis.repeats.question:.0%}",
        f"{analysis.repeats.question_and_answer:.0%} with the same answer",
    )


def _format_modes(by_k: Mapping[int, int]) -> str:
    """Return the most frequent k, or several that are equally frequent."""
    most = max(by_k.values())
    return join_names(f"{k}" for k, count in by_k.items() if count == most)


def _complexity_section(data: Sequence[Analysis]) -> Section:
    """Return the section about k: its distribution, and the comparison with the paper's data."""
    if len(data) == 1:
        plot = dataset_charts.plot_k_distribution(_parse_combinations(data[0]), means=dataset_charts.PAPER_MEAN_K)
    else:
        # Shares instead of numbers, because the datasets can differ in size.
        ks = range(max(max(analysis.complexity.by_k) for analysis in data) + 1)
        series = [
            Series(analysis.name, {f"k = {k}": analysis.complexity.by_k.get(k, 0) / analysis.questions for k in ks})
            for analysis in data
        ]
        names = [f"k = {k}" for k in ks if any(analysis.complexity.by_k.get(k) for analysis in data)]
        plot = plot_bars(series, names, name="k-distribution", title="Questions by k", row_header="k")
    has_requested_k = any(analysis.k_is == "asked" for analysis in data)
    lower_bound_note = (
        "If k was requested, it is a lower bound: a teacher was asked for k capabilities, and a verifier confirmed "
        "them. "
    )
    return Section(
        "complexity",
        "Complexity",
        (_K_EXPLANATION.format(asked=lower_bound_note if has_requested_k else ""),),
        (PlotBlock(plot), TableBlock("Compared with the paper's data", tables.complexity_table(data))),
    )


def _capabilities_section(data: Sequence[Analysis]) -> Section:
    """Return the section with coverage and co-occurrence of capabilities."""
    paragraph = (
        "The share of questions that need each capability. A question that needs several capabilities counts for each."
    )
    if len(data) == 1:
        # A single dataset is shown in numbers of questions, two in shares.
        combinations = _parse_combinations(data[0])
        plots = (
            PlotBlock(dataset_charts.plot_coverage(combinations)),
            PlotBlock(dataset_charts.plot_cooccurrence(combinations), is_folded=True),
        )
        paragraph = (
            "The number of questions that need each capability, and each pair of capabilities. A question counts for "
            "each capability and each pair that it needs."
        )
        return Section("capabilities", "Capabilities", (paragraph,), plots)
    series = [
        Series(
            analysis.name,
            {name: count / analysis.questions for name, count in analysis.complexity.by_capability.items()},
        )
        for analysis in data
    ]
    coverage = plot_bars(
        series,
        list(CAPABILITIES),
        name="coverage",
        title="Questions that need each capability",
        row_header="capability",
    )
    pairs = [
        replace(plot, name=f"cooccurrence-{number}", title=f"{plot.title}: {analysis.name}")
        for number, analysis in enumerate(data, 1)
        for plot in [dataset_charts.plot_cooccurrence(_parse_combinations(analysis))]
    ]
    return Section(
        "capabilities",
        "Capabilities",
        (paragraph,),
        (PlotBlock(coverage), *(PlotBlock(plot, is_folded=True) for plot in pairs)),
    )


def _text_only_section(data: Sequence[Analysis]) -> Section:
    """Return the section with the accuracy of the text-only baseline, one plot per dataset."""
    plots = tuple(
        PlotBlock(_text_only_plot(analysis, analysis.text_alone, f"text-alone-{number}", is_comparison=len(data) > 1))
        for number, analysis in enumerate(data, 1)
        if analysis.text_alone is not None
    )
    paragraph = (
        "The accuracy of a classifier that does not see the image: naive Bayes over the words of a question, trained "
        "on questions about other images. The part above the most frequent answers is what the wording gives away; a "
        "language model may guess more. Chance is the accuracy of answers drawn with the frequencies of the data."
    )
    empty_note = "There are too few questions with answers to train a classifier."
    return Section("text-alone", "Text-only baseline", (paragraph if plots else empty_note,), plots)


def _text_only_plot(analysis: Analysis, baseline: TextOnlyBaseline, name: str, *, is_comparison: bool) -> Plot:
    rows = [("all", baseline.overall), *((f"k = {k}", score) for k, score in baseline.by_k.items())]
    plot = score_charts.plot_accuracy(
        [
            score_charts.ScoreRow(
                label, score.n, score.majority, (score_charts.Interval(score.accuracy, score.low, score.high),)
            )
            for label, score in rows
        ],
        ("text only",),
        name=name,
        title=f"Accuracy without the image{f': {analysis.name}' if is_comparison else ''}",
    )
    # This table also has the accuracy of chance, which the plot does not show.
    return replace(plot, table=tables.text_only_table(analysis))


def _answers_section(data: Sequence[Analysis]) -> Section:
    """Return the section about answers: entropy by type of question, frequent answers and lengths."""
    paragraph = (
        "The entropy measures how varied the answers to one type of question are: 0 bits if all answers are the same, "
        "and 1 bit more for each doubling of the number of equally frequent answers. Questions are grouped by their "
        "first two words, and by the capabilities they need. The entropy of a type with few questions is "
        "underestimated. If several answers are equally frequent, the first in alphabetical order is named."
    )
    elements: list[PlotBlock | TableBlock] = []
    # Without answers in one of the datasets there is nothing to compare by type.
    if all(analysis.answers is not None for analysis in data):
        # The most frequent types of each dataset, those of the first dataset first, without repeats.
        names = list(
            dict.fromkeys(
                question_type.name for analysis in data for question_type in analysis.openings.types[: tables.MAX_TYPES]
            )
        )
        entropies = [
            Series(
                analysis.name, {question_type.name: question_type.entropy for question_type in analysis.openings.types}
            )
            for analysis in data
        ]
        # Additional columns, for a single dataset only: header -> one cell per type.
        notes = {}
        if len(data) == 1:
            types_by_name = {question_type.name: question_type for question_type in data[0].openings.types}
            notes = {
                "questions": [f"{types_by_name[name].questions:,}" for name in names],
                "most frequent": [tables.format_type_top_answer(types_by_name[name]) for name in names],
            }
        title = "Entropy of the answers by the first two words of the question, most frequent first"
        plot = plot_bars(
            entropies,
            names,
            name="openings",
            title=title,
            row_header="first words",
            value_header="bits",
            format_value="{:.1f}".format,
            notes=notes,
        )
        elements.append(PlotBlock(plot, is_folded=len(data) > 1))
    for analysis in data:
        if analysis.answers is not None:
            title = "Answers by the capabilities of the question"
            table = tables.type_table(analysis.by_combination.types, "capabilities")
            elements.append(TableBlock(f"{title}: {analysis.name}" if len(data) > 1 else title, table))
    with_answers = [analysis for analysis in data if analysis.answer_words is not None]
    if with_answers:
        counts = [
            (analysis.name, analysis.answer_words.by_words)
            for analysis in with_answers
            # Repeated for the type checker.
            if analysis.answer_words is not None
        ]
        elements.append(PlotBlock(plot_lengths(counts, name="answer-words", title="Words per answer"), is_folded=True))
    return Section("answers", "Variety of answers", (paragraph,), tuple(elements))


def _questions_section(data: Sequence[Analysis]) -> Section:
    """Return the section about questions: lengths, repeats and the table of all statistics."""
    counts = [(analysis.name, analysis.question_words.by_words) for analysis in data]
    elements: list[PlotBlock | TableBlock] = [
        PlotBlock(plot_lengths(counts, name="question-words", title="Words per question"), is_folded=True)
    ]
    if len(data) == 1:
        # For two datasets this table is at the top of the page.
        elements.append(TableBlock("All statistics", tables.stats_table(data)))
    paragraph = (
        "Questions are the same if they differ only in case, articles, punctuation, hyphens, plurals and whether "
        "numbers are words. They are near "
        "duplicates if they share more than 90% of their words in the same order, are about different images and have "
        "the same answer; compact assemble drops those."
    )
    return Section("questions", "Lengths and repeats", (paragraph,), tuple(elements))


def _distance_section(comparison: DatasetComparison) -> Section:
    paragraph = (
        "The total variation distance between the two datasets: half the sum of the absolute differences of shares. "
        "Small samples have a distance above 0 by chance alone; the more distinct values there are, the larger it is."
    )
    return Section("apart", "Distances", (paragraph,), (TableBlock("Distances", tables.distance_table(comparison)),))


def _parse_combinations(analysis: Analysis) -> dict[tuple[str, ...], int]:
    # `color+shape` -> (color, shape); the empty name -> (), for questions that need no capability.
    return {tuple(filter(None, names.split("+"))): count for names, count in analysis.combinations.items()}
