"""The page about analyzed data: one or two `Analysis` in, one HTML file out; reports/analysis_page.py draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.evaluation.analysis import tables
from compact_hf.evaluation.analysis.compare import Comparison
from compact_hf.evaluation.analysis.highlights import in_common, standing_out
from compact_hf.evaluation.analysis.stats import Analysis
from compact_hf.evaluation.analysis.text_only import Blind
from compact_hf.reports import dataset_charts, score_charts
from compact_hf.reports.analysis_page import AnalysisPage, Drawn, Listed, Section, Told, render_analysis
from compact_hf.reports.dataset_charts import Series, bars, lengths
from compact_hf.reports.demo_page import Example, Fact
from compact_hf.reports.figure import Plot

_K_ASKED: Final = (
    "k is how many of the ten capabilities a question needs at once. {asked}In the paper's own figures it was judged "
    "afterwards by Gemini, which finds more than were asked for, since some capabilities come along with others."
)


def page(data: Sequence[Analysis], comparison: Comparison | None, *, command: str) -> str:
    """Return the page about one data set, or about two beside each other.

    Args:
        data (`Sequence[Analysis]`): one or two.
        comparison (`Comparison | None`): of two.
        command (`str`): what makes the page anew.
    """
    return render_analysis(
        AnalysisPage(
            title=" beside ".join(one.name for one in data),
            lead=_lead(data[0]) if len(data) == 1 else " ".join(f"{one.name}: {_lead(one)}" for one in data),
            facts=() if len(data) > 1 else tuple(_facts(data[0])),
            figures=tables.figures(data) if len(data) > 1 else None,
            told=(
                *(Told(one.name if len(data) > 1 else "", standing_out(one)) for one in data),
                *([Told("In common", in_common(comparison))] if comparison is not None else []),
            ),
            sections=(
                _complexity(data),
                _capabilities(data),
                _text_alone(data),
                _answers(data),
                _questions(data),
                *([_apart(comparison)] if comparison is not None else []),
            ),
            again=Example("The same figures, from the same data; --json prints them for machines.", command),
        )
    )


def _lead(one: Analysis) -> str:
    known = (
        "a teacher was to ask for it, and a verifier found the same" if one.k_is == "asked" else "a verifier judged it"
    )
    return f"{one.questions:,} questions about {one.pictures:,} pictures. What they need: {known}."


def _facts(one: Analysis) -> Iterator[Fact]:
    found = one.complexity
    yield Fact("questions", f"{one.questions:,}", f"{one.questions / one.pictures:.1f} a picture")
    yield Fact("mean k", f"{found.mean_k or 0:.2f}", f"{tables.K_IS[one.k_is]}; most often {found.mode_k}")
    yield Fact("with k ≤ 2", f"{found.at_most_2 or 0:.0%}", f"{found.none_needed or 0:.1%} need nothing, k = 0")
    if one.text_alone is not None:
        score = one.text_alone.overall
        yield Fact(
            "answered from the words alone",
            f"{score.accuracy:.0%}",
            f"{score.majority:.0%} by the most frequent answers",
        )
    if one.answers is not None:
        yield Fact("different answers", f"{one.answers.all.different:,}", f"most often {tables.most_frequent(one)}")
    yield Fact(
        "repeat a question", f"{one.repeats.question:.0%}", f"{one.repeats.question_and_answer:.0%} its answer too"
    )


def _complexity(data: Sequence[Analysis]) -> Section:
    if len(data) == 1:
        drawn = dataset_charts.k_distribution(_needed(data[0]), means=dataset_charts.PAPER_MEAN_K)
    else:
        ks = range(max(max(one.complexity.by_k) for one in data) + 1)
        series = [
            Series(one.name, {f"k = {k}": one.complexity.by_k.get(k, 0) / one.questions for k in ks}) for one in data
        ]
        names = [f"k = {k}" for k in ks if any(one.complexity.by_k.get(k) for one in data)]
        drawn = bars(series, names, name="k-distribution", title="Questions by k", what="k")
    asked = any(one.k_is == "asked" for one in data)
    here = (
        "Where it was asked for, it is a lower bound: a teacher was to ask for so many, and a verifier found the same. "
    )
    return Section(
        "complexity",
        "How complex",
        (_K_ASKED.format(asked=here if asked else ""),),
        (Drawn(drawn), Listed("Beside the paper's data", tables.complexity(data))),
    )


def _capabilities(data: Sequence[Analysis]) -> Section:
    words = "The share of questions that need each capability; a question that needs several counts in each."
    if len(data) == 1:
        needed = _needed(data[0])
        drawn = (Drawn(dataset_charts.coverage(needed)), Drawn(dataset_charts.cooccurrence(needed), folded=True))
        words = (
            "How many questions need each capability, and each pair of them. A question counts in each that it needs."
        )
        return Section("capabilities", "Which capabilities", (words,), drawn)
    series = [
        Series(one.name, {name: count / one.questions for name, count in one.complexity.by_capability.items()})
        for one in data
    ]
    coverage = bars(
        series, list(CAPABILITIES), name="coverage", title="Questions that need each capability", what="capability"
    )
    pairs = [
        replace(plot, name=f"cooccurrence-{number}", title=f"{plot.title}: {one.name}")
        for number, one in enumerate(data, 1)
        for plot in [dataset_charts.cooccurrence(_needed(one))]
    ]
    return Section(
        "capabilities", "Which capabilities", (words,), (Drawn(coverage), *(Drawn(plot, folded=True) for plot in pairs))
    )


def _text_alone(data: Sequence[Analysis]) -> Section:
    shown = tuple(
        Drawn(_guessing(one, one.text_alone, f"text-alone-{number}", several=len(data) > 1))
        for number, one in enumerate(data, 1)
        if one.text_alone is not None
    )
    words = (
        "A classifier that sees no picture, naive Bayes over the words of a question, learnt from the other pictures' "
        "questions. What it gets right beyond the most frequent answers, the wording gives away; a language model may "
        "get further. Chance draws answers as often as they occur."
    )
    none = "There are too few questions with answers to learn from."
    return Section("text-alone", "What the words give away", (words if shown else none,), shown)


def _guessing(one: Analysis, found: Blind, name: str, *, several: bool) -> Plot:
    lines = [("all", found.overall), *((f"k = {k}", score) for k, score in found.by_k.items())]
    drawn = score_charts.accuracy(
        [
            score_charts.Score(
                label, score.n, score.majority, (score_charts.Interval(score.accuracy, score.low, score.high),)
            )
            for label, score in lines
        ],
        ("words alone",),
        name=name,
        title=f"Answered without the picture{f': {one.name}' if several else ''}",
    )
    return replace(drawn, table=tables.text_alone(one))


def _answers(data: Sequence[Analysis]) -> Section:
    words = (
        "Entropy says how open the answers to one type of question are: 0 bits where all answers are the same, one "
        "more for each doubling of equally frequent ones. A question's type is its first two words, and what it needs. "
        "With few questions of a type it comes out too low."
    )
    shown: list[Drawn | Listed] = []
    if all(one.answers is not None for one in data):
        names = list(dict.fromkeys(type_.name for one in data for type_ in one.openings.types[: tables.MOST_TYPES]))
        entropies = [Series(one.name, {type_.name: type_.entropy for type_ in one.openings.types}) for one in data]
        notes = {}
        if len(data) == 1:
            of = {type_.name: type_ for type_ in data[0].openings.types}
            notes = {
                "questions": [f"{of[name].questions:,}" for name in names],
                "most frequent": [tables.share_of_most(of[name]) for name in names],
            }
        title = "Bits in the answers, by a question's first two words, the most frequent first"
        drawn = bars(
            entropies,
            names,
            name="openings",
            title=title,
            what="first words",
            unit="bits",
            show="{:.1f}".format,
            notes=notes,
        )
        shown.append(Drawn(drawn, folded=len(data) > 1))
    for one in data:
        if one.answers is not None:
            title = "Answers, by what a question needs"
            found = tables.types(one.by_combination.types, "capabilities")
            shown.append(Listed(f"{title}: {one.name}" if len(data) > 1 else title, found))
    with_answers = [one for one in data if one.answer_words is not None]
    if with_answers:
        counts = [(one.name, one.answer_words.by_words) for one in with_answers if one.answer_words is not None]
        shown.append(Drawn(lengths(counts, name="answer-words", title="Words of an answer"), folded=True))
    return Section("answers", "How open the answers are", (words,), tuple(shown))


def _questions(data: Sequence[Analysis]) -> Section:
    counts = [(one.name, one.question_words.by_words) for one in data]
    shown: list[Drawn | Listed] = [
        Drawn(lengths(counts, name="question-words", title="Words of a question"), folded=True)
    ]
    if len(data) == 1:
        shown.append(Listed("All figures", tables.figures(data)))
    words = (
        "Questions count as the same where they are but for case, articles, punctuation and plurals; as nearly the "
        "same where they share more than 90% of their words in the same order, are about another picture and have the "
        "same answer, which is what compact assemble drops."
    )
    return Section("questions", "Lengths and repeats", (words,), tuple(shown))


def _apart(comparison: Comparison) -> Section:
    words = (
        "The total variation between the two: half the sum of what the shares differ by. Small samples lie apart by "
        "chance alone, the more different values there are, the further."
    )
    return Section("apart", "How far apart", (words,), (Listed("Distances", tables.distances(comparison)),))


def _needed(one: Analysis) -> dict[tuple[str, ...], int]:
    return {tuple(filter(None, names.split("+"))): count for names, count in one.combinations.items()}
