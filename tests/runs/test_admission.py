"""The gate before a teacher: who waits, who probes, and what ends a hold."""

from __future__ import annotations

import asyncio

from compact_hf.runs.rate_limit import RateLimits, RequestThrottle, RetryPolicy
from compact_hf.teachers.base import Failure

PATIENCE = RetryPolicy(max_attempts=3, initial_delay_s=0.02, max_delay_s=10.0, max_overload_s=60.0)


def overload(retry_after: float | None = None) -> Failure:
    return Failure("key", "429", is_overloaded=True, retry_after=retry_after)


async def passes(admission: RequestThrottle, within_s: float) -> bool:
    try:
        await asyncio.wait_for(admission.wait(lambda: False), within_s)
    except TimeoutError:
        return False
    return True


def test_a_reply_to_a_request_from_before_the_hold_does_not_end_it() -> None:
    async def main() -> None:
        admission = RequestThrottle(RateLimits(100), PATIENCE)
        early = [await admission.wait(lambda: False) for _ in range(2)]
        assert admission.record_overload(overload(retry_after=5.0), early[0])
        admission.record_reply(early[1], 0)
        assert not await passes(admission, 0.1)

    asyncio.run(main())


def test_many_refusals_at_once_are_one_hold() -> None:
    """Sixteen requests that meet the same moment of overload must not double the delay sixteen times."""

    async def main() -> None:
        admission = RequestThrottle(RateLimits(100), PATIENCE)
        for holds in [await admission.wait(lambda: False) for _ in range(16)]:
            assert admission.record_overload(overload(), holds)
        assert await passes(admission, 0.2)

    asyncio.run(main())


def test_one_probe_goes_ahead_and_its_reply_lets_all_go() -> None:
    async def main() -> None:
        admission = RequestThrottle(RateLimits(100), PATIENCE)
        admission.record_overload(overload(), await admission.wait(lambda: False))
        probe = await admission.wait(lambda: False)
        assert not await passes(admission, 0.1)
        admission.record_reply(probe, 0)
        assert await passes(admission, 0.1)
        assert await passes(admission, 0.1)

    asyncio.run(main())


def test_a_probe_that_finds_out_nothing_is_followed_by_another() -> None:
    async def main() -> None:
        admission = RequestThrottle(RateLimits(100), PATIENCE)
        admission.record_overload(overload(), await admission.wait(lambda: False))
        probe = await admission.wait(lambda: False)
        assert admission.retry_delay(Failure("key", "time-out"), probe, 1) is not None
        assert await passes(admission, 0.1)
        assert not await passes(admission, 0.1)

    asyncio.run(main())


def test_a_server_that_names_no_time_at_all_is_not_asked_without_end() -> None:
    async def main() -> int:
        admission, asked = RequestThrottle(RateLimits(100), PATIENCE), 0
        until = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < until:
            admission.record_overload(overload(retry_after=0.0), await admission.wait(lambda: False))
            asked += 1
        return asked

    assert asyncio.run(main()) <= 0.3 / PATIENCE.initial_delay_s + 2


def test_a_delay_beyond_all_patience_is_not_waited_for() -> None:
    async def main() -> None:
        admission = RequestThrottle(RateLimits(100), PATIENCE)
        holds = await admission.wait(lambda: False)
        assert admission.retry_delay(Failure("key", "500", retry_after=3600.0), holds, 1) is None
        assert not admission.record_overload(overload(retry_after=3600.0), holds)

    asyncio.run(main())


def test_a_failure_is_retried_until_its_last_attempt() -> None:
    async def main() -> list[bool]:
        admission = RequestThrottle(RateLimits(100), PATIENCE)
        holds = await admission.wait(lambda: False)
        failure = Failure("key", "500")
        return [admission.retry_delay(failure, holds, attempt) is not None for attempt in (1, 2, 3)]

    assert asyncio.run(main()) == [True, True, False]
