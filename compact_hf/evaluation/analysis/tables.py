"""Builds the tables of an analysis of one or two datasets, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.evaluation.analysis.compare import DatasetComparison
from compact_hf.evaluation.analysis.stats import Analysis, LengthStats
from compact_hf.evaluation.analysis.text_only import BaselineScore, QuestionType
from compact_hf.methods.base import KSource
from compact_hf.reports.dataset_charts import PAPER_MEAN_K
from compact_hf.reports.table import Table
from compact_hf.reports.theme import get_label

MAX_PAIRS: Final = 10
MAX_TYPES: Final = 12

K_SOURCE_NAMES: Final[Mapping[KSource, str]] = {"asked": "asked for, verified", "judged": "judged"}
_LLAVA, _COMPACT = PAPER_MEAN_K
# Data, questions, mode of k, shares of k <= 2 and of k = 0; k was judged by Gemini (arXiv 2504.21850, section 2).
_PAPER_ROWS: Final = ((_LLAVA, "5,400", "–", "77%", "1.1%"), (_COMPACT, "7,200", "3", "35%", "0%"))
# Key of `DatasetComparison.distances` -> label, in the order of the rows.
_DISTANCE_NAMES: Final = {
    "k": "k",
    "capabilities": "capabilities",
    "pairs": "pairs of capabilities",
    "question_words": "words per question",
    "answer_words": "words per answer",
    "openings": "first two words",
    "answers": "answers",
}


def stats_table(data: Sequence[Analysis]) -> Table:
    """Return all single statistics, with one row per statistic and one column per dataset."""
    # (label, function that formats the statistic of one dataset)
    rows: list[tuple[str, Callable[[Analysis], str]]] = [
        ("questions", lambda analysis: f"{analysis.questions:,}"),
        ("images", lambda analysis: f"{analysis.pictures:,}"),
        ("rows left out, with unknown capabilities", lambda analysis: f"{analysis.unlabelled_rows:,}"),
        ("mean k", lambda analysis: f"{analysis.complexity.mean_k or 0:.2f} ({K_SOURCE_NAMES[analysis.k_is]})"),
        ("questions with k <= 2", lambda analysis: f"{analysis.complexity.at_most_2 or 0:.1%}"),
        ("questions with k = 0", lambda analysis: f"{analysis.complexity.none_needed or 0:.1%}"),
        ("median words per question (95th percentile)", lambda analysis: _format_lengths(analysis.question_words)),
        ("median words per answer (95th percentile)", lambda analysis: _format_lengths(analysis.answer_words)),
        # The rows above count all questions; those below are computed from the sample.
        ("sampled questions for the rows below", lambda analysis: f"{analysis.sampled:,}"),
        ("repeated question, same image", lambda analysis: f"{analysis.repeats.about_the_picture:.1%}"),
        ("repeated question, any image", lambda analysis: f"{analysis.repeats.question:.1%}"),
        ("repeated question with the same answer", lambda analysis: f"{analysis.repeats.question_and_answer:.1%}"),
        ("near-duplicate question with the same answer", lambda analysis: f"{analysis.repeats.near:.1%}"),
        # None of these exists for a dataset without answers, which gets a dash.
        ("distinct answers", lambda analysis: _or_dash(analysis.answers and f"{analysis.answers.all.different:,}")),
        (
            "answers that are yes or no",
            lambda analysis: _or_dash(analysis.answers and f"{analysis.answers.all.yes_no:.1%}"),
        ),
        ("most frequent answer", lambda analysis: _or_dash(analysis.answers and format_top_answer(analysis))),
        (
            "entropy of the answers, bits",
            lambda analysis: _or_dash(analysis.answers and f"{analysis.answers.entropy:.2f}"),
        ),
        (
            "entropy given the first two words, bits",
            lambda analysis: _or_dash(analysis.answers and f"{analysis.openings.mean_entropy:.2f}"),
        ),
        (
            "entropy given the capabilities, bits",
            lambda analysis: _or_dash(analysis.answers and f"{analysis.by_combination.mean_entropy:.2f}"),
        ),
        (
            "answered from the text alone",
            lambda analysis: _or_dash(analysis.text_alone and format_score(analysis.text_alone.overall)),
        ),
        (
            "answered by the most frequent answer of each k",
            lambda analysis: _or_dash(analysis.text_alone and _format_share(analysis, "majority")),
        ),
        (
            "answered by the most frequent answer per first two words",
            lambda analysis: _or_dash(analysis.answers and f"{analysis.openings.most_share:.1%}"),
        ),
        ("answered by chance", lambda analysis: _or_dash(analysis.text_alone and _format_share(analysis, "chance"))),
    ]
    # Only some datasets have instruction rows; without any, their row is left out.
    has_unlabelled_rows = any(analysis.unlabelled_rows for analysis in data)
    return Table(
        ("statistic", *(analysis.name for analysis in data)),
        tuple(
            (label, *(format_value(analysis) for analysis in data))
            for label, format_value in rows
            if has_unlabelled_rows or not label.startswith("rows left out")
        ),
    )


def complexity_table(data: Sequence[Analysis]) -> Table:
    """Return the statistics of k that the paper reports, for the analyzed data and then for the paper's data."""
    entries = [(item.name, K_SOURCE_NAMES[item.k_is], item.complexity) for item in data]
    return Table(
        ("data", "source of k", "questions", "mean k", "mode", "k <= 2", "k = 0"),
        (
            *(
                (
                    name,
                    k_is,
                    f"{item.questions:,}",
                    f"{item.mean_k or 0:.2f}",
                    str(item.mode_k),
                    f"{item.at_most_2 or 0:.1%}",
                    f"{item.none_needed or 0:.1%}",
                )
                for name, k_is, item in entries
            ),
            *(
                (name, K_SOURCE_NAMES["judged"], questions, f"{PAPER_MEAN_K[name]:.2f}", *shares)
                for name, questions, *shares in _PAPER_ROWS
            ),
        ),
    )


