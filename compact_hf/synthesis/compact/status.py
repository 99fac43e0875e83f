"""`compact status RUN`: what a run has done so far, read from its journal, also while it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.engine.journal import Journal
from compact_hf.records import Reject
from compact_hf.synthesis.compact.conversation import Outcome, outcome_of
from compact_hf.teachers.teacher import Reply, Role

EXAMPLES: Final = 3
"""Rejects shown of each reason."""


@dataclass(frozen=True, slots=True)
class Rejected:
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
class Planted:
    """What became of one kind of planted fault: `dropped` maps each reason to how often it caught the fault."""

    fault: str
    count: int
    passed: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """A run in numbers.

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures, finished, conversations, questions (`int`): pictures that could be read, that are done, that were
            kept; accepted questions in those that were kept.
        conversations_by_k, questions_by_k (`dict[int, int]`): k -> how many.
        drafts_by_k (`dict[int, int]`): k -> drafts that were asked for.
        questions_by_capability (`dict[str, dict[int, int]]`): capability -> k -> kept questions that need it.
        rejects (`tuple[Rejected, ...]`): most frequent first within their stage.
        planted (`tuple[Planted, ...]`): empty without a scenes teacher's noise.
        requests (`dict[str, int]`): role -> replies in the journal.
        input_tokens, output_tokens (`int`): of all replies, as billed.
        models (`tuple[str, ...]`): the versions that answered.
    """

    identity: dict[str, Any]
    pictures: int
    finished: int
    conversations: int
    questions: int
    conversations_by_k: dict[int, int]
    questions_by_k: dict[int, int]
    drafts_by_k: dict[int, int]
    questions_by_capability: dict[str, dict[int, int]]
    rejects: tuple[Rejected, ...]
    planted: tuple[Planted, ...]
    requests: dict[str, int]
    input_tokens: int
    output_tokens: int
    models: tuple[str, ...]


def status(run: str | Path) -> Status:
    """Return where a run stands.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
    """
    tally = _Tally()
    with Journal.read(Path(run)) as journal:
        for reject in journal.picture_rejects():
            tally.reject(reject)
        for _, role, reply in journal.replies():
            tally.reply(role, reply)
        for finished in journal.outcomes():
            tally.outcome(outcome_of(finished.body))
        return tally.status(journal.identity, journal.pictures_seen())


class _Tally:
    def __init__(self) -> None:
        self.outcomes = 0
        self.conversations: Counter[int] = Counter()
        self.questions: Counter[int] = Counter()
        self.drafts: Counter[int] = Counter()
        self.capabilities: Counter[tuple[str, int]] = Counter()
        self.rejects: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[Reject]] = {}
        self.faults: dict[str, str] = {}
        self.planted: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self.input_tokens = 0
        self.output_tokens = 0
        self.models: set[str] = set()

    def reject(self, reject: Reject) -> None:
        reason = reject.stage, reject.reason
        self.rejects[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(reject)

    def reply(self, role: Role, reply: Reply) -> None:
        self.requests[role] += 1
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.models.add(reply.model)
        if reply.planted:
            self.faults[reply.key] = reply.planted

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes += 1
        self.drafts[outcome.k] += len(outcome.drafts)
        for key, reason in outcome.drafts:
            if key in self.faults:
                self.planted[self.faults[key], reason] += 1
        for reject in outcome.rejects:
            self.reject(reject)
        if outcome.conversation is not None:
            turns = outcome.conversation.turns
            self.conversations[outcome.k] += 1
            self.questions[outcome.k] += len(turns)
            self.capabilities.update((name, outcome.k) for turn in turns for name in turn.capabilities)

    def status(self, identity: dict[str, Any], pictures: int) -> Status:
        ks = sorted(self.drafts)
        return Status(
            identity=identity,
            pictures=pictures,
            finished=self.outcomes,
            conversations=self.conversations.total(),
            questions=self.questions.total(),
            conversations_by_k={k: self.conversations[k] for k in ks},
            questions_by_k={k: self.questions[k] for k in ks},
            drafts_by_k={k: self.drafts[k] for k in ks},
            questions_by_capability={name: {k: self.capabilities[name, k] for k in ks} for name in CAPABILITIES},
            rejects=tuple(
                Rejected(stage, reason, count, tuple(self.examples[stage, reason]))
                for (stage, reason), count in sorted(self.rejects.items(), key=_by_stage_and_count)
            ),
            planted=tuple(self._planted()),
            requests=dict(self.requests),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            models=tuple(sorted(self.models)),
        )

    def _planted(self) -> Iterator[Planted]:
        for fault in sorted({fault for fault, _ in self.planted}):
            fates = {fate: count for (of, fate), count in sorted(self.planted.items()) if of == fault}
            passed = fates.pop("", 0)
            yield Planted(fault, passed + sum(fates.values()), passed, fates)


def _by_stage_and_count(item: tuple[tuple[str, str], int]) -> tuple[int, int, str]:
    (stage, reason), count = item
    order = ("picture", "generation", "verification", "conversation", "instruction")
    return order.index(stage), -count, reason
