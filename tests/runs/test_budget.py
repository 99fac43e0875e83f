"""Tests of `Budget`: it is not exceeded, whatever is in flight, and it counts earlier sessions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.runs.budget import Budget
from compact_hf.teachers.base import Reply


def spend(budget: Budget, costs: list[float], *, seed: int, failure_rate: float, max_in_flight: int) -> int:
    """Send requests as the budget allows, return their results at random times, and return the number of replies."""
    rng, remaining_costs, in_flight = random.Random(seed), list(costs), 0
    replies = 0
    while True:
        has_room = bool(remaining_costs) and in_flight < max_in_flight and not budget.exhausted_reason()
        if not has_room and not in_flight:
            return replies
        if has_room and (not in_flight or rng.random() < 0.6):
            budget.record_sent()
            in_flight += 1
        else:
            in_flight -= 1
            is_answered = rng.random() >= failure_rate
            if is_answered and remaining_costs:
                budget.record_result("teacher", Reply("key", str(remaining_costs.pop()), "m"))
            else:
                budget.record_result("teacher", None)
            replies += is_answered


COSTS = st.lists(st.floats(0.001, 0.01), min_size=200, max_size=200)


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 9999), st.sampled_from([0.0, 0.5]), st.integers(1, 30))
def test_no_more_requests_are_answered_than_the_limit_allows(
    limit: int, before: int, seed: int, failing: float, places: int
) -> None:
    budget = Budget(max_requests=limit, requests=before)
    spend(budget, [0.0] * 200, seed=seed, failure_rate=failing, max_in_flight=places)
    # Failures cost nothing, so the budget is used up completely.
    assert budget.requests == max(before, limit)


@given(st.floats(0.0, 0.3), COSTS, st.integers(0, 9999), st.sampled_from([0.0, 0.5]), st.integers(1, 30))
def test_money_is_overdrawn_by_no_more_than_what_is_in_flight_costs_above_the_mean(
    limit: float, costs: list[float], seed: int, failing: float, places: int
) -> None:
    budget = Budget(max_cost=limit, reply_cost=lambda role, reply: float(reply.text), initial_estimate=0.01)
    spend(budget, costs, seed=seed, failure_rate=failing, max_in_flight=places)
    assert budget.cost <= limit + places * (max(costs) - min(costs))


@given(st.integers(0, 60), st.integers(0, 9999), st.integers(1, 30))
def test_equal_costs_are_never_overdrawn_and_leave_less_than_one_request(limit: int, seed: int, places: int) -> None:
    cent = 1 / 64  # sums of this float are exact
    budget = Budget(max_cost=limit * cent, reply_cost=lambda role, reply: cent, initial_estimate=cent)
    assert spend(budget, [cent] * 200, seed=seed, failure_rate=0.3, max_in_flight=places) == limit
    assert budget.cost == limit * cent


def test_what_earlier_sessions_cost_counts_and_sets_what_a_request_is_taken_to_cost() -> None:
    budget = Budget(max_cost=1.0, reply_cost=lambda role, reply: 0.1, initial_estimate=0.5, requests=8, cost=0.8)
    assert spend(budget, [0.1] * 9, seed=0, failure_rate=0.0, max_in_flight=1) == 2
    assert Budget(max_requests=5, requests=7).exhausted_reason()


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(max_requests=1000, requests=1000), "the budget of 1,000 requests is used up; raise --max-requests"),
        (
            Budget(max_cost=2.5, requests=1, cost=2.5),
            "the budget of $2.50 is used up ($2.5000 spent); raise --max-cost",
        ),
        (
            Budget(max_cost=2.5, initial_estimate=3.0),
            "the budget of $2.50 is used up ($0.0000 spent); raise --max-cost",
        ),
        (Budget(), ""),
    ],
)
def test_a_budget_that_is_used_up_says_which_and_what_to_raise(budget: Budget, told: str) -> None:
    assert budget.exhausted_reason() == told
