"""When a request may be sent, and whether a failed one is sent again. Shared by all requests to one teacher.

A server that says "too many requests" slows everybody: all wait for the delay it named, then one goes ahead as a
probe, and the rest follow once the probe was answered, half as many at the same time. Other failures are retried one by
one, each a little later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from compact_hf.runs.rate_limit import Limits, Rates, Slots
from compact_hf.teachers.base import Failure


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on trying.

    Attributes:
        attempts (`int`): times that one request is sent before it is given up for now.
        first_delay_s, longest_delay_s (`float`): the pause doubles from the first to the longest, in seconds.
        overload_s (`float`): how long a server may keep saying "too many requests", or fail whoever asks after it has
            answered before, until the run stops; a longer delay than this is not waited for either.
    """

    attempts: int = 5
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    overload_s: float = 900.0


class Admission:
    """One teacher's gate.

    What a request met only tells how the server is where it was sent after the newest hold began: replies to older
    ones still arrive while everybody waits. So each request carries the number of holds there had been when it left.

    Attributes:
        slots (`Slots`), rates (`Rates`): how many requests may be in flight, and how many sent in a minute.
        holds (`int`): times that everybody was told to wait.
    """

    def __init__(self, limits: Limits, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self.slots = Slots(limits.in_flight)
        self.rates = Rates(limits)
        self._jitter = random.Random()
        self.holds = 0
        self._held_until: float | None = None
        self._overloaded_since = 0.0
        self._holds_in_a_row = 0
        self._probing = False
        self._changed = asyncio.Event()
        self._answered_once = False
        self._failing: dict[str, float] = {}  # key -> when it failed first, of what failed since the newest answer

    async def wait(self, stopped: Callable[[], bool]) -> int:
        """Return the number of holds so far once a request may be sent, or as soon as the run is being stopped."""
        clock = asyncio.get_running_loop().time
        while self._held_until is not None and not stopped():
            if not self._probing and clock() >= self._held_until:
                self._probing = True
                break
            delay = 0.5 if self._probing else min(0.5, max(0.0, self._held_until - clock()))
            changed = self._changed
            try:
                # Half a second at most, so that Ctrl-C is heard within a long hold.
                await asyncio.wait_for(changed.wait(), delay)
            except TimeoutError:
                continue
        return self.holds

    def answered(self, holds: int, tokens: int) -> None:
        """Take note of a reply to a request that was sent after so many holds: the server is well."""
        self._answered_once = True
        self._failing.clear()
        self.rates.spent(tokens)
        self.slots.widen()
        if holds == self.holds and self._held_until is not None:
            self._held_until = None
            self._holds_in_a_row = 0
            self._release()

    def overloaded(self, failure: Failure, holds: int) -> bool:
        """Make everybody wait; return False where that would take longer than `overload_s`."""
        now = asyncio.get_running_loop().time()
        if holds == self.holds:
            if self._held_until is None:
                self._overloaded_since = now
                self.slots.narrow()
            self.holds += 1
            self._holds_in_a_row += 1
            self._release()
        elif self._held_until is None:
            return True
        if failure.retry_after is None:
            delay = self._pause(self._holds_in_a_row)
        else:
            # Never at once, whatever the server says: one probe would follow another without end.
            delay = max(failure.retry_after, self.patience.first_delay_s)
        self._held_until = max(self._held_until or 0.0, now + delay)
        return self._held_until - self._overloaded_since <= self.patience.overload_s

    def retry_delay(self, failure: Failure, holds: int, attempt: int) -> float | None:
        """Return the seconds after which to ask again what failed other than by overload, None to give it up for now.

        Args:
            attempt (`int`): how many times the request failed like this, at least 1.
        """
        if holds == self.holds and self._probing:
            # The probe found out nothing: another one is due.
            self._release()
        if not failure.worth_retrying:
            return None
        self._failing.setdefault(failure.key, asyncio.get_running_loop().time())
        if attempt >= self.patience.attempts and not self._is_down():
            return None
        delay = failure.retry_after if failure.retry_after is not None else self._pause(attempt)
        return delay if delay <= self.patience.overload_s else None

    def _is_down(self) -> bool:
        """Return whether it is the server that fails, for now, and not one request: nobody was answered meanwhile."""
        lasting = asyncio.get_running_loop().time() - min(self._failing.values())
        return self._answered_once and len(self._failing) > 1 and lasting <= self.patience.overload_s

    def _pause(self, attempt: int) -> float:
        full = min(self.patience.longest_delay_s, self.patience.first_delay_s * 2.0 ** min(attempt - 1, 16))
        return full * self._jitter.uniform(0.5, 1.0)

    def _release(self) -> None:
        self._probing = False
        self._changed.set()
        self._changed = asyncio.Event()
