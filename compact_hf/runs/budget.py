"""Enforces the budget of a run: the number of billed requests and their cost, over all sessions of the run.

What a request costs is known only after its reply. A run with a limit on its cost therefore starts with one request,
and sends more at a time with each reply. Tokens that a service does not state are estimated, on the high side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from compact_hf.runs.identity import ROLES
from compact_hf.runs.journal import TokenUsage
from compact_hf.teachers.base import Reply, Request, Role
from compact_hf.teachers.prices import Price

# Assumed (input, output) tokens of a request until the first reply: an image and a page of text, a few lines of answer.
_INITIAL_TOKENS: Final = (2_000, 300)
# Output tokens of the longest reply that current models write, thinking included.
_MAX_OUTPUT_TOKENS: Final = 65_536
# A batch takes hours, so batches grow faster than the number of single requests in flight.
_BATCH_GROWTH: Final = 10

# For replies without token counts. An image of 1,024 pixels has up to 1,400 tokens in most models, a token has at least
# three characters in most texts, and models may think before they write.
_IMAGE_TOKENS: Final = 2_000
_CHARACTERS_PER_TOKEN: Final = 3
_THINKING_TOKENS: Final = 500


@dataclass(slots=True)
class _RoleCosts:
    """What is known about the requests of one role: how many are in flight, and how large the largest reply was."""

    price: Price | None = None
    is_batch: bool = False
    replies: int = 0
    estimated: int = 0
    in_flight: int = 0
    max_tokens: tuple[int, int] = (0, 0)

    @property
    def max_cost(self) -> float:
        """Cost of the largest reply so far; an estimate before the first one."""
        return 0.0 if self.price is None else self.price.cost(*(self.max_tokens if self.replies else _INITIAL_TOKENS))

    @property
    def worst_cost(self) -> float:
        """Cost of a reply as long as models can write."""
        input_tokens = max(self.max_tokens[0], _INITIAL_TOKENS[0])
        return 0.0 if self.price is None else self.price.cost(input_tokens, _MAX_OUTPUT_TOKENS)

    def add(self, requests: int, estimated: int, input_tokens: int, output_tokens: int) -> None:
        """Add billed requests with at most this number of tokens each."""
        self.replies += requests
        self.estimated += estimated
        self.max_tokens = max(self.max_tokens[0], input_tokens), max(self.max_tokens[1], output_tokens)


class Budget:
    """Decides before each request whether the budget allows one more, and counts what was billed.

    A request in flight is charged with the cost of the largest reply of its role so far. With a limit on the cost, each
    role may have one more request in flight than it has replies, and no more requests than could be paid from the limit
    if each wrote the longest reply that a model can write. So the run spends at most twice its limit (or one reply, if
    that alone is more), and exceeds it only if replies become more expensive than all before.

    Args:
        max_requests (`int`, *optional*): maximum number of billed requests, over all sessions.
        max_cost (`float`, *optional*): maximum cost in US dollars, over all sessions.
        prices (`Mapping[Role, Price | None]`, *optional*): price of each role's teacher; roles without a price are
            free.
        batch_roles (`Collection[Role]`, *optional*): roles whose teacher answers in batches. The first batch is as
            large as the limit allows if all replies are of the largest kind; each later one up to ten times as large
            as all before.
        usage (`Iterable[TokenUsage]`, *optional*): what earlier sessions used.

    Attributes:
        cost (`float`): cost so far, in US dollars.
    """

    def __init__(
        self,
        max_requests: int | None = None,
        max_cost: float | None = None,
        *,
        prices: Mapping[Role, Price | None] | None = None,
        batch_roles: Collection[Role] = (),
        usage: Iterable[TokenUsage] = (),
    ) -> None:
        self.cost = 0.0
        self._max_requests = max_requests
        self._max_cost = max_cost
        self._roles = {role: _RoleCosts((prices or {}).get(role), role in batch_roles) for role in ROLES}
        self._waiters: dict[Role, deque[asyncio.Future[None]]] = {role: deque() for role in ROLES}
        for entry in usage:
            costs = self._roles[entry.role]
            costs.add(entry.requests, entry.estimated, entry.max_input_tokens, entry.max_output_tokens)
            self.cost += 0.0 if costs.price is None else costs.price.cost(entry.input_tokens, entry.output_tokens)

    @property
    def requests(self) -> int:
        """Number of billed requests so far."""
        return sum(costs.replies for costs in self._roles.values())

    @property
    def in_flight(self) -> int:
        """Number of requests that were reserved and have no result yet."""
        return sum(costs.in_flight for costs in self._roles.values())

    def can_send(self, role: Role) -> bool:
        """Return whether one more request may be sent now.

        Args:
            role (`Role`): role of the request.
        """
        if self._max_requests is not None and self.requests + self.in_flight >= self._max_requests:
            return False
        if self._max_cost is None:
            return True
        charged = sum(costs.in_flight * costs.max_cost for costs in self._roles.values())
        next_cost = self._roles[role].max_cost
        return self._has_place(self._roles[role], self._max_cost) and self.cost + charged + next_cost <= self._max_cost

    def _has_place(self, costs: _RoleCosts, max_cost: float) -> bool:
        """Return whether the requests in flight are few enough for what is known about their costs."""
        if costs.is_batch:
            safe = int(max_cost / costs.worst_cost) if costs.worst_cost else costs.in_flight + 1
            return costs.in_flight < max(1, safe, _BATCH_GROWTH * costs.replies)
        if costs.in_flight > costs.replies:
            return False
        worst = sum(other.in_flight * other.worst_cost for other in self._roles.values() if not other.is_batch)
        return not worst or worst + costs.worst_cost <= max_cost

    def exhausted_reason(self, role: Role) -> str:
        """Return which limit forbids one more request although none is in flight, and how to raise it.

        Args:
            role (`Role`): role of the request.
        """
        if self._max_cost is None or (self._max_requests is not None and self.requests >= self._max_requests):
            return f"the budget of {self._max_requests or 0:,} requests is used up; raise --max-requests"
        about, note = "", ""
        if estimated := sum(costs.estimated for costs in self._roles.values()):
            about = "about "
            note = f", because {estimated:,} of {self.requests:,} replies do not state their tokens"
        next_cost = self._roles[role].max_cost
        return (
            f"the budget of {_dollars(self._max_cost)} is used up ({about}${self.cost:,.4f} spent{note}; "
            f"the next request may cost ${next_cost:,.4f}); raise --max-cost"
        )

    def reserve(self, role: Role) -> None:
        """Charge a request that is about to be sent.

        Args:
            role (`Role`): role of the request.
        """
        self._roles[role].in_flight += 1

    def record_result(self, role: Role, billed: Reply | None) -> None:
        """Replace the charge for a request in flight by its actual cost.

        Args:
            role (`Role`): role of the request.
            billed (`Reply | None`): what the service billed, whether it is usable or not; None if it billed nothing, or
                the request was not sent.
        """
        costs = self._roles[role]
        costs.in_flight -= 1
        if billed is not None:
            costs.add(1, not billed.has_usage, billed.input_tokens, billed.output_tokens)
            self.cost += 0.0 if costs.price is None else costs.price.cost(billed.input_tokens, billed.output_tokens)
        for waiting_role in self._waiters:
            self.wake_next(waiting_role)

    async def wait_for_change(self, role: Role) -> None:
        """Return when the budget may allow the next request of a role; the caller then calls `wake_next`.

        Args:
            role (`Role`): the role.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[role].append(waiter)
        await waiter

    def wake_next(self, role: Role) -> None:
        """Wake the next request of a role that waits. Not all of them at once: in a batch, thousands may wait.

        Args:
            role (`Role`): the role.
        """
        waiters = self._waiters[role]
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def estimate_usage(self, request: Request, reply: Reply) -> Reply:
        """Return a reply whose service did not state its tokens with estimated ones; any other reply unchanged.

        The estimate is an image, the prompt, the text and some thinking. It is at least the largest reply of the role
        so far if the service states the tokens of other replies, or if nothing was received.

        Args:
            request (`Request`): the request.
            reply (`Reply`): what the service sent.
        """
        if reply.has_usage:
            return reply
        costs = self._roles[request.role]
        largest = costs.max_tokens if costs.estimated < costs.replies or not reply.text else (0, 0)
        image_tokens = _IMAGE_TOKENS if request.encoded_image is not None else 0
        input_tokens = image_tokens + len(request.prompt) // _CHARACTERS_PER_TOKEN
        output_tokens = _THINKING_TOKENS + len(reply.text) // _CHARACTERS_PER_TOKEN
        return replace(
            reply,
            input_tokens=max(reply.input_tokens, input_tokens, largest[0]),
            output_tokens=max(reply.output_tokens, output_tokens, largest[1]),
        )


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4g}"
