"""What outcomes add up to: the outcomes of a run's images go in one by one, counts of all kinds come out.

One pass, a few hundred counters, however many images there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import Reject

MAX_EXAMPLES: Final = 3
"""Rejects shown of each reason."""
DECLINED_REASON: Final = "declined"
"""The reason of a reject where the teacher said that the image does not support the combination."""
_STAGES: Final = ("picture", "generation", "verification", "conversation", "instruction")


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
class CombinationCount:
    """How the drafts for one combination fared.

    Attributes:
        capabilities (`tuple[str, ...]`): the combination.
        asked, accepted, declined (`int`): drafts that were asked for, those that are kept, and those that the teacher
            would not write about that image. One accepted question of an image that is not kept counts nowhere.
    """

    capabilities: Combination
    asked: int
    accepted: int
    declined: int


class OutcomeCounter:
    """Counts outcomes and rejects.

    Args:
        faults (`dict[str, list[str]]`): key of a reply -> the fault planted in each of its drafts, in reverse order.
            Used up by counting.
        max_turns (`int`): questions of an image beyond which the others are surplus.
    """

    def __init__(self, faults: dict[str, list[str]], *, max_turns: int) -> None:
        self.outcomes = 0
        self.surplus = 0
        self.conversations: Counter[int] = Counter()
        self.drafts: Counter[int] = Counter()
        self.accepted: Counter[int] = Counter()
        self._max_turns = max_turns
        self._turns: Counter[tuple[int, Combination]] = Counter()
        self._dropped: Counter[Combination] = Counter()
        self._declined: Counter[Combination] = Counter()
        self._rejects: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[Reject]] = {}
        self._faults = faults
        self._fault_reasons: Counter[tuple[str, str]] = Counter()

    def add_reject(self, reject: Reject) -> None:
        """Count one reject."""
        key = reject.stage, reject.reason
        self._rejects[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(reject)
        if reject.capabilities:
            self._dropped[reject.capabilities] += 1
            self._declined[reject.capabilities] += reject.reason == DECLINED_REASON

    def add_outcome(self, outcome: Outcome) -> None:
        """Count what became of one image."""
        self.outcomes += 1
        self.drafts[outcome.k] += len(outcome.drafts)
        for key, reason in outcome.drafts:
            self.accepted[outcome.k] += not reason
            # A request for several drafts stands here once for each, in their order.
            if key in self._faults and (fault := self._faults[key].pop()):
                self._fault_reasons[fault, reason] += 1
        for reject in outcome.rejects:
            self.add_reject(reject)
        if outcome.conversation is not None:
            turns = outcome.conversation.turns
            self.conversations[outcome.k] += 1
            self.surplus += max(0, len(turns) - self._max_turns)
            self._turns.update((outcome.k, turn.capabilities) for turn in turns)

    def questions_by_k(self) -> dict[int, int]:
        """Return k -> kept questions."""
        return {k: sum(count for (turn_k, _), count in self._turns.items() if turn_k == k) for k in sorted(self.drafts)}

    def questions_by_capability(self) -> dict[str, dict[int, int]]:
        """Return capability -> k -> kept questions that need it."""
        counts = {name: dict.fromkeys(sorted(self.drafts), 0) for name in CAPABILITIES}
        for (k, combination), count in self._turns.items():
            for name in combination:
                counts[name][k] += count
        return counts

    def coverage(self) -> dict[str, dict[str, int]]:
        """Return the matrix of atoms and pairs: kept questions that need both; on the diagonal, that need the one."""
        counts = {name: dict.fromkeys(CAPABILITIES, 0) for name in CAPABILITIES}
        for (_, combination), count in self._turns.items():
            for first, second in combinations_with_replacement(combination, 2):
                counts[first][second] += count
                if first != second:
                    counts[second][first] += count
        return counts

    def combination_counts(self) -> tuple[CombinationCount, ...]:
        """Return how the drafts for each combination fared, in the order of the capabilities."""
        accepted: Counter[Combination] = Counter()
        for (_, combination), count in self._turns.items():
            accepted[combination] += count
        order = {name: index for index, name in enumerate(CAPABILITIES)}
        keys = sorted({*accepted, *self._dropped}, key=lambda names: (len(names), [order[name] for name in names]))
        return tuple(
            CombinationCount(key, accepted[key] + self._dropped[key], accepted[key], self._declined[key])
            for key in keys
        )

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