def k_table(data: Sequence[Analysis]) -> Table:
    """Return the number of questions for each k."""
    ks = range(min(min(analysis.complexity.by_k, default=0) for analysis in data), _max_k(data) + 1)
    return Table(
        ("k", *(analysis.name for analysis in data)),
        tuple(
            (str(k), *(_format_count(analysis.complexity.by_k.get(k, 0), analysis.questions) for analysis in data))
            for k in ks
        ),
    )


def capability_table(data: Sequence[Analysis]) -> Table:
    """Return the number of questions that need each of the ten capabilities."""
    return Table(
        ("capability", *(analysis.name for analysis in data)),
        tuple(
            (
                get_label(name),
                *(_format_count(analysis.complexity.by_capability[name], analysis.questions) for analysis in data),
            )
            for name in CAPABILITIES
        ),
    )


def pair_table(data: Sequence[Analysis]) -> Table:
    """Return the most frequent pairs of capabilities, those of the first dataset first."""
    pair_counts = [
        {f"{get_label(pair.one)} + {get_label(pair.other)}": pair.questions for pair in analysis.complexity.by_pair}
        for analysis in data
    ]
    names = list(dict.fromkeys(name for pairs in pair_counts for name in pairs))[:MAX_PAIRS]
    return Table(
        ("pair of capabilities", *(analysis.name for analysis in data)),
        tuple(
            (
                name,
                *(
                    _format_count(pairs.get(name, 0), analysis.questions)
                    for pairs, analysis in zip(pair_counts, data, strict=True)
                ),
            )
            for name in names
        ),
    )


def type_table(question_types: Sequence[QuestionType], head: str) -> Table:
    """Return the most frequent types of questions, with statistics of their answers."""
    return Table(
        (head, "questions", "distinct answers", "entropy, bits", "most frequent answer"),
        tuple(
            (
                # A type without a name has no capabilities, or no words.
                get_label(question_type.name).replace("+", " + ") or "none",
                f"{question_type.questions:,}",
                f"{question_type.different:,}",
                f"{question_type.entropy:.2f}",
                format_type_top_answer(question_type),
            )
            for question_type in question_types[:MAX_TYPES]
        ),
    )


def text_only_table(analysis: Analysis) -> Table:
    """Return the accuracy of the text-only baseline, overall and by k."""
    rows = (
        # (k or `all`, score); no rows if there were too few answers to train a classifier.
        () if analysis.text_alone is None else (("all", analysis.text_alone.overall), *analysis.text_alone.by_k.items())
    )
    return Table(
        ("k", "n", "chance", "majority", "text only (95%)"),
        tuple(
            (str(k), f"{score.n:,}", f"{score.chance:.1%}", f"{score.majority:.1%}", format_score(score))
            for k, score in rows
        ),
    )


def distance_table(comparison: DatasetComparison) -> Table:
    """Return the distances between two datasets."""
    return Table(
        ("distance of", "0: equal, 1: nothing in common"),
        tuple((label, f"{comparison.distances[name]:.2f}") for name, label in _DISTANCE_NAMES.items()),
    )


def iter_tables(data: Sequence[Analysis], comparison: DatasetComparison | None) -> Iterator[Table]:
    """Yield the tables for the terminal."""
    yield complexity_table(data)
    yield stats_table(data)
    yield k_table(data)
    yield capability_table(data)
    yield pair_table(data)
    for analysis in data:
        suffix = f" of {analysis.name}" if len(data) > 1 else ""
        if analysis.answers is not None:
            yield type_table(analysis.openings.types, f"first two words{suffix}")
        if analysis.text_alone is not None:
            table = text_only_table(analysis)
            yield Table((f"k{suffix}", *table.head[1:]), table.rows)
    if comparison is not None:
        yield distance_table(comparison)


def format_score(score: BaselineScore) -> str:
    """Return an accuracy with its interval, as text."""
    return f"{score.accuracy:.1%} ({score.low:.1%}–{score.high:.1%})"


def format_top_answer(analysis: Analysis) -> str:
    """Return the most frequent answer and its share, as text."""
    return (
        "" if analysis.answers is None else f"{_quote(analysis.answers.all.most)} {analysis.answers.all.most_share:.1%}"
    )


def format_type_top_answer(question_type: QuestionType) -> str:
    """Return the most frequent answer of a type and its share, as text."""
    return f"{_quote(question_type.most)} {question_type.most_share:.0%}"


def _quote(answer: str) -> str:
    return f'"{answer}"' if len(answer) <= 24 else f'"{answer[:23]}…"'


def _max_k(data: Sequence[Analysis]) -> int:
    return max(max(analysis.complexity.by_k) for analysis in data)


def _format_share(analysis: Analysis, field: str) -> str:
    return f"{getattr(analysis.text_alone.overall, field):.1%}" if analysis.text_alone else ""


def _format_lengths(lengths: LengthStats | None) -> str:
    return _or_dash(lengths and f"{lengths.median} ({lengths.most})")


def _or_dash(text: object) -> str:
    return str(text) if text else "–"


def _format_count(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})"
