"""What stands out in analyzed data, in sentences: one or two `Analysis` in, what a reader should not overlook out."""

from __future__ import annotations

from typing import Final

from compact_hf.evaluation.analysis.compare import Comparison
from compact_hf.evaluation.analysis.stats import Analysis
from compact_hf.reports.theme import spoken

_PAIRS: Final = 45


def standing_out(one: Analysis) -> tuple[str, ...]:
    """Return one sentence a matter."""
    sentences = (_complexity(one), _capabilities(one), _text_alone(one), _repeats(one), _left_out(one))
    return tuple(filter(None, sentences))


def in_common(comparison: Comparison) -> tuple[str, ...]:
    """Return what two data sets share."""
    return (
        f"{comparison.shared_pictures:,} pictures, by the hash of their files.",
        f"{comparison.shared_questions:,} different questions, whatever their pictures and answers.",
    )


def _complexity(one: Analysis) -> str:
    found = one.complexity
    none = f"{found.none_needed:.1%} need none" if found.none_needed else "all need at least one"
    return (
        f"A question needs {found.mean_k or 0:.2f} capabilities on average; {found.at_most_2 or 0:.0%} need at most "
        f"two, {none} of the ten (in the paper LLaVA-665K: 77% and 1.1%, COMPACT: 35% and none)."
    )


def _capabilities(one: Analysis) -> str:
    needed = one.complexity.by_capability
    most, least = max(needed, key=lambda name: needed[name]), min(needed, key=lambda name: needed[name])
    missing = _PAIRS - len(one.complexity.by_pair)
    pairs = f"{missing} of the {_PAIRS} pairs of capabilities never occur" if missing else "all 45 pairs occur"
    return (
        f"Most questions need {spoken(most)} ({needed[most] / one.questions:.0%}), fewest {spoken(least)} "
        f"({needed[least] / one.questions:.1%}); {pairs}."
    )


def _text_alone(one: Analysis) -> str:
    if one.text_alone is None:
        return "Too few questions have answers for guessing them without the picture."
    score = one.text_alone.overall
    majority = f"{score.majority:.0%} by the most frequent answer of each k"
    if score.low <= score.majority:
        return f"The words alone answer {score.accuracy:.0%} of the questions, no more than {majority}."
    return (
        f"The words alone answer {score.accuracy:.0%} of the questions, as against {majority}; a question's first two "
        f"words, which tell what kind of answer it wants, give {one.openings.most_share:.0%}."
    )


def _repeats(one: Analysis) -> str:
    found = one.repeats
    same = f"{found.question_and_answer:.1%}" if found.question_and_answer else "none"
    parts = [f"{same} with the same answer"]
    if found.about_the_picture:
        parts.append(f"{found.about_the_picture:.1%} about the same picture")
    if found.near:
        parts.append(f"{found.near:.1%} nearly repeat another picture's question with the same answer")
    return f"{found.question:.0%} of the questions repeat an earlier one in the same words, {', '.join(parts)}."


def _left_out(one: Analysis) -> str:
    if not one.unlabelled_rows:
        return ""
    return f"{one.unlabelled_rows:,} rows are left out, because nobody said what their questions need."
