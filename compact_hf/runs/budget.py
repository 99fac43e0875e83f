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
        cost_of (`Callable[[Role, Reply], float]`): what a reply cost, in US dollars.
        first_guess (`float`): US dollars that a request is taken to cost before there is any reply.
        requests (`int`): replies so far.
        cost (`float`): US dollars so far.
        in_flight (`int`): requests that are on their way.
    """

    max_requests: int | None = None
    max_cost: float | None = None
    cost_of: Callable[[Role, Reply], float] = lambda role, reply: 0.0
    first_guess: float = 0.0
    requests: int = 0
    cost: float = 0.0
    in_flight: int = 0
    _came_back: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)

    def spent_up(self) -> str:
        """Return which limit leaves no room for one more request, and what to do; nothing where there is room."""
        if self.max_requests is not None and self.requests + self.in_flight >= self.max_requests:
            return f"the budget of {self.max_requests:,} requests is used up; raise --max-requests"
        if self.max_cost is not None:
            mean = self.cost / self.requests if self.requests else self.first_guess
            if self.cost + mean * (self.in_flight + 1) > self.max_cost:
                return f"the budget of {_dollars(self.max_cost)} is used up (${self.cost:,.4f} spent); raise --max-cost"
        return ""

    def sent(self) -> None:
        """Take note that a request is on its way."""
        self.in_flight += 1

    def came_back(self, role: Role, reply: Reply | None) -> None:
        """Take note of what became of it: a reply, or None."""
        self.in_flight -= 1
        if reply is not None:
            self.requests += 1
            self.cost += self.cost_of(role, reply)
        self._came_back.set()
        self._came_back = asyncio.Event()

    async def change(self) -> None:
        """Return once something came back: it may have left room, by failing or by being cheaper than was thought."""
        await self._came_back.wait()


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4g}"
