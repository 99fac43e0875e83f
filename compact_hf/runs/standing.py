"""Where a run stands while it goes on: for progress bars, and for whoever called."""

from __future__ import annotations

from dataclasses import dataclass

from compact_hf.runs.journal import Finished, Journal
from compact_hf.runs.process import Progress


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, for progress bars.

    Attributes:
        pictures (`int`): pictures to work on in all, as far as is known: fewer as some turn out to be unusable.
        finished, kept (`int`): pictures that are done, and those of them that became conversations.
        accepted (`int`): accepted questions.
        sent, failures (`int`): requests of this session, and those that got no answer.
        last_failure (`str`): the newest failure, one line, empty where there was none.
    """

    pictures: int
    finished: int
    kept: int
    accepted: int
    sent: int
    failures: int
    last_failure: str


class Tally:
    """Counts a run's pictures, those of earlier sessions included."""

    def __init__(self, journal: Journal, listed: int, limit: int | None) -> None:
        self.unusable = 0
        self._listed = listed
        self._limit = limit
        self._finished, self._kept, self._accepted = journal.counts()

    def add(self, finished: Finished) -> None:
        self._finished += 1
        self._kept += finished.accepted > 0
        self._accepted += finished.accepted

    def standing(self, progress: Progress) -> Standing:
        usable = self._listed - self.unusable
        return Standing(
            # Earlier sessions may have gone beyond today's limit, or seen pictures that are gone.
            pictures=max(self._finished, usable if self._limit is None else min(usable, self._limit)),
            finished=self._finished,
            kept=self._kept,
            accepted=self._accepted,
            sent=progress.sent,
            failures=progress.failures,
            last_failure=progress.last_failure,
        )
