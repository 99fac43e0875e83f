"""Tests of `RequestThrottle`: which requests wait during a hold, which one is the probe, and what ends the hold."""

from __future__ import annotations

import asyncio

from compact_hf.runs.rate_limit import RateLimits, RequestThrottle, RetryPolicy
from compact_hf.teachers.base import Failure, FailureKind

RETRY_POLICY = RetryPolicy(max_attempts=3, initial_delay_s=0.02, max_delay_s=10.0, max_overload_s=60.0)


def make_overload(retry_after: float | None = None) -> Failure:
    return Failure("key", "429", kind=FailureKind.OVERLOADED, retry_after=retry_after)


async def can_pass(throttle: RequestThrottle, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(throttle.wait(lambda: False), timeout_s)
    except TimeoutError:
        return False
    return True


def test_a_reply_to_a_request_from_before_the_hold_does_not_end_it() -> None:
    async def main() -> None:
        throttle = RequestThrottle(RateLimits(100), RETRY_POLICY)
        hold_counts = [await throttle.wait(lambda: False) for _ in range(2)]
        assert throttle.record_overload(make_overload(retry_after=5.0), hold_counts[0])
        throttle.record_reply(hold_counts[1], 0)
        assert not await can_pass(throttle, 0.1)

    asyncio.run(main())


def test_many_refusals_at_once_are_one_hold() -> None:
    """16 requests that fail in the same overload must not double the delay 16 times."""

    async def main() -> None:
        throttle = RequestThrottle(RateLimits(100), RETRY_POLICY)
        for hold_count in [await throttle.wait(lambda: False) for _ in range(16)]:
            assert throttle.record_overload(make_overload(), hold_count)
        assert await can_pass(throttle, 0.2)

    asyncio.run(main())


def test_one_probe_goes_ahead_and_its_reply_lets_all_go() -> None:
    async def main() -> None:
        throttle = RequestThrottle(RateLimits(100), RETRY_POLICY)
        throttle.record_overload(make_overload(), await throttle.wait(lambda: False))
        probe = await throttle.wait(lambda: False)
        assert not await can_pass(throttle, 0.1)
        throttle.record_reply(probe, 0)
        assert await can_pass(throttle, 0.1)
        assert await can_pass(throttle, 0.1)

    asyncio.run(main())


def test_a_probe_that_finds_out_nothing_is_followed_by_another() -> None:
    async def main() -> None:
        throttle = RequestThrottle(RateLimits(100), RETRY_POLICY)
        throttle.record_overload(make_overload(), await throttle.wait(lambda: False))
        probe = await throttle.wait(lambda: False)
        assert throttle.retry_delay(Failure("key", "time-out"), probe, 1) is not None
        assert await can_pass(throttle, 0.1)
        assert not await can_pass(throttle, 0.1)

    asyncio.run(main())


def test_a_server_that_names_no_time_at_all_is_not_asked_without_end() -> None:
    async def main() -> int:
        throttle, request_count = RequestThrottle(RateLimits(100), RETRY_POLICY), 0
        deadline = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < deadline:
            throttle.record_overload(make_overload(retry_after=0.0), await throttle.wait(lambda: False))
            request_count += 1
        return request_count

    assert asyncio.run(main()) <= 0.3 / RETRY_POLICY.initial_delay_s + 2


def test_a_delay_beyond_all_patience_is_not_waited_for() -> None:
    async def main() -> None:
        throttle = RequestThrottle(RateLimits(100), RETRY_POLICY)
        hold_count = await throttle.wait(lambda: False)
        assert throttle.retry_delay(Failure("key", "500", retry_after=3600.0), hold_count, 1) is None
        assert not throttle.record_overload(make_overload(retry_after=3600.0), hold_count)

    asyncio.run(main())


def test_a_failure_is_retried_until_its_last_attempt() -> None:
    async def main() -> list[bool]:
        throttle = RequestThrottle(RateLimits(100), RETRY_POLICY)
        hold_count = await throttle.wait(lambda: False)
        failure = Failure("key", "500")
        return [throttle.retry_delay(failure, hold_count, attempt) is not None for attempt in (1, 2, 3)]

    assert asyncio.run(main()) == [True, True, False]
