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
# What a request is taken to cost until replies say better: an image and a page of text.
_INITIAL_TOKEN_ESTIMATE: Final = 2000.0
_SHRINK_FACTOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class RateLimits:
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

    def __init__(self, max_slots: int) -> None:
        self._max_slots = max_slots
        self._capacity = float(max_slots)
        self._in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be sent before something comes back."""
        return self._in_use >= int(self._capacity)

    async def acquire(self) -> None:
        """Return once a place is free; it is taken then."""
        if not self.is_full and not self._waiters:
            self._in_use += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Leave a place to the next one."""
        self._in_use -= 1
        self._wake_waiters()

    def shrink(self) -> None:
        """Halve the places, to one at least; who has one keeps it."""
        self._capacity = max(1.0, self._capacity * _SHRINK_FACTOR)

    def grow(self) -> None:
        """Take note that a request was answered."""
        self._capacity = min(float(self._max_slots), self._capacity + 1.0 / self._capacity)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._waiters and not self.is_full:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._in_use += 1
                waiter.set_result(None)


class RateLimiter:
    """Keeps requests and tokens a minute below their limits, evenly spread, in any sixty seconds.

    First come, first served. What a request will cost in tokens is only known afterwards: it is taken to cost what the
    ones before it did on average, so that the limit holds in the long run. Where one costs more than a minute allows,
    its successor waits until the limit holds on average.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._request_bucket = None if limits.rpm is None else _make_request_bucket(limits.rpm)
        self._tpm = limits.tpm
        self._expected_tokens = _INITIAL_TOKEN_ESTIMATE
        self._token_bucket = None if limits.tpm is None else _make_token_bucket(limits.tpm, self._expected_tokens)
        self._request_count = 0
        self._lock = asyncio.Lock()

    async def wait(self, stop: asyncio.Event) -> bool:
        """Return True once one more request may be sent, False as soon as `stop` is set."""
        if self._request_bucket is None and self._token_bucket is None:
            return not stop.is_set()
        return await _wait_unless_stopped(stop, self._acquire())

    def record_tokens(self, tokens: int) -> None:
        """Take note of what a request cost."""
        self._request_count += 1
        self._expected_tokens += (tokens - self._expected_tokens) / self._request_count

    async def _acquire(self) -> None:
        # One by one: the limiter prefers whoever wants least, and each is to count for what requests cost by then.
        async with self._lock:
            if self._tpm is not None and self._token_bucket is not None:
                bucket = _make_token_bucket(self._tpm, self._expected_tokens)
                if bucket.max_rate != self._token_bucket.max_rate:
                    # Full at first: what was sent a moment ago counts.
                    await bucket.acquire(bucket.max_rate)
                    self._token_bucket = bucket
                await self._token_bucket.acquire(self._expected_tokens)
            # Last, as this limit is exact and that one an estimate: nothing waits between here and sending.
            if self._request_bucket is not None:
                await self._request_bucket.acquire()


def _make_request_bucket(rpm: float) -> AsyncLimiter:
    """Return a bucket that lets a sixtieth through at once, or one request, and the rest of a minute evenly."""
    per_minute = math.floor(rpm) if rpm > 1 else rpm
    return _make_bucket(burst=max(1.0, per_minute / _MINUTE), per_minute=per_minute * (1 - 1 / _MINUTE))


def _make_token_bucket(tpm: float, request_tokens: float) -> AsyncLimiter:
    """Return a bucket that lets a sixth through at once, or one request of so many tokens, and the rest evenly."""
    burst = max(tpm / 6, request_tokens)
    return _make_bucket(burst=burst, per_minute=max(tpm - burst, min(tpm, burst)))


def _make_bucket(*, burst: float, per_minute: float) -> AsyncLimiter:
    # A bucket lets its contents through at once and then leaks: both together are what a minute sees at most.
    return AsyncLimiter(burst, _MINUTE * burst / per_minute)


async def _wait_unless_stopped(stop: asyncio.Event, awaitable: Awaitable[None]) -> bool:
    work = asyncio.ensure_future(awaitable)
    stop_wait = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([work, stop_wait], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        return work.done()
    finally:
        work.cancel()
        stop_wait.cancel()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on trying.

    Attributes:
        max_attempts (`int`): times that one request is sent before it is given up for now.
        initial_delay_s, max_delay_s (`float`): the pause doubles from the first to the longest, in seconds.
        max_overload_s (`float`): how long a server may keep saying "too many requests", or fail whoever asks after it
            has answered before, until the run stops; a longer delay than this is not waited for either.
    """

    max_attempts: int = 5
    initial_delay_s: float = 0.5
    max_delay_s: float = 30.0
    max_overload_s: float = 900.0


