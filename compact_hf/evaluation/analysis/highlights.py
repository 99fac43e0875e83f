"""Summarizes the main results of an analysis in sentences, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from compact_hf.evaluation.analysis.compare import DatasetComparison
from compact_hf.evaluation.analysis.stats import Analysis
from compact_hf.reports.ranking import find_extremes, join_names
from compact_hf.reports.theme import get_label
from compact_hf.wording import format_count

# Pairs of the ten capabilities.
_PAIR_COUNT: Final = 45


def list_highlights(analysis: Analysis) -> tuple[str, ...]:
    """Return one sentence per topic: complexity, capabilities, text-only baseline, repeats and rows left out."""
    sentences = (
        _describe_complexity(analysis),
        _describe_capabilities(analysis),
        _describe_text_only(analysis),
        _describe_repeats(analysis),
        _describe_unlabelled_rows(analysis),
    )
    return tuple(filter(None, sentences))


def describe_overlap(comparison: DatasetComparison) -> tuple[str, ...]:
    """Return the numbers of images and questions that two datasets share."""
    return (
        f"{format_count(comparison.shared_pictures, 'image')}, by the hash of their files.",
        f"{format_count(comparison.shared_questions, 'distinct question')}; their images and answers may differ.",
    )


def _describe_complexity(analysis: Analysis) -> str:
    complexity = analysis.complexity
    none_needed = f"{complexity.none_needed:.1%} need none" if complexity.none_needed else "all need at least one"
    return (
        f"A question needs {complexity.mean_k or 0:.2f} of the ten capabilities on average; "
        f"{complexity.at_most_2 or 0:.0%} need at most "
        f"two, {none_needed} (in the paper 77% and 1.1% for LLaVA-665K, 35% and 0% for COMPACT)."
    )


def _describe_capabilities(analysis: Analysis) -> str:
    shares = {name: count / analysis.questions for name, count in analysis.complexity.by_capability.items()}
    extremes = find_extremes(shares)
    if extremes is None:
        # Ten equal shares: none is the most or the least frequent one.
        ranking = f"All ten capabilities are equally frequent ({next(iter(shares.values())):.1%} of the questions)"
    else:
        (most, most_share), (least, least_share) = (
            (join_names(map(get_label, names)), shares[names[0]]) for names in (extremes.highest, extremes.lowest)
        )
        ranking = (
            f"The most frequent {_agree('capability is', 'capabilities are', extremes.highest)} {most} "
            f"({most_share:.1%} of the questions), the least frequent {least} ({least_share:.1%})"
        )
    # `by_pair` only has pairs that occur.
    missing_pairs = _PAIR_COUNT - len(analysis.complexity.by_pair)
    pairs_text = (
        f"{missing_pairs} of the {_PAIR_COUNT} pairs of capabilities never occur"
        if missing_pairs
        else "all 45 pairs occur"
    )
    return f"{ranking}; {pairs_text}."


def _agree(singular: str, plural: str, names: Sequence[str]) -> str:
    return singular if len(names) == 1 else plural


def _describe_text_only(analysis: Analysis) -> str:
    if analysis.text_alone is None:
        return "Too few questions have answers for a text-only baseline."
    score = analysis.text_alone.overall
    majority_text = f"the most frequent answer of each k is right for {score.majority:.0%}"
    # The interval contains the majority answer, so the difference may be due to chance.
    if score.low <= score.majority:
        return (
            f"A classifier that only sees the text answers {score.accuracy:.0%} of the questions correctly, not "
            f"significantly more than a constant answer: {majority_text}."
        )
    return (
        f"A classifier that only sees the text answers {score.accuracy:.0%} of the questions correctly; "
        f"{majority_text}, and the most frequent answer to questions with the same first two words, which show what "
        f"kind of answer is expected, for {analysis.openings.most_share:.0%}."
    )


def _describe_repeats(analysis: Analysis) -> str:
    repeats = analysis.repeats
    same_answer = f"{repeats.question_and_answer:.1%}" if repeats.question_and_answer else "none"
    parts = [f"{same_answer} with the same answer"]
    if repeats.about_the_picture:
        parts.append(f"{repeats.about_the_picture:.1%} about the same image")
    if repeats.near:
        parts.append(f"{repeats.near:.1%} nearly repeat a question about another image with the same answer")
    return f"{repeats.question:.0%} of the questions repeat an earlier one in the same words, {', '.join(parts)}."


def _describe_unlabelled_rows(analysis: Analysis) -> str:
    if not analysis.unlabelled_rows:
        return ""
    verb = "is" if analysis.unlabelled_rows == 1 else "are"
    return (
        f"{format_count(analysis.unlabelled_rows, 'row')} {verb} left out because the capabilities of the questions "
        "are not known."
    )
