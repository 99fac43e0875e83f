"""`compact status RUN`: what a run has done and spent so far, read from its journal, also while it is running.

What all methods have is counted here; the method that the run names adds figures and tables of its own.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from compact_hf.methods.base import Method
from compact_hf.methods.registry import get_method
from compact_hf.records import Reject
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.runs.identity import RunIdentity
from compact_hf.runs.journal import Journal
from compact_hf.runs.shards import find_runs
from compact_hf.runs.usage import RoleUsage, usage_by_role
from compact_hf.teachers.base import Role
from compact_hf.teachers.registry import BACKENDS

IDLE_S: Final = 300.0
"""Seconds without a finished image after which a run is taken to stand still."""
MAX_EXAMPLES: Final = 3
"""Rejects shown of each reason."""
_STAGES: Final = ("picture", "generation", "verification", "conversation", "instruction")
_PACE_WINDOW: Final = 500
"""Finished images, at most, by which the pace is taken."""


@dataclass(frozen=True, slots=True)
class RejectCount:
    """All rejects of one reason.

    Attributes:
        stage, reason (`str`): as in `records.Reject`.
        count (`int`): how many.
        examples (`tuple[Reject, ...]`): the first few.
    """

    stage: str
    reason: str
    count: int
    examples: tuple[Reject, ...]


@dataclass(frozen=True, slots=True)
class FaultCount:
    """What became of one kind of planted fault: `dropped` maps each reason to how often it caught the fault."""

    fault: str
    count: int
    passed: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class RunStatus(NotebookSummary):
    """A run in numbers, as far as all methods go. A method derives a class with figures and tables of its own.

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures (`int`): images that could be read.
        finished (`int`): images that are done.
        conversations (`int`): images that were kept.
        questions (`int`): accepted items of those that were kept, such as questions.
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
        from compact_hf.methods.tables import format_status

        return format_status(self)

    def questions_note(self) -> str:
        """Return what is said behind the number of accepted questions, from a comma on."""
        return ""

    def method_tables(self) -> Iterator[Table]:
        """Yield the method's own tables, which stand before that of the rejects."""
        yield from ()


@dataclass(frozen=True, slots=True)
class AnyOutcome:
    """What the outcomes of all methods hold.

    Attributes:
        rejects (`tuple[Reject, ...]`): what was dropped of the image.
        drafts (`tuple[tuple[str, str], ...]`, *optional*): for each part of a request in which a fault can be planted,
            in their order, the key of the reply and the reason for which it was dropped, empty where it was accepted.
    """

    rejects: tuple[Reject, ...]
    drafts: tuple[tuple[str, str], ...] = ()


