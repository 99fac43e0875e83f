"""Decides which questions of rows and of runs a contact sheet shows, by k and by capability."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import UnknownCapabilityError, UsageError
from compact_hf.methods.row_kind import Filters, Sample
from compact_hf.records import Reject, Turn

if TYPE_CHECKING:
    from compact_hf.methods.compact.conversation import Outcome

FILTERS: Final = frozenset(("k", "capability"))
_MAX_DRAFTS: Final = 4


def describe_filters(filters: Filters) -> str | None:
    """Return in words what the filters ask for, such as `of k = 3 for the capability counting`; see `RowKind`.

    Args:
        filters (`Filters`): names and values of the filters.

    Raises:
        UsageError: k is out of range.
        UnknownCapabilityError: the capability is not one of the ten.
    """
    if not filters.keys() <= FILTERS:
        return None
    from compact_hf.reports.theme import get_label

    k, capability = filters.get("k"), filters.get("capability")
    if k is not None and not 1 <= k <= len(CAPABILITIES):
        raise UsageError(f"k = {k} is out of range: a question needs 1 to {len(CAPABILITIES)} capabilities")
    if capability is not None and capability not in CAPABILITIES:
        raise UnknownCapabilityError(capability, tuple(CAPABILITIES))
    parts = [f"of k = {k}"] if k is not None else []
    parts += [f"for the capability {get_label(capability)}"] if capability is not None else []
    return " ".join(parts)


def make_question_sample(
    k: int,
    turns: Sequence[Turn],
    *,
    caption: str,
    teacher: str,
    verifier: str,
    filters: Filters,
) -> Sample | None:
    """Return how the questions of an image are shown, None if none of them matches the filters.

    Args:
        k (`int`): the k of the image.
        turns (`Sequence[Turn]`): its accepted questions.
        caption (`str`): text that says where the image comes from.
        teacher (`str`): the model that wrote the questions.
        verifier (`str`): the model that verified them.
        filters (`Filters`): the filters `k` and `capability`.
    """
    from compact_hf.reports.contact_sheet import QuestionItem, section_of_k

    # (None, *capabilities): without the filter every turn is wanted.
    wanted = tuple(turn for turn in turns if filters.get("capability") in (None, *turn.capabilities))
    if not wanted or filters.get("k") not in (None, k):
        return None
    return Sample(section_of_k(k), teacher, verifier, partial(QuestionItem, k=k, turns=wanted, caption=caption))


def make_reject_sample(
    outcome: Outcome, *, caption: str, teacher: str, verifier: str, filters: Filters
) -> Sample | None:
    """Return how the dropped drafts of an image are shown, None if none of them matches the filters.

    At most four drafts are shown. The first drafts of different reasons come before the second draft of any reason.

    Args:
        outcome (`Outcome`): the outcome of the image.
        caption (`str`): text that says where the image comes from.
        teacher (`str`): the model that wrote the drafts.
        verifier (`str`): the model that verified them.
        filters (`Filters`): the filters `k` and `capability`.
    """
    from compact_hf.reports.contact_sheet import QuestionItem, section_of_k

    k, rejects = outcome.k, outcome.rejects
    drafts = [
        reject for reject in rejects if _is_draft(reject) and filters.get("capability") in (None, *reject.capabilities)
    ]
    if not drafts or filters.get("k") not in (None, k):
        return None
    # For each draft the number of earlier ones with the same reason, so that sorting by it alternates the reasons.
    repeat_counts = [
        sum(earlier.reason == reject.reason for earlier in drafts[:index]) for index, reject in enumerate(drafts)
    ]
    positions = sorted(range(len(drafts)), key=repeat_counts.__getitem__)[:_MAX_DRAFTS]
    shown = tuple(drafts[position] for position in positions)
    return Sample(
        section_of_k(k), teacher, verifier, partial(QuestionItem, k=k, turns=(), caption=caption, rejects=shown)
    )


def _is_draft(reject: Reject) -> bool:
    """Whether a reject is about a draft.

    It is not if the teacher declined, because there is no draft then. Rejects of other stages are about images or about
    questions of a dataset.
    """
    return reject.stage in ("generation", "verification") and bool(reject.subject)
