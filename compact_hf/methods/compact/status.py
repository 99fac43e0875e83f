"""`compact status RUN`: what a run has done and spent so far, read from its journal, also while it is running."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.methods.compact.conversation import parse_outcome
from compact_hf.methods.compact.counts import CombinationCount, FaultCount, OutcomeCounter, RejectCount
from compact_hf.methods.compact.preset import CONVERSATION_METHODS, PAPER
from compact_hf.records import Reject, from_json
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.runs.journal import Journal, TokenUsage
from compact_hf.runs.shards import find_runs
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, lookup_prices

ROLES: Final[tuple[Role, ...]] = ("teacher", "verifier")


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """What one role was asked and what that cost.

    Attributes:
        teacher (`str`): who is asked, `NAME:MODEL`.
        requests, input_tokens, output_tokens (`int`): answered requests and their tokens as billed.
        price (`Price | None`): what the teacher charges today, None where nobody knows.
        cost (`float | None`): USD, at the prices of the days on which it was asked.
    """

    teacher: str
    requests: int
    input_tokens: int
    output_tokens: int
    price: Price | None
    cost: float | None


def usage_by_role(
    entries: Sequence[TokenUsage],
    identity: Mapping[str, Any],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> dict[Role, RoleUsage]:
    """Return what each role of a run was asked, and what that cost.

    Args:
        entries (`Sequence[TokenUsage]`): from the run's journal, or those of all its shards.
        identity (`Mapping[str, Any]`): the run's settings, which name who is asked.
        price_in, price_out (`float`, *optional*): USD per million tokens, for teachers whose price is not known.

    Raises:
        UsageError: the prices are not two, or negative.
    """
    teachers = {role: identity[role] for role in ROLES if role in identity}
    get_prices = partial(lookup_prices, teachers, price_in=price_in, price_out=price_out)
    current_prices = get_prices()
    prices_by_day = {day: get_prices(timestamp=datetime.fromisoformat(day)) for day in {entry.day for entry in entries}}
    usage: dict[Role, RoleUsage] = {}
    for role, teacher in teachers.items():
        role_entries = [entry for entry in entries if entry.role == role]
        costs = [
            price.cost(entry.input_tokens, entry.output_tokens)
            for entry in role_entries
            if (price := prices_by_day[entry.day][role]) is not None
        ]
        is_known = current_prices[role] is not None and len(costs) == len(role_entries)
        usage[role] = RoleUsage(
            teacher,
            requests=sum(entry.requests for entry in role_entries),
            input_tokens=sum(entry.input_tokens for entry in role_entries),
            output_tokens=sum(entry.output_tokens for entry in role_entries),
            price=current_prices[role],
            cost=math.fsum(costs) if is_known else None,
        )
    return usage


IDLE_S: Final = 300.0
"""Seconds without a finished image after which a run is taken to stand still."""
_NOISY_PREFIX: Final = "scenes:noise"
"""How a teacher's name starts that plants faults."""
_PACE_WINDOW: Final = 500
"""Finished images, at most, by which the pace is taken."""


@dataclass(frozen=True, slots=True)
class RunStatus(NotebookSummary):
    """A run in numbers; of a method that makes no conversations only what all methods have.

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures, finished, conversations, questions (`int`): images that could be read, that are done, that were
            kept; accepted questions in those that were kept.
        surplus (`int`): of these questions the ones beyond three an image, from which assembly may choose.
        conversations_by_k, questions_by_k (`dict[int, int]`): k -> how many.
        drafts_by_k, accepted_by_k (`dict[int, int]`): k -> drafts that were asked for, and that passed all checks,
            those of images that were not kept included.
        questions_by_capability (`dict[str, dict[int, int]]`): capability -> k -> kept questions that need it.
        coverage (`dict[str, dict[str, int]]`): capability -> capability -> kept questions that need both; with itself:
            that need the one. Symmetrical.
        combinations (`tuple[CombinationCount, ...]`): how drafts for each combination fared.
        rejects (`tuple[RejectCount, ...]`): most frequent first within their stage.
        planted (`tuple[FaultCount, ...]`): empty without a scenes teacher's noise.
        requests (`dict[str, int]`): role -> replies in the journal.
        input_tokens, output_tokens (`int`): of all replies, as billed.
        spending (`dict[Role, RoleUsage]`): role -> what it was asked and what that cost.
        cost (`float | None`): USD so far, at each day's prices; None where one is not known.
        cost_per_question (`float | None`): USD; None without a cost or a question.
        models (`tuple[str, ...]`): the versions that answered.
        first_at, last_at (`float | None`): when the first and the newest image was finished, in seconds since 1970.
        left (`int | None`): images that are still to be worked on, as the newest session of the run knows; None where
            that is not known.
        pace (`float | None`): images a second, by the newest ones since the run last stood still; None before two.
        is_running (`bool`): an image was finished in the last five minutes.
    """

    identity: dict[str, Any]
    pictures: int
    finished: int
    conversations: int
    questions: int
    surplus: int
    conversations_by_k: dict[int, int]
    questions_by_k: dict[int, int]
    drafts_by_k: dict[int, int]
    accepted_by_k: dict[int, int]
    questions_by_capability: dict[str, dict[int, int]]
    coverage: dict[str, dict[str, int]]
    combinations: tuple[CombinationCount, ...]
    rejects: tuple[RejectCount, ...]
    planted: tuple[FaultCount, ...]
    requests: dict[str, int]
    input_tokens: int
    output_tokens: int
    spending: dict[Role, RoleUsage]
    cost: float | None
    cost_per_question: float | None
    models: tuple[str, ...]
    first_at: float | None
    last_at: float | None
    left: int | None
    pace: float | None
    is_running: bool

    def summary(self) -> Iterator[str | Table]:
        """Yield what `compact status` says."""
        from compact_hf.methods.compact.tables import format_status

        return format_status(self)


