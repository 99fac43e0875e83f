"""Limits the requests to a teacher in flight and per minute, and decides when a failed request is sent again.

If the server answers "too many requests", all requests to it wait ("hold") for the delay that it named. Then one
request is sent as a probe. After a reply to the probe the others follow, at half the previous concurrency. Other
failures are retried individually, with increasing delays.
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
from compact_hf.teachers.base import Failure, FailureKind

_MINUTE: Final = 60.0
# Assumed tokens of a request until there are replies: an image and a page of text.
_INITIAL_TOKEN_ESTIMATE: Final = 2000.0
_SHRINK_FACTOR: Final = 0.5  # of the number of slots, after an overload


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits on the requests to a teacher.

    Attributes:
        in_flight (`int`): maximum number of requests in flight.
        rpm (`float`, *optional*): maximum number of requests per minute.
        tpm (`float`, *optional*): maximum number of tokens per minute, input and output.

    Raises:
        UsageError: a limit is not above 0 or not finite.
    """

    in_flight: int
    rpm: float | None = None
    tpm: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("concurrency", self.in_flight), ("rpm", self.rpm), ("tpm", self.tpm)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"got --{name} {value:g}: it must be above 0 and finite")


class Slots:
    """A first-in, first-out semaphore for requests in flight, whose capacity adapts to overloads of the server.

    The capacity follows additive increase, multiplicative decrease: it halves at each overload, and grows by one each
    time that as many requests were answered as there are slots.

    Args:
        max_slots (`int`): initial and largest capacity.
    """

    def __init__(self, max_slots: int) -> None:
        self._max_slots = max_slots
        self._capacity = float(max_slots)
        self._in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether no further request can be sent before a slot is released."""
        return self._in_use >= int(self._capacity)

    async def acquire(self) -> None:
        """Wait for a free slot and take it."""
        if not self.is_full and not self._waiters:
            self._in_use += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # The slot may have been handed over just before the cancellation: pass it on.
            if waiter.done() and not waiter.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Release a slot to the next waiter."""
        self._in_use -= 1
        self._wake_waiters()

    def shrink(self) -> None:
        """Halve the capacity, to at least one; slots in use are not taken away."""
        self._capacity = max(1.0, self._capacity * _SHRINK_FACTOR)

    def grow(self) -> None:
        """Raise the capacity after a reply."""
        # Adding 1/n for each reply makes one more slot after n replies.
        self._capacity = min(float(self._max_slots), self._capacity + 1.0 / self._capacity)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._waiters and not self.is_full:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._in_use += 1
                waiter.set_result(None)


