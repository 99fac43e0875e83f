"""What a run may cost: requests and money over all its sessions, counted from the journal on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from compact_hf.teachers.base import Reply, Role


@dataclass(slots=True)
class Budget:
    """Says before each request whether there is room for one more, and counts what came back.

    What is in flight counts as a reply, and as dear as the ones before it were on average: a run never goes over
    `max_requests`, and over `max_cost` only by what its last few requests cost more than that.

    Attributes:
        max_requests (`int | None`): replies in the journal, of all sessions.
        max_cost (`float | None`): US dollars.
        reply_cost (`Callable[[Role, Reply], float]`): what a reply cost, in US dollars.
        initial_estimate (`float`): US dollars that a request is taken to cost before there is any reply.
        requests (`int`): replies so far.
        cost (`float`): US dollars so far.
        in_flight (`int`): requests that are on their way.
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
        """Return which limit leaves no room for one more request, and what to do; nothing where there is room."""
        if self.max_requests is not None and self.requests + self.in_flight >= self.max_requests:
            return f"the budget of {self.max_requests:,} requests is used up; raise --max-requests"
        if self.max_cost is not None:
            mean_cost = self.cost / self.requests if self.requests else self.initial_estimate
            if self.cost + mean_cost * (self.in_flight + 1) > self.max_cost:
                return f"the budget of {_dollars(self.max_cost)} is used up (${self.cost:,.4f} spent); raise --max-cost"
        return ""

    def record_sent(self) -> None:
        """Take note that a request is on its way."""
        self.in_flight += 1

    def record_result(self, role: Role, reply: Reply | None) -> None:
        """Take note of what became of it: a reply, or None."""
        self.in_flight -= 1
        if reply is not None:
            self.requests += 1
            self.cost += self.reply_cost(role, reply)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Return once something came back: it may have left room, by failing or by being cheaper than was thought."""
        await self._changed.wait()


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4g}"
