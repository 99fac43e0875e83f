"""The page about analyzed data: one or two `Analysis` in, one HTML file out; reports/analysis_page.py draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot

_K_EXPLANATION: Final = (
    "k is how many of the ten capabilities a question needs at once. {asked}In the paper's own figures it was judged "
    "afterwards by Gemini, which finds more than were asked for, since some capabilities come along with others."
)


def render_page(data: Sequence[Analysis], comparison: DatasetComparison | None, *, command: str) -> str:
    """Return the page about one dataset, or about two beside each other.

    Args:
        data (`Sequence[Analysis]`): one or two.
        comparison (`DatasetComparison | None`): of two.
        command (`str`): what makes the page anew.
    """
    return render_analysis(
        AnalysisPage(
            title=" beside ".join(analysis.name for analysis in data),
            lead=_lead(data[0])
            if len(data) == 1
            else " ".join(f"{analysis.name}: {_lead(analysis)}" for analysis in data),
            facts=() if len(data) > 1 else tuple(_iter_facts(data[0])),
            summary_table=tables.stats_table(data) if len(data) > 1 else None,
            findings=(
                *(Findings(analysis.name if len(data) > 1 else "", list_highlights(analysis)) for analysis in data),
                *([Findings("In common", describe_overlap(comparison))] if comparison is not None else []),
            ),
            sections=(
                _complexity_section(data),
                _capabilities_section(data),
                _text_only_section(data),
                _answers_section(data),
                _questions_section(data),
                *([_distance_section(comparison)] if comparison is not None else []),
            ),
            command=Example("The same figures, from the same data; --json prints them for machines.", command),
        )
    )


def _lead(analysis: Analysis) -> str:
    origin = (
        "a teacher was to ask for it, and a verifier found the same"
        if analysis.k_is == "asked"
        else "a verifier judged it"
    )
    return f"{analysis.questions:,} questions about {analysis.pictures:,} pictures. What they need: {origin}."


def _iter_facts(analysis: Analysis) -> Iterator[Fact]:
    complexity = analysis.complexity
    yield Fact("questions", f"{analysis.questions:,}", f"{analysis.questions / analysis.pictures:.1f} a picture")
    yield Fact(
        "mean k",
        f"{complexity.mean_k or 0:.2f}",
        f"{tables.K_SOURCE_NAMES[analysis.k_is]}; most often {complexity.mode_k}",
    )
    yield Fact(
        "with k ≤ 2", f"{complexity.at_most_2 or 0:.0%}", f"{complexity.none_needed or 0:.1%} need nothing, k = 0"
    )
    if analysis.text_alone is not None:
        score = analysis.text_alone.overall
        yield Fact(
            "answered from the words alone",
            f"{score.accuracy:.0%}",
            f"{score.majority:.0%} by the most frequent answers",
        )
    if analysis.answers is not None:
        yield Fact(
            "different answers",
            f"{analysis.answers.all.different:,}",
            f"most often {tables.format_top_answer(analysis)}",
        )
    yield Fact(
        "repeat a question",
        f"{analysis.repeats.question:.0%}",
        f"{analysis.repeats.question_and_answer:.0%} its answer too",
    )


def _complexity_section(data: Sequence[Analysis]) -> Section:
    if len(data) == 1:
        plot = dataset_charts.plot_k_distribution(_parse_combinations(data[0]), means=dataset_charts.PAPER_MEAN_K)
    else:
        ks = range(max(max(analysis.complexity.by_k) for analysis in data) + 1)
        series = [
            Series(analysis.name, {f"k = {k}": analysis.complexity.by_k.get(k, 0) / analysis.questions for k in ks})
            for analysis in data
        ]
        names = [f"k = {k}" for k in ks if any(analysis.complexity.by_k.get(k) for analysis in data)]
        plot = plot_bars(series, names, name="k-distribution", title="Questions by k", row_header="k")
    has_requested_k = any(analysis.k_is == "asked" for analysis in data)
    lower_bound_note = (
        "Where it was asked for, it is a lower bound: a teacher was to ask for so many, and a verifier found the same. "
    )
    return Section(
        "complexity",
        "How complex",
        (_K_EXPLANATION.format(asked=lower_bound_note if has_requested_k else ""),),
        (PlotBlock(plot), TableBlock("Beside the paper's data", tables.complexity_table(data))),
    )


def _capabilities_section(data: Sequence[Analysis]) -> Section:
    paragraph = "The share of questions that need each capability; a question that needs several counts in each."
    if len(data) == 1:
        combinations = _parse_combinations(data[0])
        plots = (
            PlotBlock(dataset_charts.plot_coverage(combinations)),
            PlotBlock(dataset_charts.plot_cooccurrence(combinations), is_folded=True),
        )
        paragraph = (
            "How many questions need each capability, and each pair of them. A question counts in each that it needs."
        )
        return Section("capabilities", "Which capabilities", (paragraph,), plots)
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
        "Which capabilities",
        (paragraph,),
        (PlotBlock(coverage), *(PlotBlock(plot, is_folded=True) for plot in pairs)),
    )


def _text_only_section(data: Sequence[Analysis]) -> Section:
    plots = tuple(
        PlotBlock(_text_only_plot(analysis, analysis.text_alone, f"text-alone-{number}", is_comparison=len(data) > 1))
        for number, analysis in enumerate(data, 1)
        if analysis.text_alone is not None
    )
    paragraph = (
        "A classifier that sees no picture, naive Bayes over the words of a question, learnt from the other pictures' "
        "questions. What it gets right beyond the most frequent answers, the wording gives away; a language model may "
        "get further. Chance draws answers as often as they occur."
    )
    empty_note = "There are too few questions with answers to learn from."
    return Section("text-alone", "What the words give away", (paragraph if plots else empty_note,), plots)


def _text_only_plot(analysis: Analysis, baseline: TextOnlyBaseline, name: str, *, is_comparison: bool) -> Plot:
    rows = [("all", baseline.overall), *((f"k = {k}", score) for k, score in baseline.by_k.items())]
    plot = score_charts.plot_accuracy(
        [
            score_charts.ScoreRow(
                label, score.n, score.majority, (score_charts.Interval(score.accuracy, score.low, score.high),)
            )
            for label, score in rows
        ],
        ("words alone",),
        name=name,
        title=f"Answered without the picture{f': {analysis.name}' if is_comparison else ''}",
    )
    return replace(plot, table=tables.text_only_table(analysis))


def _answers_section(data: Sequence[Analysis]) -> Section:
    paragraph = (
        "Entropy says how open the answers to one type of question are: 0 bits where all answers are the same, one "
        "more for each doubling of equally frequent ones. A question's type is its first two words, and what it needs. "
        "With few questions of a type it comes out too low."
    )
    elements: list[PlotBlock | TableBlock] = []
    if all(analysis.answers is not None for analysis in data):
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
        notes = {}
        if len(data) == 1:
            types_by_name = {question_type.name: question_type for question_type in data[0].openings.types}
            notes = {
                "questions": [f"{types_by_name[name].questions:,}" for name in names],
                "most frequent": [tables.format_type_top_answer(types_by_name[name]) for name in names],
            }
        title = "Bits in the answers, by a question's first two words, the most frequent first"
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
            title = "Answers, by what a question needs"
            table = tables.type_table(analysis.by_combination.types, "capabilities")
            elements.append(TableBlock(f"{title}: {analysis.name}" if len(data) > 1 else title, table))
    with_answers = [analysis for analysis in data if analysis.answer_words is not None]
    if with_answers:
        counts = [
            (analysis.name, analysis.answer_words.by_words)
            for analysis in with_answers
            if analysis.answer_words is not None
        ]
        elements.append(
            PlotBlock(plot_lengths(counts, name="answer-words", title="Words of an answer"), is_folded=True)
        )
    return Section("answers", "How open the answers are", (paragraph,), tuple(elements))


def _questions_section(data: Sequence[Analysis]) -> Section:
    counts = [(analysis.name, analysis.question_words.by_words) for analysis in data]
    elements: list[PlotBlock | TableBlock] = [
        PlotBlock(plot_lengths(counts, name="question-words", title="Words of a question"), is_folded=True)
    ]
    if len(data) == 1:
        elements.append(TableBlock("All figures", tables.stats_table(data)))
    paragraph = (
        "Questions count as the same where they are but for case, articles, punctuation and plurals; as nearly the "
        "same where they share more than 90% of their words in the same order, are about another picture and have the "
        "same answer, which is what compact assemble drops."
    )
    return Section("questions", "Lengths and repeats", (paragraph,), tuple(elements))


def _distance_section(comparison: DatasetComparison) -> Section:
    paragraph = (
        "The total variation between the two: half the sum of what the shares differ by. Small samples lie apart by "
        "chance alone, the more different values there are, the further."
    )
    return Section(
        "apart", "How far apart", (paragraph,), (TableBlock("Distances", tables.distance_table(comparison)),)
    )


def _parse_combinations(analysis: Analysis) -> dict[tuple[str, ...], int]:
    return {tuple(filter(None, names.split("+"))): count for names, count in analysis.combinations.items()}
