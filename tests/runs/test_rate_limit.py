"""Tests of rate limits, which must hold in every window of 60 seconds, on a virtual clock that skips waiting times."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import UsageError
from compact_hf.runs.rate_limit import RateLimiter, RateLimits, Slots

T = TypeVar("T")

MINUTE = 60.0


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock, which jumps to the next event when all tasks wait."""

    def __init__(self) -> None:
        super().__init__(_VirtualTimeSelector(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _VirtualTimeSelector(selectors.DefaultSelector):
    def __init__(self, loop: _VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: all tasks wait, and no timer is set")
        # At least 1 µs passes per turn, as in reality: with less, float rounding could leave the time unchanged.
        self._loop.now += max(1e-6, timeout)
        events: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return events


def run_in_virtual_time(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        return runner.run(work())


def simulate_send_times(
    limits: RateLimits, arrivals: Sequence[float], *, tokens: float = 1000.0, has_estimate: bool = True
) -> list[float]:
    """Return the times, in order, at which requests are sent that arrive at the given times."""

    async def main() -> list[float]:
        clock = asyncio.get_running_loop().time
        limiter, stop, send_times = RateLimiter(limits), asyncio.Event(), []
        if has_estimate:
            limiter.record_tokens(int(tokens))

        async def send(arrival: float) -> None:
            await asyncio.sleep(arrival)
            assert await limiter.wait(stop)
            send_times.append(clock())
            limiter.record_tokens(int(tokens))

        await asyncio.gather(*map(send, arrivals))
        return send_times

    return run_in_virtual_time(main)


def max_per_minute(send_times: Sequence[float]) -> int:
    return max(sum(start <= moment < start + MINUTE for moment in send_times) for start in send_times)


ARRIVALS = st.lists(st.floats(0, 150), min_size=1, max_size=120)


@given(st.one_of(st.integers(1, 300), st.floats(0.05, 300)), ARRIVALS)
def test_no_minute_ever_sees_more_requests_than_the_limit(rpm: float, arrivals: list[float]) -> None:
    send_times = simulate_send_times(RateLimits(1000, rpm=rpm), arrivals)
    assert len(send_times) == len(arrivals)
    assert max_per_minute(send_times) <= max(1, rpm)


@given(st.floats(0.05, 0.95))
def test_less_than_one_request_a_minute_is_kept_to_over_the_minutes(rpm: float) -> None:
    """A shard gets such a small share of a limit; all shards together must not exceed the limit."""
    send_times = simulate_send_times(RateLimits(1000, rpm=rpm), [0.0] * 6)
    assert all(later - earlier >= MINUTE / rpm * 0.999 for earlier, later in itertools.pairwise(send_times))


@pytest.mark.parametrize("rpm", [2, 5, 10, 60, 300])
def test_a_limit_is_used_up_where_there_is_enough_to_send(rpm: int) -> None:
    send_times = simulate_send_times(RateLimits(10_000, rpm=rpm), [0.0] * rpm * 5)
    assert 0.95 * rpm <= len(send_times) / (send_times[-1] / MINUTE) <= 1.3 * rpm


@given(st.integers(500, 100_000), st.integers(100, 5000), ARRIVALS)
def test_no_minute_ever_sees_more_tokens_than_the_limit(tpm: int, tokens: int, arrivals: list[float]) -> None:
    """This includes requests that need more tokens than a minute allows: such a request is sent alone."""
    send_times = simulate_send_times(RateLimits(1000, tpm=tpm), arrivals, tokens=tokens)
    assert len(send_times) == len(arrivals)
    assert max_per_minute(send_times) * tokens <= max(tokens, tpm)
    if tokens > tpm:
        pauses = [later - earlier for earlier, later in itertools.pairwise(send_times)]
        assert min(pauses, default=MINUTE * tokens / tpm) >= MINUTE * tokens / tpm * 0.999


def test_dearer_requests_than_expected_slow_down_those_that_follow() -> None:
    send_times = simulate_send_times(RateLimits(1000, tpm=60_000), [0.0] * 200, tokens=6000, has_estimate=False)
    assert max_per_minute(send_times[10:]) * 6000 <= 60_000


def test_both_limits_hold_together() -> None:
    send_times = simulate_send_times(RateLimits(1000, rpm=30, tpm=10_000), [0.0] * 50, tokens=1000)
    assert max_per_minute(send_times) <= 10
    send_times = simulate_send_times(RateLimits(1000, rpm=5, tpm=10_000), [0.0] * 50, tokens=1000)
    assert max_per_minute(send_times) <= 5


def test_who_came_first_goes_first_whatever_others_cost() -> None:
    async def main() -> list[int]:
        limiter, stop, order = RateLimiter(RateLimits(100, tpm=6000)), asyncio.Event(), []

        async def send(number: int) -> None:
            await asyncio.sleep(number / 1000)
            await limiter.wait(stop)
            order.append(number)
            limiter.record_tokens(1000 - number)  # lowers the expected tokens per request

        await asyncio.gather(*map(send, range(20)))
        return order

    assert run_in_virtual_time(main) == list(range(20))


@pytest.mark.parametrize("limits", [RateLimits(4, rpm=1), RateLimits(4, tpm=100)])
def test_a_stop_ends_every_wait_at_once_and_unsent(limits: RateLimits) -> None:
    async def main() -> tuple[list[bool], float]:
        limiter, stop = RateLimiter(limits), asyncio.Event()
        first = await limiter.wait(stop)
        waiters = [asyncio.ensure_future(limiter.wait(stop)) for _ in range(5)]
        await asyncio.sleep(0.5)
        stop.set()
        return [first, *await asyncio.gather(*waiters)], asyncio.get_running_loop().time()

    results, elapsed = run_in_virtual_time(main)
    assert results == [True] + [False] * 5
    assert elapsed < 1


@pytest.mark.parametrize(("name", "value"), [("in_flight", 0), ("rpm", 0.0), ("rpm", -1.0), ("tpm", float("nan"))])
def test_a_limit_that_allows_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        RateLimits(**{"in_flight": 1, name: value})  # type: ignore[arg-type]


def count_slots(slots: Slots) -> int:
    """Return the number of free slots, by taking and releasing all of them."""

    async def main() -> int:
        count = 0
        while not slots.is_full:
            await slots.acquire()
            count += 1
        for _ in range(count):
            slots.release()
        return count

    return run_in_virtual_time(main)


@given(st.integers(1, 300), st.integers(1, 12))
def test_places_halve_with_each_overload_and_one_is_always_left(most: int, overloads: int) -> None:
    slots = Slots(most)
    for _ in range(overloads):
        slots.shrink()
    assert count_slots(slots) == max(1, int(most / 2**overloads))


@given(st.integers(2, 40), st.integers(1, 6))
def test_places_grow_by_one_for_each_round_of_answers_and_never_beyond_the_most(most: int, overloads: int) -> None:
    slots = Slots(most)
    for _ in range(overloads):
        slots.shrink()
    count = count_slots(slots)
    while count < most:
        for _ in range(count + 1):
            slots.grow()
        new_count = count_slots(slots)
        assert count < new_count <= count + 2
        count = new_count
    for _ in range(3 * most):
        slots.grow()
    assert count_slots(slots) == most


@given(st.lists(st.sampled_from(["take", "cancel", "back", "narrow", "widen"]), max_size=80), st.integers(1, 8))
def test_no_place_is_lost_or_given_twice_whatever_happens(events: list[str], most: int) -> None:
    async def main() -> None:
        slots, tasks, acquired_count = Slots(most), [], 0
        for event in events:
            match event:
                case "take":
                    tasks.append(asyncio.ensure_future(slots.acquire()))
                case "cancel" if tasks:
                    tasks.pop().cancel()
                case "back" if acquired_count:
                    slots.release()
                    acquired_count -= 1
                case "narrow":
                    slots.shrink()
                case "widen":
                    slots.grow()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            acquired_count += sum(task.done() for task in tasks)
            tasks = [task for task in tasks if not task.done()]
            assert acquired_count <= most
            assert slots.is_full or not tasks
        for _ in range(acquired_count):
            slots.release()
        while tasks:
            await asyncio.sleep(0)
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                slots.release()
        assert not slots.is_full

    run_in_virtual_time(main)