class RateLimiter:
    """Keeps requests and tokens below their limits in every window of 60 seconds, evenly spread.

    Requests are served in order of arrival. The tokens of a request are known only after its reply, so each request is
    assumed to need the average of the earlier ones; the token limit then holds on average. If one request needs more
    tokens than a minute allows, the next one waits until the average is below the limit again.

    Args:
        limits (`RateLimits`): the limits per minute.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._request_bucket = None if limits.rpm is None else _make_request_bucket(limits.rpm)
        self._tpm = limits.tpm
        self._expected_tokens = _INITIAL_TOKEN_ESTIMATE
        self._token_bucket = None if limits.tpm is None else _make_token_bucket(limits.tpm, self._expected_tokens)
        self._request_count = 0
        self._lock = asyncio.Lock()

    async def wait(self, stop: asyncio.Event) -> bool:
        """Return True when one more request may be sent, False as soon as `stop` is set.

        Args:
            stop (`asyncio.Event`): set when the run is being stopped.
        """
        if self._request_bucket is None and self._token_bucket is None:
            return not stop.is_set()
        return await _wait_unless_stopped(stop, self._acquire())

    def record_tokens(self, tokens: int) -> None:
        """Update the average number of tokens per request with those of a reply.

        Args:
            tokens (`int`): input and output tokens of the reply.
        """
        self._request_count += 1
        self._expected_tokens += (tokens - self._expected_tokens) / self._request_count

    async def _acquire(self) -> None:
        """Wait until the token bucket and the request bucket both have room for one more request."""
        # One at a time: AsyncLimiter serves small amounts first, and each request must use the current average.
        async with self._lock:
            if self._tpm is not None and self._token_bucket is not None:
                bucket = _make_token_bucket(self._tpm, self._expected_tokens)
                if bucket.max_rate != self._token_bucket.max_rate:
                    # A new bucket starts full, as if a whole burst had just been sent, because requests were sent a
                    # moment ago under the old bucket.
                    await bucket.acquire(bucket.max_rate)
                    self._token_bucket = bucket
                await self._token_bucket.acquire(self._expected_tokens)
            # The exact limit comes last, after the estimated one, so that nothing waits between it and sending.
            if self._request_bucket is not None:
                await self._request_bucket.acquire()


def _make_request_bucket(rpm: float) -> AsyncLimiter:
    """Return a bucket that lets 1/60 of the limit (at least one request) pass at once, and the rest evenly."""
    per_minute = math.floor(rpm) if rpm > 1 else rpm
    return _make_bucket(burst=max(1.0, per_minute / _MINUTE), per_minute=per_minute * (1 - 1 / _MINUTE))


def _make_token_bucket(tpm: float, request_tokens: float) -> AsyncLimiter:
    """Return a bucket that lets 1/6 of the limit (at least one request) pass at once, and the rest evenly.

    A request is assumed to need `request_tokens` tokens.
    """
    burst = max(tpm / 6, request_tokens)
    return _make_bucket(burst=burst, per_minute=max(tpm - burst, min(tpm, burst)))


def _make_bucket(*, burst: float, per_minute: float) -> AsyncLimiter:
    # A leaky bucket lets the burst through at once and then leaks evenly: a minute sees at most burst + per_minute.
    return AsyncLimiter(burst, _MINUTE * burst / per_minute)


async def _wait_unless_stopped(stop: asyncio.Event, awaitable: Awaitable[None]) -> bool:
    """Await something; return False and cancel it if `stop` is set first."""
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
    """How often and how long a failed request is retried.

    Attributes:
        max_attempts (`int`, *optional*, defaults to 5): number of times that a request is sent before it is abandoned
            for this session.
        initial_delay_s (`float`, *optional*, defaults to 0.5): delay before the first retry, in seconds; it doubles
            with each further retry.
        max_delay_s (`float`, *optional*, defaults to 30.0): longest such delay, in seconds.
        max_overload_s (`float`, *optional*, defaults to 900.0): how long a server may be overloaded, or fail all
            requests after it has answered some, before the run stops, in seconds. A longer delay that the server names
            is not waited for.
    """

    max_attempts: int = 5
    initial_delay_s: float = 0.5
    max_delay_s: float = 30.0
    max_overload_s: float = 900.0


class RequestThrottle:
    """Decides when requests to one teacher may be sent, and when failed ones are sent again.

    Results of requests that were sent before the newest hold still arrive during the hold, but say nothing about the
    current state of the server. Each request therefore carries the number of holds at the time when it was sent
    (`hold_count`), and only results with the current number count.

    Args:
        limits (`RateLimits`): limits on the requests.
        retry_policy (`RetryPolicy`, *optional*): how often and how long to retry.

    Attributes:
        slots (`Slots`): limits the requests in flight.
        rate_limiter (`RateLimiter`): limits the requests and tokens per minute.
        hold_count (`int`): number of holds so far.
    """

    def __init__(self, limits: RateLimits, retry_policy: RetryPolicy | None = None) -> None:
        self.retry_policy = retry_policy or RetryPolicy()
        self.slots = Slots(limits.in_flight)
        self.rate_limiter = RateLimiter(limits)
        self._jitter = random.Random()
        self.hold_count = 0
        # State of a hold. `_hold_until` is None if there is no hold. When its time is over, one request is sent as a
        # probe (`_is_probing`): its reply ends the hold, another overload renews it, and other failures allow the next
        # probe.
        self._hold_until: float | None = None
        self._overloaded_since = 0.0
        self._consecutive_holds = 0
        self._is_probing = False
        self._changed = asyncio.Event()
        self._has_answered = False
        self._failed_since: dict[str, float] = {}  # key -> time of its first failure since the newest reply

    async def wait(self, should_stop: Callable[[], bool]) -> int:
        """Wait until a request may be sent or the run stops; return the number of holds so far.

        Args:
            should_stop (`Callable[[], bool]`): whether the run is being stopped.
        """
        clock = asyncio.get_running_loop().time
        while self._hold_until is not None and not should_stop():
            if not self._is_probing and clock() >= self._hold_until:
                self._is_probing = True
                break
            delay = 0.5 if self._is_probing else min(0.5, max(0.0, self._hold_until - clock()))
            event = self._changed
            try:
                # At most 0.5 s, so that Ctrl-C takes effect during a long hold.
                await asyncio.wait_for(event.wait(), delay)
            except TimeoutError:
                continue
        return self.hold_count

    def record_reply(self, hold_count: int, tokens: int) -> None:
        """Record a reply; if its request was sent after the newest hold began, it ends the hold.

        Args:
            hold_count (`int`): number of holds when the request was sent.
            tokens (`int`): input and output tokens of the reply.
        """
        self._has_answered = True
        self._failed_since.clear()
        self.rate_limiter.record_tokens(tokens)
        self.slots.grow()
        if hold_count == self.hold_count and self._hold_until is not None:
            self._hold_until = None
            self._consecutive_holds = 0
            self._notify()

    def record_overload(self, failure: Failure, hold_count: int) -> bool:
        """Begin or renew a hold of all requests after an overload.

        Args:
            failure (`Failure`): the overload that the server reported.
            hold_count (`int`): number of holds when the failed request was sent.

        Returns:
            False if the overload would last longer than `max_overload_s`.
        """
        now = asyncio.get_running_loop().time()
        if hold_count == self.hold_count:
            if self._hold_until is None:
                self._overloaded_since = now
                self.slots.shrink()
            self.hold_count += 1
            self._consecutive_holds += 1
            self._notify()
        elif self._hold_until is None:
            return True  # the request was sent before a hold that has ended since
        if failure.retry_after is None:
            delay = self._backoff_delay(self._consecutive_holds)
        else:
            # Never without a delay, even if the server names 0 seconds: probes would follow each other in a busy loop.
            delay = max(failure.retry_after, self.retry_policy.initial_delay_s)
        self._hold_until = max(self._hold_until or 0.0, now + delay)
        return self._hold_until - self._overloaded_since <= self.retry_policy.max_overload_s

    def retry_delay(self, failure: Failure, hold_count: int, attempt: int) -> float | None:
        """Return the delay before a request that failed for another reason than overload is sent again.

        Args:
            failure (`Failure`): the failure.
            hold_count (`int`): number of holds when the request was sent.
            attempt (`int`): number of such failures of this request, at least 1.

        Returns:
            The delay in seconds, or None to abandon the request for this session.
        """
        if hold_count == self.hold_count and self._is_probing:
            # The probe failed for another reason, which says nothing about the overload: allow the next probe.
            self._notify()
        if failure.kind is not FailureKind.TRANSIENT:
            return None
        self._failed_since.setdefault(failure.key, asyncio.get_running_loop().time())
        # A server that bills what it sends is not down, and more attempts would cost more.
        if attempt >= self.retry_policy.max_attempts and (failure.billed is not None or not self._is_down()):
            return None
        if self.is_too_long(failure):
            return None
        return failure.retry_after if failure.retry_after is not None else self._backoff_delay(attempt)

    def is_too_long(self, failure: Failure) -> bool:
        """Return whether the server asks for a longer delay than a run waits, for a request that may succeed then.

        Args:
            failure (`Failure`): the failure.
        """
        is_retryable = failure.kind in (FailureKind.TRANSIENT, FailureKind.OVERLOADED)
        return is_retryable and (failure.retry_after or 0.0) > self.retry_policy.max_overload_s

    def _is_down(self) -> bool:
        """Return whether a server that answered before fails now: several requests failed since its newest reply."""
        elapsed = asyncio.get_running_loop().time() - min(self._failed_since.values())
        return self._has_answered and len(self._failed_since) > 1 and elapsed <= self.retry_policy.max_overload_s

    def _backoff_delay(self, attempt: int) -> float:
        """Return the exponential delay before a retry, with jitter, in seconds."""
        delay = min(self.retry_policy.max_delay_s, self.retry_policy.initial_delay_s * 2.0 ** min(attempt - 1, 16))
        return delay * self._jitter.uniform(0.5, 1.0)

    def _notify(self) -> None:
        """End the probe and wake the requests in `wait`, which look at the new state."""
        self._is_probing = False
        self._changed.set()
        self._changed = asyncio.Event()
