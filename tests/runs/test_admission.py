"""The gate before a teacher: who waits, who probes, and what ends a hold."""

from __future__ import annotations

import asyncio

from compact_hf.runs.rate_limit import Admission, Limits, Patience
from compact_hf.teachers.base import Failure

PATIENCE = Patience(attempts=3, first_delay_s=0.02, longest_delay_s=10.0, overload_s=60.0)


def overload(retry_after: float | None = None) -> Failure:
    return Failure("key", "429", overloaded=True, retry_after=retry_after)


async def passes(admission: Admission, within_s: float) -> bool:
    try:
        await asyncio.wait_for(admission.wait(lambda: False), within_s)
    except TimeoutError:
        return False
    return True


def test_a_reply_to_a_request_from_before_the_hold_does_not_end_it() -> None:
    async def main() -> None:
        admission = Admission(Limits(100), PATIENCE)
        early = [await admission.wait(lambda: False) for _ in range(2)]
        assert admission.overloaded(overload(retry_after=5.0), early[0])
        admission.answered(early[1], 0)
        assert not await passes(admission, 0.1)

    asyncio.run(main())


def test_many_refusals_at_once_are_one_hold() -> None:
    """Sixteen requests that meet the same moment of overload must not double the delay sixteen times."""

    async def main() -> None:
        admission = Admission(Limits(100), PATIENCE)
        for holds in [await admission.wait(lambda: False) for _ in range(16)]:
            assert admission.overloaded(overload(), holds)
        assert await passes(admission, 0.2)

    asyncio.run(main())


def test_one_probe_goes_ahead_and_its_reply_lets_all_go() -> None:
    async def main() -> None:
        admission = Admission(Limits(100), PATIENCE)
        admission.overloaded(overload(), await admission.wait(lambda: False))
        probe = await admission.wait(lambda: False)
        assert not await passes(admission, 0.1)
        admission.answered(probe, 0)
        assert await passes(admission, 0.1)
        assert await passes(admission, 0.1)

    asyncio.run(main())


def test_a_probe_that_finds_out_nothing_is_followed_by_another() -> None:
    async def main() -> None:
        admission = Admission(Limits(100), PATIENCE)
        admission.overloaded(overload(), await admission.wait(lambda: False))
        probe = await admission.wait(lambda: False)
        assert admission.retry_delay(Failure("key", "time-out"), probe, 1) is not None
        assert await passes(admission, 0.1)
        assert not await passes(admission, 0.1)

    asyncio.run(main())


def test_a_server_that_names_no_time_at_all_is_not_asked_without_end() -> None:
    async def main() -> int:
        admission, asked = Admission(Limits(100), PATIENCE), 0
        until = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < until:
            admission.overloaded(overload(retry_after=0.0), await admission.wait(lambda: False))
            asked += 1
        return asked

    assert asyncio.run(main()) <= 0.3 / PATIENCE.first_delay_s + 2


def test_a_delay_beyond_all_patience_is_not_waited_for() -> None:
    async def main() -> None:
        admission = Admission(Limits(100), PATIENCE)
        holds = await admission.wait(lambda: False)
        assert admission.retry_delay(Failure("key", "500", retry_after=3600.0), holds, 1) is None
        assert not admission.overloaded(overload(retry_after=3600.0), holds)

    asyncio.run(main())


def test_a_failure_is_retried_until_its_last_attempt() -> None:
    async def main() -> list[bool]:
        admission = Admission(Limits(100), PATIENCE)
        holds = await admission.wait(lambda: False)
        failure = Failure("key", "500")
        return [admission.retry_delay(failure, holds, attempt) is not None for attempt in (1, 2, 3)]

    assert asyncio.run(main()) == [True, True, False]