@dataclass(frozen=True, slots=True)
class _AnyOutcome:
    """What the outcomes of all methods hold."""

    rejects: tuple[Reject, ...]


def status(run: str | Path, *, price_in: float | None = None, price_out: float | None = None) -> RunStatus:
    """Return where a run stands.

    Args:
        run (`str | Path`): a run folder, or a folder that holds the shards of one.
        price_in, price_out (`float`, *optional*): USD per million tokens, for teachers whose price is not known.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: the prices are not two, or negative.
    """
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.read(directory)) for directory in find_runs(Path(run))]
        identity = journals[0].identity
        if len(journals) > 1:
            identity.pop("shard", None)
        counter = _count_outcomes(journals, identity)
        entries = [entry for journal in journals for entry in journal.usage()]
        counts = [journal.counts() for journal in journals]
        finished, conversations, questions = (sum(column) for column in zip(*counts, strict=True))
        timestamps = sorted(timestamp for journal in journals for timestamp in journal.finish_times())
        image_count = sum(journal.count_images() for journal in journals)
        planned_counts = [count for journal in journals if (count := journal.read_image_total()) is not None]
    usage = usage_by_role(entries, identity, price_in=price_in, price_out=price_out)
    costs = [role_usage.cost for role_usage in usage.values() if role_usage.cost is not None]
    cost = math.fsum(costs) if len(costs) == len(usage) else None
    return RunStatus(
        identity=identity,
        pictures=image_count,
        finished=finished,
        conversations=conversations,
        questions=questions,
        surplus=counter.surplus,
        conversations_by_k={k: counter.conversations[k] for k in sorted(counter.drafts)},
        questions_by_k=counter.questions_by_k(),
        drafts_by_k={k: counter.drafts[k] for k in sorted(counter.drafts)},
        accepted_by_k={k: counter.accepted[k] for k in sorted(counter.drafts)},
        questions_by_capability=counter.questions_by_capability(),
        coverage=counter.coverage(),
        combinations=counter.combination_counts(),
        rejects=counter.reject_counts(),
        planted=tuple(counter.fault_counts()),
        requests={role: role_usage.requests for role, role_usage in usage.items()},
        input_tokens=sum(role_usage.input_tokens for role_usage in usage.values()),
        output_tokens=sum(role_usage.output_tokens for role_usage in usage.values()),
        spending=usage,
        cost=cost,
        cost_per_question=cost / questions if cost is not None and questions else None,
        models=tuple(sorted({entry.model for entry in entries})),
        first_at=timestamps[0] if timestamps else None,
        last_at=timestamps[-1] if timestamps else None,
        left=max(0, sum(planned_counts) - finished) if len(planned_counts) == len(journals) else None,
        pace=_pace(timestamps),
        is_running=bool(timestamps) and time.time() - timestamps[-1] <= IDLE_S,
    )


def _count_outcomes(journals: Sequence[Journal], identity: Mapping[str, Any]) -> OutcomeCounter:
    faults: dict[str, list[str]] = {}
    if identity.get("teacher", "").startswith(_NOISY_PREFIX):
        for journal in journals:
            faults |= {reply.key: [*reversed(reply.planted)] for _, _, reply in journal.replies() if reply.planted}
    counter = OutcomeCounter(faults, max_turns=PAPER.max_turns)
    for journal in journals:
        for reject in journal.image_rejects():
            counter.add_reject(reject)
        for finished_image in journal.outcomes():
            if identity["method"] in CONVERSATION_METHODS:
                counter.add_outcome(parse_outcome(finished_image.body))
            else:
                # What else other methods make of an image is theirs to read.
                for reject in from_json(_AnyOutcome, finished_image.body).rejects:
                    counter.add_reject(reject)
    return counter


def _pace(timestamps: Sequence[float]) -> float | None:
    newest = timestamps[-_PACE_WINDOW:]
    start = len(newest) - 1
    while start > 0 and newest[start] - newest[start - 1] <= IDLE_S:
        start -= 1
    seconds = newest[-1] - newest[start] if newest else 0.0
    return (len(newest) - 1 - start) / seconds if seconds > 0 else None
