"""What `compact status` says of runs that make COMPACT's questions, beyond what it says of all runs.

One pass, a few hundred counters, however many images there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods.base import Method
from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.reasons import GenerationReason
from compact_hf.methods.compact.sampling import Combination
from compact_hf.methods.status import OutcomeCounter, RunStatus
from compact_hf.records import Reject
from compact_hf.reports.table import Table


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


@dataclass(frozen=True, slots=True)
class QuestionRunStatus(RunStatus):
    """A run whose questions have a k and capabilities, in numbers; see `RunStatus`.

    Attributes:
        surplus (`int`): of the accepted questions the ones beyond three an image, from which assembly may choose.
        conversations_by_k, questions_by_k (`dict[int, int]`): k -> how many.
        drafts_by_k, accepted_by_k (`dict[int, int]`): k -> drafts that were asked for, and that passed all checks,
            those of images that were not kept included.
        questions_by_capability (`dict[str, dict[int, int]]`): capability -> k -> kept questions that need it.
        coverage (`dict[str, dict[str, int]]`): capability -> capability -> kept questions that need both; with itself:
            that need the one. Symmetrical.
        combinations (`tuple[CombinationCount, ...]`): how drafts for each combination fared.
    """

    surplus: int
    conversations_by_k: dict[int, int]
    questions_by_k: dict[int, int]
    drafts_by_k: dict[int, int]
    accepted_by_k: dict[int, int]
    questions_by_capability: dict[str, dict[int, int]]
    coverage: dict[str, dict[str, int]]
    combinations: tuple[CombinationCount, ...]

    def questions_note(self) -> str:
        """See `RunStatus.questions_note`."""
        return f", {self.surplus:,} of them beyond three a picture" if self.surplus else ""

    def method_tables(self) -> Iterator[Table]:
        """See `RunStatus.method_tables`."""
        from compact_hf.methods.compact.tables import question_tables

        return question_tables(self)


class QuestionCounter(OutcomeCounter):
    """Counts conversations, questions, drafts and combinations; see `OutcomeCounter`."""

    status_class = QuestionRunStatus

    def __init__(self, method: type[Method], faults: dict[str, list[str]]) -> None:
        super().__init__(method, faults)
        self.surplus = 0
        self.conversations: Counter[int] = Counter()
        self.drafts: Counter[int] = Counter()
        self.accepted: Counter[int] = Counter()
        self._turns: Counter[tuple[int, Combination]] = Counter()
        self._dropped: Counter[Combination] = Counter()
        self._declined: Counter[Combination] = Counter()

    def add_reject(self, reject: Reject) -> None:
        """See `OutcomeCounter.add_reject`."""
        super().add_reject(reject)
        if reject.capabilities:
            self._dropped[reject.capabilities] += 1
            self._declined[reject.capabilities] += reject.reason == GenerationReason.DECLINED

    def add_outcome(self, outcome: Any) -> None:
        """See `OutcomeCounter.add_outcome`: outcomes of a method that makes conversations."""
        super().add_outcome(outcome)
        self.drafts[outcome.k] += len(outcome.drafts)
        self.accepted[outcome.k] += sum(not reason for _, reason in outcome.drafts)
        if outcome.conversation is not None:
            turns = outcome.conversation.turns
            self.conversations[outcome.k] += 1
            self.surplus += max(0, len(turns) - PAPER.max_turns)
            self._turns.update((outcome.k, turn.capabilities) for turn in turns)

    def figures(self) -> dict[str, Any]:
        """See `OutcomeCounter.figures`."""
        ks = sorted(self.drafts)
        return {
            "surplus": self.surplus,
            "conversations_by_k": {k: self.conversations[k] for k in ks},
            "questions_by_k": self.questions_by_k(),
            "drafts_by_k": {k: self.drafts[k] for k in ks},
            "accepted_by_k": {k: self.accepted[k] for k in ks},
            "questions_by_capability": self.questions_by_capability(),
            "coverage": self.coverage(),
            "combinations": self.combination_counts(),
        }

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
