"""Counts the outcomes of runs with COMPACT's questions for `compact status`, in addition to what all runs have.

It takes one pass and a few hundred counters, for any number of images.
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
    """The results of the drafts for one combination.

    Attributes:
        capabilities (`tuple[str, ...]`): the combination.
        asked (`int`): number of requested drafts. An accepted question of an image that is not kept is not counted.
        accepted (`int`): number of drafts that are kept.
        declined (`int`): number of drafts that the teacher declined to write for an image.
    """

    capabilities: Combination
    asked: int
    accepted: int
    declined: int


@dataclass(frozen=True, slots=True)
class QuestionRunStatus(RunStatus):
    """The status of a run whose questions have a k and capabilities; see `RunStatus`.

    Attributes:
        surplus (`int`): accepted questions over the limit of three per image; balancing chooses among an image's
            questions.
        conversations_by_k, questions_by_k (`dict[int, int]`): k -> number of kept images, and of their questions.
        drafts_by_k, accepted_by_k (`dict[int, int]`): k -> number of requested drafts, and of those that passed all
            checks, including those of images that were not kept.
        questions_by_capability (`dict[str, dict[int, int]]`): capability -> k -> number of kept questions that need it.
        coverage (`dict[str, dict[str, int]]`): symmetric matrix: capability -> capability -> number of kept questions
            that need both. The diagonal has the number of questions that need one capability.
        combinations (`tuple[CombinationCount, ...]`): the results of the drafts for each combination.
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
        return f", {self.surplus:,} over the limit of three per image" if self.surplus else ""

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
        # By k: kept images, requested drafts, accepted drafts.
        self.conversations: Counter[int] = Counter()
        self.drafts: Counter[int] = Counter()
        self.accepted: Counter[int] = Counter()
        # (k, combination) -> kept questions; everything about capabilities is computed from it at the end.
        self._turns: Counter[tuple[int, Combination]] = Counter()
        self._dropped: Counter[Combination] = Counter()
        self._declined: Counter[Combination] = Counter()

    def add_reject(self, reject: Reject) -> None:
        """Count one reject; see `OutcomeCounter.add_reject`.

        Args:
            reject (`Reject`): the reject.
        """
        super().add_reject(reject)
        # Other rejects with capabilities, such as those of a dataset's questions, are not those of a requested draft.
        if reject.capabilities and reject.stage in ("generation", "verification"):
            self._dropped[reject.capabilities] += 1
            self._declined[reject.capabilities] += reject.reason == GenerationReason.DECLINED

    def add_outcome(self, outcome: Any) -> None:
        """Count the outcome of one image; see `OutcomeCounter.add_outcome`.

        Args:
            outcome (`Any`): the outcome of a method that makes conversations.
        """
        super().add_outcome(outcome)
        self.drafts[outcome.k] += len(outcome.drafts)
        self.accepted[outcome.k] += sum(not reason for _, reason in outcome.drafts)
        if outcome.conversation is not None:
            turns = outcome.conversation.turns
            self.conversations[outcome.k] += 1
            # Assembly with `balance` keeps at most three questions per image.
            self.surplus += max(0, len(turns) - PAPER.max_turns)
            self._turns.update((outcome.k, turn.capabilities) for turn in turns)

    def figures(self) -> dict[str, Any]:
        """See `OutcomeCounter.figures`."""
        # Every k that was requested, so that a k without kept questions is shown with 0.
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
        """Return k -> number of kept questions."""
        return {k: sum(count for (turn_k, _), count in self._turns.items() if turn_k == k) for k in sorted(self.drafts)}

    def questions_by_capability(self) -> dict[str, dict[int, int]]:
        """Return capability -> k -> number of kept questions that need it."""
        counts = {name: dict.fromkeys(sorted(self.drafts), 0) for name in CAPABILITIES}
        for (k, combination), count in self._turns.items():
            for name in combination:
                counts[name][k] += count
        return counts

    def coverage(self) -> dict[str, dict[str, int]]:
        """Return the matrix of kept questions that need two capabilities; see `QuestionRunStatus.coverage`."""
        counts = {name: dict.fromkeys(CAPABILITIES, 0) for name in CAPABILITIES}  # shape (10, 10)
        for (_, combination), count in self._turns.items():
            # With replacement: the pairs (a, a) fill the diagonal.
            for first, second in combinations_with_replacement(combination, 2):
                counts[first][second] += count
                if first != second:
                    counts[second][first] += count
        return counts

    def combination_counts(self) -> tuple[CombinationCount, ...]:
        """Return the results of the drafts for each combination, in the order of the capabilities."""
        accepted: Counter[Combination] = Counter()
        for (_, combination), count in self._turns.items():
            accepted[combination] += count
        order = {name: index for index, name in enumerate(CAPABILITIES)}
        keys = sorted({*accepted, *self._dropped}, key=lambda names: (len(names), [order[name] for name in names]))
        return tuple(
            CombinationCount(key, accepted[key] + self._dropped[key], accepted[key], self._declined[key])
            for key in keys
        )
