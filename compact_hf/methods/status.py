"""Reports what a run has done and spent so far, from its journal, also while it is running: `compact status RUN`.

Figures that all methods have are counted here; the run's method adds figures and tables of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from compact_hf.methods.base import Method
from compact_hf.methods.registry import get_method
from compact_hf.records import Loss, Reject
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.runs.identity import RunIdentity
from compact_hf.runs.journal import Journal, run_directory
from compact_hf.runs.ray import ray_directory
from compact_hf.runs.shards import find_runs
from compact_hf.runs.usage import RoleUsage, usage_by_role
from compact_hf.teachers.base import Role
from compact_hf.teachers.registry import BACKENDS

IDLE_S: Final = 300.0
"""Seconds without a finished image that end the interval from which the pace is computed."""
MAX_EXAMPLES: Final = 3
"""Number of example rejects kept per reason."""
# The order in which rejects are reported; `status` does not read rejects of the stage `assembly`.
_STAGES: Final = ("picture", "generation", "verification", "conversation", "instruction")
_PACE_WINDOW: Final = 500
"""The pace is computed from at most this many of the newest finished images."""


@dataclass(frozen=True, slots=True)
class RejectCount:
    """The rejects of one reason.

    Attributes:
        stage, reason (`str`): as in `records.Reject`.
        count (`int`): number of rejects.
        examples (`tuple[Reject, ...]`): the first few of them.
        loss (`Loss | None`): what is dropped of the dataset for this reason; None if the method works on images.
    """

    stage: str
    reason: str
    count: int
    examples: tuple[Reject, ...]
    loss: Loss | None


@dataclass(frozen=True, slots=True)
class FaultCount:
    """The results for one kind of planted fault.

    Attributes:
        fault (`str`): the kind of fault.
        count (`int`): number of drafts with this fault.
        passed (`int`): number of these drafts that were accepted.
        dropped (`dict[str, int]`): reason -> number of these drafts that it dropped.
    """

    fault: str
    count: int
    passed: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class RunStatus(NotebookSummary):
    """A run in numbers, as far as all methods agree. A method can derive a class with more figures and tables.

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures (`int`): images that could be read.
        finished (`int`): images that are finished.
        conversations (`int`): images that were kept.
        questions (`int`): accepted items, such as questions, of the images that were kept.
        rejects (`tuple[RejectCount, ...]`): the most frequent first within each stage.
        planted (`tuple[FaultCount, ...]`): results for planted faults; empty unless the scenes teacher plants faults.
        requests (`dict[str, int]`): role -> number of billed requests.
        input_tokens, output_tokens (`int`): billed tokens of all replies.
        spending (`dict[Role, RoleUsage]`): role -> its requests, tokens and cost.
        cost (`float | None`): USD so far, at the prices of the day of each request; None if a price is unknown.
        cost_per_question (`float | None`): USD; None if the cost is unknown or there is no question.
        models (`tuple[str, ...]`): the model versions that replied.
        first_at, last_at (`float | None`): when the first and the last image was finished, in seconds since 1970.
        left (`int | None`): images that still have to be processed, as known by the newest session; None if unknown.
        pace (`float | None`): images per second, from the newest ones since the run was last idle; None before there
            are two.
        is_running (`bool`): whether a process on this machine is working on the run now; for a run on Ray, whether its
            driver is.
        skipped_files (`str`): a line about the files of the source that were skipped; empty if there are none.
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
    skipped_files: str

    @property
    def loss(self) -> Loss | None:
        """What is dropped of the dataset so far; None if the method works on images, or nothing is dropped."""
        losses = [reject_count.loss for reject_count in self.rejects if reject_count.loss is not None]
        return sum(losses, start=Loss()) if losses else None

    def summary(self) -> Iterator[str | Table]:
        """Yield the output of `compact status`."""
        from compact_hf.methods.tables import format_status

        return format_status(self)

    def questions_note(self) -> str:
        """Return a note that is printed after the number of accepted questions; it begins with a comma."""
        return ""

    def method_tables(self) -> Iterator[Table]:
        """Yield the method's own tables, which are printed before the table of rejects."""
        yield from ()


