"""Enforces the budget of a run: the number of requests and their cost, over all sessions of the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from compact_hf.teachers.base import Reply, Role


@dataclass(slots=True)
class Budget:
    """Checks before each request whether the budget allows one more, and counts replies.

    A request in flight counts as one reply at the average cost so far. A run therefore never exceeds `max_requests`. It
    can exceed `max_cost` only by the amount by which its last requests in flight cost more than the average.

    Attributes:
        max_requests (`int`, *optional*): maximum number of replies in the journal, over all sessions.
        max_cost (`float`, *optional*): maximum cost in US dollars, over all sessions.
        reply_cost (`Callable[[Role, Reply], float]`, *optional*): returns the cost of a reply in US dollars; by default
            replies are free.
        initial_estimate (`float`, *optional*, defaults to 0.0): assumed cost of a request in US dollars, used until the
            first reply.
        requests (`int`, *optional*, defaults to 0): number of replies so far.
        cost (`float`, *optional*, defaults to 0.0): cost so far, in US dollars.
        in_flight (`int`, *optional*, defaults to 0): number of requests that were sent and have no reply yet.
    """

    max_requests: int | None = None
    max_cost: float | None = None
    reply_cost: Callable[[Role, Reply], float] = lambda role, reply: 0.0
    initial_estimate: float = 0.0
    requests: int = 0
    cost: float = 0.0
    in_flight: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)

    def exhausted_reason(self) -> str:
        """Return which limit forbids one more request and how to raise it; empty if one more is allowed."""
        if self.max_requests is not None and self.requests + self.in_flight >= self.max_requests:
            return f"the budget of {self.max_requests:,} requests is used up; raise --max-requests"
        if self.max_cost is not None:
            # The next request and those in flight are each assumed to cost the average.
            mean_cost = self.cost / self.requests if self.requests else self.initial_estimate
            if self.cost + mean_cost * (self.in_flight + 1) > self.max_cost:
                return f"the budget of {_dollars(self.max_cost)} is used up (${self.cost:,.4f} spent); raise --max-cost"
        return ""

    def record_sent(self) -> None:
        """Count a request that is about to be sent."""
        self.in_flight += 1

    def record_result(self, role: Role, reply: Reply | None) -> None:
        """Count the result of a request.

        Args:
            role (`Role`): role of the request.
            reply (`Reply | None`): the reply; None if the request failed.
        """
        self.in_flight -= 1
        if reply is not None:
            self.requests += 1
            self.cost += self.reply_cost(role, reply)
        # Wake every waiter, then use a new event, so that a later `wait_for_change` waits for the next result.
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Return after the next result, which may have freed budget: a failure costs nothing, a reply may be cheap."""
        await self._changed.wait()


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4g}"