class OutcomeCounter:
    """Counts the outcomes of a run, one pass over them. A method derives one that has its own figures.

    Args:
        method (`type[Method]`): reads the outcomes.
        faults (`dict[str, list[str]]`): key of a reply -> the fault planted in each of its parts, in reverse order.
            Used up by counting.
    """

    status_class: ClassVar[type[RunStatus]] = RunStatus
    """What is made of the counts: the generic figures and those that `figures` adds."""

    def __init__(self, method: type[Method], faults: dict[str, list[str]]) -> None:
        self._method = method
        self._faults = faults
        self._fault_reasons: Counter[tuple[str, str]] = Counter()
        self._rejects: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[Reject]] = {}

    def add_reject(self, reject: Reject) -> None:
        """Count one reject."""
        key = reject.stage, reject.reason
        self._rejects[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(reject)

    def add_outcome(self, outcome: Any) -> None:
        """Count what became of one image, as the method's `parse_outcome` returns it."""
        for key, reason in getattr(outcome, "drafts", ()):
            # A request for several drafts stands here once for each, in their order.
            if key in self._faults and (fault := self._faults[key].pop()):
                self._fault_reasons[fault, reason] += 1
        for reject in outcome.rejects:
            self.add_reject(reject)

    def add_journal(self, journal: Journal) -> None:
        """Count all that a run, or a shard of one, has journalled."""
        for reject in journal.image_rejects():
            self.add_reject(reject)
        for finished_image in journal.outcomes():
            self.add_outcome(self._method.parse_outcome(finished_image.body))

    def figures(self) -> dict[str, Any]:
        """Return the fields that `status_class` has beside the generic ones."""
        return {}

    def reject_counts(self) -> tuple[RejectCount, ...]:
        """Return all rejects, most frequent first within their stage."""
        ranked = sorted(self._rejects.items(), key=lambda item: (_STAGES.index(item[0][0]), -item[1], item[0][1]))
        return tuple(RejectCount(*key, count, tuple(self._examples[key])) for key, count in ranked)

    def fault_counts(self) -> Iterator[FaultCount]:
        """Yield what became of each kind of planted fault."""
        for fault in sorted({fault for fault, _ in self._fault_reasons}):
            reasons = {reason: count for (kind, reason), count in sorted(self._fault_reasons.items()) if kind == fault}
            passed = reasons.pop("", 0)
            yield FaultCount(fault, passed + sum(reasons.values()), passed, reasons)


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
        identity = RunIdentity.of(journals[0])
        if len(journals) > 1:
            identity = replace(identity, shard=None)
        counter = get_method(identity.method).count_outcomes(_read_planted(journals, identity))
        for journal in journals:
            counter.add_journal(journal)
        entries = [entry for journal in journals for entry in journal.usage()]
        counts = [journal.counts() for journal in journals]
        finished, kept, accepted = (sum(column) for column in zip(*counts, strict=True))
        timestamps = sorted(timestamp for journal in journals for timestamp in journal.finish_times())
        image_count = sum(journal.count_images() for journal in journals)
        planned_counts = [count for journal in journals if (count := journal.read_image_total()) is not None]
    usage = usage_by_role(entries, identity.teachers, price_in=price_in, price_out=price_out)
    costs = [role_usage.cost for role_usage in usage.values() if role_usage.cost is not None]
    cost = math.fsum(costs) if len(costs) == len(usage) else None
    return counter.status_class(
        identity=identity.to_json(),
        pictures=image_count,
        finished=finished,
        conversations=kept,
        questions=accepted,
        rejects=counter.reject_counts(),
        planted=tuple(counter.fault_counts()),
        requests={role: role_usage.requests for role, role_usage in usage.items()},
        input_tokens=sum(role_usage.input_tokens for role_usage in usage.values()),
        output_tokens=sum(role_usage.output_tokens for role_usage in usage.values()),
        spending=usage,
        cost=cost,
        cost_per_question=cost / accepted if cost is not None and accepted else None,
        models=tuple(sorted({entry.model for entry in entries})),
        first_at=timestamps[0] if timestamps else None,
        last_at=timestamps[-1] if timestamps else None,
        left=max(0, sum(planned_counts) - finished) if len(planned_counts) == len(journals) else None,
        pace=_pace(timestamps),
        is_running=bool(timestamps) and time.time() - timestamps[-1] <= IDLE_S,
        **counter.figures(),
    )


def _read_planted(journals: Sequence[Journal], identity: RunIdentity) -> dict[str, list[str]]:
    name, _, setting = identity.teachers.get("teacher", "").partition(":")
    if not (setting and name in BACKENDS and BACKENDS[name].plants_faults):
        return {}  # all replies would be read for nothing
    return {
        reply.key: [*reversed(reply.planted)]
        for journal in journals
        for _, _, reply in journal.replies()
        if reply.planted
    }


def _pace(timestamps: Sequence[float]) -> float | None:
    newest = timestamps[-_PACE_WINDOW:]
    start = len(newest) - 1
    while start > 0 and newest[start] - newest[start - 1] <= IDLE_S:
        start -= 1
    seconds = newest[-1] - newest[start] if newest else 0.0
    return (len(newest) - 1 - start) / seconds if seconds > 0 else None