@dataclass(frozen=True, slots=True)
class AnyOutcome:
    """What the outcomes of all methods have in common.

    Attributes:
        rejects (`tuple[Reject, ...]`): what was dropped about the image.
        drafts (`tuple[tuple[str, str], ...]`, *optional*): an entry for each part of a request in which a fault can be
            planted, in their order: the key of the reply, and the reason for which the part was dropped, empty if it
            was accepted.
    """

    rejects: tuple[Reject, ...]
    drafts: tuple[tuple[str, str], ...] = ()


class OutcomeCounter:
    """Counts the outcomes of a run in one pass. A method with figures of its own derives a class from it.

    Args:
        method (`type[Method]`): the method that parses the outcomes.
        faults (`dict[str, list[str]]`): key of a reply -> the faults planted in its parts, in reverse order. Counting
            removes the entries.
    """

    status_class: ClassVar[type[RunStatus]] = RunStatus
    """The class of the result, with the generic figures and those returned by `figures`."""

    def __init__(self, method: type[Method], faults: dict[str, list[str]]) -> None:
        self._method = method
        self._faults = faults
        # (fault, reason or "" if it passed), and (stage, reason): number of drafts, number of rejects.
        self._fault_reasons: Counter[tuple[str, str]] = Counter()
        self._rejects: Counter[tuple[str, str]] = Counter()
        # (stage, reason): what is dropped of the dataset; empty if the method works on images.
        self._losses: dict[tuple[str, str], Loss] = {}
        self._examples: dict[tuple[str, str], list[Reject]] = {}

    def add_reject(self, reject: Reject) -> None:
        """Count one reject.

        Args:
            reject (`Reject`): the reject.
        """
        key = reject.stage, reject.reason
        self._rejects[key] += 1
        if (loss := self._method.count_loss(reject)) is not None:
            self._losses[key] = self._losses.get(key, Loss()) + loss
        examples = self._examples.setdefault(key, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(reject)

    def add_outcome(self, outcome: Any) -> None:
        """Count the outcome of one image.

        Args:
            outcome (`Any`): the outcome, as returned by the method's `parse_outcome`.
        """
        for key, reason in getattr(outcome, "drafts", ()):
            # A request for several drafts has one entry per draft, in order. The faults are reversed, so `pop` gives
            # them in the same order.
            if key in self._faults and (fault := self._faults[key].pop()):
                self._fault_reasons[fault, reason] += 1
        for reject in outcome.rejects:
            self.add_reject(reject)

    def add_journal(self, journal: Journal) -> None:
        """Count everything in the journal of a run, or of one of its shards.

        Args:
            journal (`Journal`): the journal.
        """
        for reject in journal.image_rejects():
            self.add_reject(reject)
        for finished_image in journal.outcomes():
            self.add_outcome(self._method.parse_outcome(finished_image.body))

    def figures(self) -> dict[str, Any]:
        """Return the fields of `status_class` that are not generic."""
        return {}

    def reject_counts(self) -> tuple[RejectCount, ...]:
        """Return all rejects by reason, the most frequent first within each stage."""
        ranked = sorted(self._rejects.items(), key=lambda item: (_STAGES.index(item[0][0]), -item[1], item[0][1]))
        return tuple(
            RejectCount(*key, count, tuple(self._examples[key]), self._losses.get(key)) for key, count in ranked
        )

    def fault_counts(self) -> Iterator[FaultCount]:
        """Yield the results for each kind of planted fault."""
        for fault in sorted({fault for fault, _ in self._fault_reasons}):
            reasons = {reason: count for (kind, reason), count in sorted(self._fault_reasons.items()) if kind == fault}
            passed = reasons.pop("", 0)
            yield FaultCount(fault, passed + sum(reasons.values()), passed, reasons)


def status(run: str | Path, *, price_in: float | None = None, price_out: float | None = None) -> RunStatus:
    """Return the status of a run.

    Args:
        run (`str | Path`): a run directory, or a directory that contains the shards of a run.
        price_in (`float`, *optional*): USD per million input tokens, for models whose price is unknown.
        price_out (`float`, *optional*): USD per million output tokens, likewise.

    Raises:
        UsageError: the directory is not a run, only one of the prices is given, or one is negative.
        JournalError: the run cannot be read.
    """
    # The journals of all shards stay open for reading; a run may write to them at the same time.
    directories = find_runs(Path(run))
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.read(directory)) for directory in directories]
        identity = RunIdentity.of(journals[0])
        if len(journals) > 1:
            identity = replace(identity, shard=None)  # the shards are reported as one run
        counter = get_method(identity.method).count_outcomes(_read_planted(journals, identity))
        for journal in journals:
            counter.add_journal(journal)
        entries = [entry for journal in journals for entry in journal.usage()]
        counts = [journal.counts() for journal in journals]
        # Columns of (finished, kept, accepted questions), one row per shard.
        finished, kept, accepted = (sum(column) for column in zip(*counts, strict=True))
        timestamps = sorted(timestamp for journal in journals for timestamp in journal.finish_times())
        image_count = sum(journal.count_images() for journal in journals)
        # All shards of a run list the same source.
        skipped_files = next(filter(None, (journal.read_skipped_files() for journal in journals)), "")
        # Shorter than `journals` if a shard has not stored its number of images yet; then `left` is unknown.
        planned_counts = [count for journal in journals if (count := journal.read_image_total()) is not None]
    usage = usage_by_role(entries, identity.teachers, price_in=price_in, price_out=price_out)
    costs = [role_usage.cost for role_usage in usage.values() if role_usage.cost is not None]
    # If one role's cost is unknown, so is the total; `fsum` does not depend on the order of roles.
    cost = math.fsum(costs) if len(costs) == len(usage) else None
    # The method's counter decides the class, and fills in its additional fields.
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
        models=tuple(sorted({entry.model for entry in entries if entry.model})),
        first_at=timestamps[0] if timestamps else None,
        last_at=timestamps[-1] if timestamps else None,
        left=max(0, sum(planned_counts) - finished) if len(planned_counts) == len(journals) else None,
        pace=_pace(timestamps),
        # The workers of a run on Ray lock their journals on their own machines.
        is_running=ray_directory(Path(run)).is_locked() or any(run_directory(path).is_locked() for path in directories),
        skipped_files=skipped_files,
        **counter.figures(),
    )


def _read_planted(journals: Sequence[Journal], identity: RunIdentity) -> dict[str, list[str]]:
    """Return key of a reply -> the faults planted in its parts, in reverse order, so that they can be popped."""
    # A teacher that plants faults is named with its setting, as in `scenes:noise=0.3`.
    name, _, setting = identity.teachers.get("teacher", "").partition(":")
    if not (setting and name in BACKENDS and BACKENDS[name].plants_faults):
        return {}  # avoids reading all replies if none has a planted fault
    return {
        reply.key: [*reversed(reply.planted)]
        for journal in journals
        for _, _, reply in journal.replies()
        if reply.planted
    }


def _pace(timestamps: Sequence[float]) -> float | None:
    """Return the images per second since the last idle time, None before there are two images."""
    newest = timestamps[-_PACE_WINDOW:]
    # Go back from the newest image to the last pause that is longer than IDLE_S.
    start = len(newest) - 1
    while start > 0 and newest[start] - newest[start - 1] <= IDLE_S:
        start -= 1
    seconds = newest[-1] - newest[start] if newest else 0.0
    return (len(newest) - 1 - start) / seconds if seconds > 0 else None
