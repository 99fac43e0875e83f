"""Limits hold in every sixty seconds, to the last request, on a clock that jumps instead of waiting."""

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


class _Jumping(asyncio.SelectorEventLoop):
    """A loop whose time only passes where everybody waits, and then at once."""

    def __init__(self) -> None:
        super().__init__(_Leaping(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Leaping(selectors.DefaultSelector):
    def __init__(self, loop: _Jumping) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        # Some time passes with every turn, as it does: of two moments that differ by less, none would be the later one.
        self._loop.now += max(1e-6, timeout)
        found: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return found


def in_no_time(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=_Jumping) as runner:
        return runner.run(work())


def sent_at(
    limits: RateLimits, arrivals: Sequence[float], *, tokens: float = 1000.0, known: bool = True
) -> list[float]:
    """Return when requests that want to be sent at these moments are sent, in order."""

    async def main() -> list[float]:
        clock = asyncio.get_running_loop().time
        rates, stop, sent = RateLimiter(limits), asyncio.Event(), []
        if known:
            rates.record_tokens(int(tokens))

        async def one(at: float) -> None:
            await asyncio.sleep(at)
            assert await rates.wait(stop)
            sent.append(clock())
            rates.record_tokens(int(tokens))

        await asyncio.gather(*map(one, arrivals))
        return sent

    return in_no_time(main)


def most_in_a_minute(sent: Sequence[float]) -> int:
    return max(sum(start <= at < start + MINUTE for at in sent) for start in sent)


ARRIVALS = st.lists(st.floats(0, 150), min_size=1, max_size=120)


@given(st.one_of(st.integers(1, 300), st.floats(0.05, 300)), ARRIVALS)
def test_no_minute_ever_sees_more_requests_than_the_limit(rpm: float, arrivals: list[float]) -> None:
    sent = sent_at(RateLimits(1000, rpm=rpm), arrivals)
    assert len(sent) == len(arrivals)
    assert most_in_a_minute(sent) <= max(1, rpm)


@given(st.floats(0.05, 0.95))
def test_less_than_one_request_a_minute_is_kept_to_over_the_minutes(rpm: float) -> None:
    """A shard's part of a small limit: the parts together must not become more than the whole."""
    sent = sent_at(RateLimits(1000, rpm=rpm), [0.0] * 6)
    assert all(later - earlier >= MINUTE / rpm * 0.999 for earlier, later in itertools.pairwise(sent))


@pytest.mark.parametrize("rpm", [2, 5, 10, 60, 300])
def test_a_limit_is_used_up_where_there_is_enough_to_send(rpm: int) -> None:
    sent = sent_at(RateLimits(10_000, rpm=rpm), [0.0] * rpm * 5)
    assert 0.95 * rpm <= len(sent) / (sent[-1] / MINUTE) <= 1.3 * rpm


@given(st.integers(500, 100_000), st.integers(100, 5000), ARRIVALS)
def test_no_minute_ever_sees_more_tokens_than_the_limit(tpm: int, tokens: int, arrivals: list[float]) -> None:
    """Also where one request takes more than a minute may have: it goes by itself, and the next one waits for it."""
    sent = sent_at(RateLimits(1000, tpm=tpm), arrivals, tokens=tokens)
    assert len(sent) == len(arrivals)
    assert most_in_a_minute(sent) * tokens <= max(tokens, tpm)
    if tokens > tpm:
        pauses = [later - earlier for earlier, later in itertools.pairwise(sent)]
        assert min(pauses, default=MINUTE * tokens / tpm) >= MINUTE * tokens / tpm * 0.999


def test_dearer_requests_than_expected_slow_down_those_that_follow() -> None:
    sent = sent_at(RateLimits(1000, tpm=60_000), [0.0] * 200, tokens=6000, known=False)
    assert most_in_a_minute(sent[10:]) * 6000 <= 60_000


def test_both_limits_hold_together() -> None:
    sent = sent_at(RateLimits(1000, rpm=30, tpm=10_000), [0.0] * 50, tokens=1000)
    assert most_in_a_minute(sent) <= 10
    sent = sent_at(RateLimits(1000, rpm=5, tpm=10_000), [0.0] * 50, tokens=1000)
    assert most_in_a_minute(sent) <= 5


def test_who_came_first_goes_first_whatever_others_cost() -> None:
    async def main() -> list[int]:
        rates, stop, order = RateLimiter(RateLimits(100, tpm=6000)), asyncio.Event(), []

        async def one(number: int) -> None:
            await asyncio.sleep(number / 1000)
            await rates.wait(stop)
            order.append(number)
            rates.record_tokens(1000 - number)  # each is expected to cost less than those before

        await asyncio.gather(*map(one, range(20)))
        return order

    assert in_no_time(main) == list(range(20))


@pytest.mark.parametrize("limits", [RateLimits(4, rpm=1), RateLimits(4, tpm=100)])
def test_a_stop_ends_every_wait_at_once_and_unsent(limits: RateLimits) -> None:
    async def main() -> tuple[list[bool], float]:
        rates, stop = RateLimiter(limits), asyncio.Event()
        first = await rates.wait(stop)
        waiting = [asyncio.ensure_future(rates.wait(stop)) for _ in range(5)]
        await asyncio.sleep(0.5)
        stop.set()
        return [first, *await asyncio.gather(*waiting)], asyncio.get_running_loop().time()

    answers, at = in_no_time(main)
    assert answers == [True] + [False] * 5
    assert at < 1


@pytest.mark.parametrize(("name", "value"), [("in_flight", 0), ("rpm", 0.0), ("rpm", -1.0), ("tpm", float("nan"))])
def test_a_limit_that_allows_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        RateLimits(**{"in_flight": 1, name: value})  # type: ignore[arg-type]


def places(slots: Slots) -> int:
    """Take every place that there is, and leave them all again."""

    async def main() -> int:
        taken = 0
        while not slots.is_full:
            await slots.acquire()
            taken += 1
        for _ in range(taken):
            slots.release()
        return taken

    return in_no_time(main)


@given(st.integers(1, 300), st.integers(1, 12))
def test_places_halve_with_each_overload_and_one_is_always_left(most: int, overloads: int) -> None:
    slots = Slots(most)
    for _ in range(overloads):
        slots.shrink()
    assert places(slots) == max(1, int(most / 2**overloads))


@given(st.integers(2, 40), st.integers(1, 6))
def test_places_grow_by_one_for_each_round_of_answers_and_never_beyond_the_most(most: int, overloads: int) -> None:
    slots = Slots(most)
    for _ in range(overloads):
        slots.shrink()
    now = places(slots)
    while now < most:
        for _ in range(now + 1):
            slots.grow()
        grown = places(slots)
        assert now < grown <= now + 2
        now = grown
    for _ in range(3 * most):
        slots.grow()
    assert places(slots) == most


@given(st.lists(st.sampled_from(["take", "cancel", "back", "narrow", "widen"]), max_size=80), st.integers(1, 8))
def test_no_place_is_lost_or_given_twice_whatever_happens(events: list[str], most: int) -> None:
    async def main() -> None:
        slots, waiting, held = Slots(most), [], 0
        for event in events:
            match event:
                case "take":
                    waiting.append(asyncio.ensure_future(slots.acquire()))
                case "cancel" if waiting:
                    waiting.pop().cancel()
                case "back" if held:
                    slots.release()
                    held -= 1
                case "narrow":
                    slots.shrink()
                case "widen":
                    slots.grow()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            held += sum(one.done() for one in waiting)
            waiting = [one for one in waiting if not one.done()]
            assert held <= most
            assert slots.is_full or not waiting
        for _ in range(held):
            slots.release()
        while waiting:
            await asyncio.sleep(0)
            for one in [one for one in waiting if one.done()]:
                waiting.remove(one)
                slots.release()
        assert not slots.is_full

    in_no_time(main)