class RequestThrottle:
    """One teacher's gate.

    What a request met only tells how the server is where it was sent after the newest hold began: replies to older
    ones still arrive while everybody waits. So each request carries the number of holds there had been when it left.

    Attributes:
        slots (`Slots`): how many requests may be in flight.
        rate_limiter (`RateLimiter`): how many may be sent in a minute.
        hold_count (`int`): times that everybody was told to wait.
    """

    def __init__(self, limits: RateLimits, retry_policy: RetryPolicy | None = None) -> None:
        self.retry_policy = retry_policy or RetryPolicy()
        self.slots = Slots(limits.in_flight)
        self.rate_limiter = RateLimiter(limits)
        self._jitter = random.Random()
        self.hold_count = 0
        self._hold_until: float | None = None
        self._overloaded_since = 0.0
        self._consecutive_holds = 0
        self._is_probing = False
        self._changed = asyncio.Event()
        self._has_answered = False
        self._failed_since: dict[str, float] = {}  # key -> when it failed first, of what failed since the newest answer

    async def wait(self, should_stop: Callable[[], bool]) -> int:
        """Return the number of holds so far once a request may be sent, or as soon as the run is being stopped."""
        clock = asyncio.get_running_loop().time
        while self._hold_until is not None and not should_stop():
            if not self._is_probing and clock() >= self._hold_until:
                self._is_probing = True
                break
            delay = 0.5 if self._is_probing else min(0.5, max(0.0, self._hold_until - clock()))
            event = self._changed
            try:
                # Half a second at most, so that Ctrl-C is heard within a long hold.
                await asyncio.wait_for(event.wait(), delay)
            except TimeoutError:
                continue
        return self.hold_count

    def record_reply(self, hold_count: int, tokens: int) -> None:
        """Take note of a reply to a request that was sent after so many holds: the server is well."""
        self._has_answered = True
        self._failed_since.clear()
        self.rate_limiter.record_tokens(tokens)
        self.slots.grow()
        if hold_count == self.hold_count and self._hold_until is not None:
            self._hold_until = None
            self._consecutive_holds = 0
            self._notify()

    def record_overload(self, failure: Failure, hold_count: int) -> bool:
        """Make everybody wait; return False where that would take longer than `max_overload_s`."""
        now = asyncio.get_running_loop().time()
        if hold_count == self.hold_count:
            if self._hold_until is None:
                self._overloaded_since = now
                self.slots.shrink()
            self.hold_count += 1
            self._consecutive_holds += 1
            self._notify()
        elif self._hold_until is None:
            return True
        if failure.retry_after is None:
            delay = self._backoff_delay(self._consecutive_holds)
        else:
            # Never at once, whatever the server says: one probe would follow another without end.
            delay = max(failure.retry_after, self.retry_policy.initial_delay_s)
        self._hold_until = max(self._hold_until or 0.0, now + delay)
        return self._hold_until - self._overloaded_since <= self.retry_policy.max_overload_s

    def retry_delay(self, failure: Failure, hold_count: int, attempt: int) -> float | None:
        """Return the seconds after which to ask again what failed other than by overload, None to give it up for now.

        Args:
            attempt (`int`): how many times the request failed like this, at least 1.
        """
        if hold_count == self.hold_count and self._is_probing:
            # The probe found out nothing: another one is due.
            self._notify()
        if not failure.is_retryable:
            return None
        self._failed_since.setdefault(failure.key, asyncio.get_running_loop().time())
        if attempt >= self.retry_policy.max_attempts and not self._is_down():
            return None
        delay = failure.retry_after if failure.retry_after is not None else self._backoff_delay(attempt)
        return delay if delay <= self.retry_policy.max_overload_s else None

    def _is_down(self) -> bool:
        """Return whether it is the server that fails, for now, and not one request: nobody was answered meanwhile."""
        elapsed = asyncio.get_running_loop().time() - min(self._failed_since.values())
        return self._has_answered and len(self._failed_since) > 1 and elapsed <= self.retry_policy.max_overload_s

    def _backoff_delay(self, attempt: int) -> float:
        delay = min(self.retry_policy.max_delay_s, self.retry_policy.initial_delay_s * 2.0 ** min(attempt - 1, 16))
        return delay * self._jitter.uniform(0.5, 1.0)

    def _notify(self) -> None:
        self._is_probing = False
        self._changed.set()
        self._changed = asyncio.Event()
