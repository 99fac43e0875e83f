"""How much may be sent at once and per minute, and when a failed request is sent again. Shared by a teacher's requests.

A server that says "too many requests" slows every request: all wait for the delay it named, then one is sent as a
probe, and the rest follow once the probe was answered, half as many at the same time. Other failures are retried one by
one, each a little later.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiolimiter import AsyncLimiter

from compact_hf.errors import UsageError
from compact_hf.teachers.base import Failure

_MINUTE: Final = 60.0
# What a request is taken to cost until replies say better: a picture and a page of text.
_FIRST_GUESS_TOKENS: Final = 2000.0
_NARROWED: Final = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a teacher may be asked at most.

    Attributes:
        in_flight (`int`): requests at the same time.
        rpm (`float | None`): requests a minute.
        tpm (`float | None`): tokens a minute, in and out.

    Raises:
        UsageError: one of them is not above 0 and finite.
    """

    in_flight: int
    rpm: float | None = None
    tpm: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("concurrency", self.in_flight), ("rpm", self.rpm), ("tpm", self.tpm)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"got {name} {value:g}; it must be above 0 and finite")


class Slots:
    """Places for requests in flight: first come, first served; fewer after an overload, one by one more again.

    Additive increase, multiplicative decrease: the number of places halves with each overload, and grows by one for
    each time that so many requests were answered as there are places.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._places = float(most)
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_taken(self) -> bool:
        """Whether nothing more can be sent before something comes back."""
        return self._taken >= int(self._places)

    async def take(self) -> None:
        """Return once a place is free; it is taken then."""
        if not self.are_taken and not self._waiting:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """Leave a place to the next one."""
        self._taken -= 1
        self._admit()

    def narrow(self) -> None:
        """Halve the places, to one at least; who has one keeps it."""
        self._places = max(1.0, self._places * _NARROWED)

    def widen(self) -> None:
        """Take note that a request was answered."""
        self._places = min(float(self._most), self._places + 1.0 / self._places)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and not self.are_taken:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)


class Rates:
    """Keeps requests and tokens a minute below their limits, evenly spread, in any sixty seconds.

    First come, first served. What a request will cost in tokens is only known afterwards: it is taken to cost what the
    ones before it did on average, so that the limit holds in the long run. Where one costs more than a minute allows,
    its successor waits until the limit holds on average.
    """

    def __init__(self, limits: Limits) -> None:
        self._requests = None if limits.rpm is None else _requests_bucket(limits.rpm)
        self._tpm = limits.tpm
        self._expected = _FIRST_GUESS_TOKENS
        self._tokens = None if limits.tpm is None else _tokens_bucket(limits.tpm, self._expected)
        self._seen = 0
        self._turn = asyncio.Lock()

    async def wait(self, stop: asyncio.Event) -> bool:
        """Return True once one more request may be sent, False as soon as `stop` is set."""
        return await _unless(stop, self._room())

    def spent(self, tokens: int) -> None:
        """Take note of what a request cost."""
        self._seen += 1
        self._expected += (tokens - self._expected) / self._seen

    async def _room(self) -> None:
        # One by one: the limiter prefers whoever wants least, and each is to count for what requests cost by then.
        async with self._turn:
            if self._tpm is not None and self._tokens is not None:
                fitting = _tokens_bucket(self._tpm, self._expected)
                if fitting.max_rate != self._tokens.max_rate:
                    # Full at first: what was sent a moment ago counts.
                    await fitting.acquire(fitting.max_rate)
                    self._tokens = fitting
                await self._tokens.acquire(self._expected)
            # Last, as this limit is exact and that one an estimate: nothing waits between here and sending.
            if self._requests is not None:
                await self._requests.acquire()


def _requests_bucket(rpm: float) -> AsyncLimiter:
    """Return a bucket that lets a sixtieth through at once, or one request, and the rest of a minute evenly."""
    whole = math.floor(rpm) if rpm > 1 else rpm
    return _bucket(at_once=max(1.0, whole / _MINUTE), leaking=whole * (1 - 1 / _MINUTE))


def _tokens_bucket(tpm: float, request: float) -> AsyncLimiter:
    """Return a bucket that lets a sixth through at once, or one request of so many tokens, and the rest evenly."""
    at_once = max(tpm / 6, request)
    return _bucket(at_once=at_once, leaking=max(tpm - at_once, min(tpm, at_once)))


def _bucket(*, at_once: float, leaking: float) -> AsyncLimiter:
    # A bucket lets its contents through at once and then leaks: both together are what a minute sees at most.
    return AsyncLimiter(at_once, _MINUTE * at_once / leaking)


async def _unless(stop: asyncio.Event, awaited: Awaitable[None]) -> bool:
    waiting = asyncio.ensure_future(awaited)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([waiting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            waiting.result()
        return waiting.done()
    finally:
        waiting.cancel()
        stopped.cancel()


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
