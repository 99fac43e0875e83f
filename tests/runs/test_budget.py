"""Tests of `Budget`: it is not exceeded however costs change, and it counts earlier sessions."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from compact_hf.runs.budget import Budget
from compact_hf.runs.journal import TokenUsage
from compact_hf.teachers.base import EncodedImage, Reply, Request
from compact_hf.teachers.prices import Price

# Output tokens cost 1/65,536 USD each, so the longest reply that a model writes costs 1 USD. Input is free.
PRICE = Price(0.0, 1e6 / 65_536, "given")
MAX_TOKENS = 65_536


def make_budget(max_requests: int | None = None, max_cost: float | None = None, **settings: Any) -> Budget:
    return Budget(max_requests, max_cost, prices={"teacher": PRICE, "verifier": PRICE}, **settings)


def make_reply(tokens: int, *, has_usage: bool = True) -> Reply:
    return Reply("key", text="{}", model="m", output_tokens=tokens, has_usage=has_usage)


def make_usage(requests: int, tokens: int, *, estimated: int = 0) -> TokenUsage:
    """Return the usage of earlier replies of this number of output tokens each."""
    return TokenUsage("teacher", "m", "2026-11-02", requests, 0, requests * tokens, estimated, 0, tokens)


def spend(budget: Budget, tokens: list[int], *, seed: int = 0, failure_rate: float = 0.0, max_in_flight: int) -> int:
    """Send requests as the budget allows, return their results at random times, and return the number of replies.

    The n-th request has the n-th number of tokens.
    """
    rng, next_tokens, in_flight = random.Random(seed), iter(tokens), list[int]()
    replies = 0
    while True:
        has_room = len(in_flight) < max_in_flight and budget.can_send("teacher")
        if not has_room and not in_flight:
            return replies
        if has_room and (not in_flight or rng.random() < 0.8):
            if (cost := next(next_tokens, None)) is None:
                return replies
            budget.reserve("teacher")
            in_flight.append(cost)
            continue
        cost = in_flight.pop(rng.randrange(len(in_flight)))
        if rng.random() < failure_rate:
            budget.record_result("teacher", None)
        else:
            budget.record_result("teacher", make_reply(cost))
            replies += 1


PLACES = st.integers(1, 100)


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 9999), st.sampled_from([0.0, 0.5]), PLACES)
def test_no_more_requests_are_billed_than_the_limit_allows(
    limit: int, before: int, seed: int, failing: float, places: int
) -> None:
    budget = make_budget(limit, usage=[make_usage(before, 10)])
    spend(budget, [10] * 1000, seed=seed, failure_rate=failing, max_in_flight=places)
    # Failures cost nothing, so the budget is used up completely.
    assert budget.requests == max(before, limit)


@given(st.floats(1.0, 20.0), st.data(), st.integers(0, 9999), st.sampled_from([0.0, 0.5]), PLACES)
def test_whatever_replies_cost_no_more_than_twice_the_limit_is_spent(
    limit: float, data: st.DataObject, seed: int, failing: float, places: int
) -> None:
    cheap, expensive = data.draw(st.integers(1, 300)), data.draw(st.integers(300, MAX_TOKENS))
    change = data.draw(st.integers(0, 200))
    budget = make_budget(max_cost=limit)
    tokens = [cheap] * change + [expensive] * 20_000
    spend(budget, tokens, seed=seed, failure_rate=failing, max_in_flight=places)
    assert budget.cost <= 2 * limit


@given(st.integers(1, 60), st.integers(0, 9999), st.integers(1, 30))
def test_equal_costs_are_never_overdrawn_and_leave_less_than_one_request(limit: int, seed: int, places: int) -> None:
    tokens = MAX_TOKENS // 64  # sums of 1/64 USD are exact
    budget = make_budget(max_cost=limit / 64)
    assert spend(budget, [tokens] * 200, seed=seed, failure_rate=0.3, max_in_flight=places) == limit
    assert budget.cost == limit / 64


@pytest.mark.parametrize(
    ("tokens", "most_cost"),
    [
        ([14_746] * 999, 5.0),  # .225 USD each from the start: 22 requests
        ([66] * 500 + [36_700] * 999, 10.0),  # 560 times as expensive all at once
        ([min(int(60 * 1.02**number), MAX_TOKENS) for number in range(2000)], 6.0),  # a little more each time
    ],
)
def test_a_limited_run_with_64_places_keeps_to_its_limit(tokens: list[int], most_cost: float) -> None:
    for seed in range(5):
        budget = make_budget(max_cost=5.0)
        spend(budget, tokens, seed=seed, max_in_flight=64)
        assert 4.0 < budget.cost <= most_cost
        resumed = make_budget(max_cost=5.0, usage=[make_usage(budget.requests, MAX_TOKENS // 4)])
        assert spend(resumed, tokens, max_in_flight=64) == 0


def test_the_first_reply_is_waited_for_and_each_one_opens_a_place() -> None:
    budget = make_budget(max_cost=5.0)
    in_flight = []
    for _ in range(6):
        while budget.can_send("teacher"):
            budget.reserve("teacher")
        in_flight.append(budget.in_flight)
        for _ in range(budget.in_flight):
            budget.record_result("teacher", make_reply(66))
    # At most five replies of the largest kind could be paid from the limit.
    assert in_flight == [1, 2, 4, 5, 5, 5]
    assert make_budget(max_cost=5.0, usage=[make_usage(4, 66)]).can_send("verifier")


def test_each_role_waits_for_its_own_first_reply() -> None:
    budget = make_budget(max_cost=50.0, usage=[make_usage(9, 66)])
    budget.reserve("verifier")
    assert not budget.can_send("verifier")
    assert budget.can_send("teacher")
    budget.record_result("verifier", make_reply(MAX_TOKENS))
    budget.reserve("verifier")
    assert budget.can_send("verifier"), "the costs of the role are known"


def test_a_batch_is_as_large_as_the_limit_can_pay_and_the_next_ones_are_larger() -> None:
    budget = make_budget(max_cost=20.0, batch_roles=["teacher"])
    batches = []
    for _ in range(3):
        while budget.can_send("teacher"):
            budget.reserve("teacher")
        batches.append(budget.in_flight)
        for _ in range(budget.in_flight):
            budget.record_result("teacher", make_reply(64))
    assert batches == [20, 200, 2200]
    # In the first batch all replies were the largest: the limit is reached and not exceeded.
    budget = make_budget(max_cost=20.0, batch_roles=["teacher"])
    while budget.can_send("teacher"):
        budget.reserve("teacher")
    for _ in range(budget.in_flight):
        budget.record_result("teacher", make_reply(MAX_TOKENS))
    assert budget.cost == 20.0


def make_request(prompt: str, *, has_image: bool = True) -> Request:
    image = EncodedImage(lambda: b"", ref="a.jpg", max_edge=64) if has_image else None
    return Request("key", "teacher", "a", image, prompt, BaseModel)


def test_tokens_that_a_service_does_not_state_are_estimated_on_the_high_side() -> None:
    budget = make_budget(max_cost=1.0)
    stated = make_reply(7)
    assert budget.estimate_usage(make_request("x" * 300), stated) is stated
    unknown = Reply("key", text="y" * 600, model="m", has_usage=False)
    estimate = budget.estimate_usage(make_request("x" * 300), unknown)
    assert (estimate.input_tokens, estimate.output_tokens, estimate.has_usage) == (2100, 700, False)
    assert budget.estimate_usage(make_request("x" * 300, has_image=False), unknown).input_tokens == 100
    # A long reply says nothing about the next one, unless that did not arrive.
    budget.reserve("teacher")
    budget.record_result("teacher", make_reply(9000, has_usage=False))
    assert budget.estimate_usage(make_request(""), unknown).output_tokens == 700
    assert (
        budget.estimate_usage(make_request(""), Reply("key", text="", model="", has_usage=False)).output_tokens == 9000
    )
    # What the service states about other replies includes the thinking.
    budget.reserve("teacher")
    budget.record_result("teacher", make_reply(8000))
    assert budget.estimate_usage(make_request(""), unknown).output_tokens == 9000


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (
            make_budget(1000, usage=[make_usage(1000, 1)]),
            "the budget of 1,000 requests is used up; raise --max-requests",
        ),
        (
            make_budget(max_cost=2.5, usage=[make_usage(10, MAX_TOKENS // 4)]),
            "the budget of $2.50 is used up ($2.5000 spent; the next request may cost $0.2500); raise --max-cost",
        ),
        (
            make_budget(max_cost=2.5, usage=[make_usage(10, MAX_TOKENS // 4, estimated=3)]),
            "the budget of $2.50 is used up (about $2.5000 spent, because 3 of 10 replies do not state their tokens; "
            "the next request may cost $0.2500); raise --max-cost",
        ),
        (
            make_budget(max_cost=0.001),
            "the budget of $0.001 is used up ($0.0000 spent; the next request may cost $0.0046); raise --max-cost",
        ),
    ],
)
def test_a_budget_that_is_used_up_says_which_and_what_to_raise(budget: Budget, told: str) -> None:
    assert not budget.can_send("teacher")
    assert budget.exhausted_reason("teacher") == told
    assert make_budget().can_send("teacher")
