"""Formats the tables of `compact status` about questions with a k and capabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods.compact.status import QuestionRunStatus
from compact_hf.methods.tables import format_share
from compact_hf.reports.table import Table

_CAPABILITY_HEADS: Final = "color shape object action text spatial count relation interact scene".split()
"""Short names of the ten capabilities in canonical order, for the heads of narrow columns."""
_MAX_DECLINED: Final = 5


def question_tables(status: QuestionRunStatus) -> Iterator[Table]:
    """Yield tables of questions by k, by capability and by pair of capabilities, and of what the teacher declined.

    Args:
        status (`QuestionRunStatus`): the status of the run.
    """
    if status.drafts_by_k:
        yield from _k_and_capability_tables(status)
    yield _declined_table(status)


def _k_and_capability_tables(status: QuestionRunStatus) -> Iterator[Table]:
    """Yield the tables by k, by capability and by pair of capabilities."""
    ks = list(status.drafts_by_k)
    yield Table(
        ("k", "kept images", "questions", "drafts", "accepted"),
        [
            (
                str(k),
                f"{status.conversations_by_k[k]:,}",
                f"{status.questions_by_k[k]:,}",
                f"{status.drafts_by_k[k]:,}",
                format_share(status.accepted_by_k[k], status.drafts_by_k[k]),
            )
            for k in ks
        ],
        is_numeric=True,
    )
    drafts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for combination in status.combinations:
        # `Counter.update` adds the numbers: each capability of a combination gets all its drafts.
        drafts.update(dict.fromkeys(combination.capabilities, combination.asked))
        accepted.update(dict.fromkeys(combination.capabilities, combination.accepted))
    # Only capabilities of kept questions are counted by k; drafts and their share are over all ks.
    yield Table(
        ("capability", *(f"k = {k}" for k in ks), "drafts", "accepted"),
        [
            (name, *(f"{counts[k]:,}" for k in ks), f"{drafts[name]:,}", format_share(accepted[name], drafts[name]))
            for name, counts in status.questions_by_capability.items()
        ],
        is_numeric=True,
    )
    yield Table(
        ("questions that need", *_CAPABILITY_HEADS),
        [(name, *(status.coverage[name][column] for column in CAPABILITIES)) for name in CAPABILITIES],
    )


def _declined_table(status: QuestionRunStatus) -> Table:
    """Return the table of the combinations that the teacher declined most often; the rest is one line."""
    counts = sorted((count for count in status.combinations if count.declined), key=lambda count: -count.declined)
    rows = [(", ".join(count.capabilities), count.declined, count.asked) for count in counts[:_MAX_DECLINED]]
    if rest := counts[_MAX_DECLINED:]:
        sums = sum(count.declined for count in rest), sum(count.asked for count in rest)
        rows.append((f"{len(rest)} other combinations", *sums))
    return Table(("declined by the teacher", "count", "of drafts"), rows)
