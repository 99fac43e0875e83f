"""How a run is going: what moves, what waits for a reply, and why it ends; shared by its pictures and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

from compact_hf.errors import CompactError


class GivenUp(Exception):
    """A request that will not be answered in this session; its picture stays unfinished."""


class Course:
    """One run's course.

    Args:
        hands (`int`): pictures that may be in hand at the same time.
        stop (`asyncio.Event`): once set, nothing new is sent.

    Attributes:
        active (`int`): pictures in hand.
        moving (`int`): pictures and requests that do not wait for a reply.
        exhausted (`bool`): there are no further pictures.
        cut_short (`bool`): something was left undone because of `stop`.
        ended_by (`CompactError | None`): what set `stop`, where that was not the caller.
        when_idle (`Callable[[], Awaitable[None]]`): awaited whenever something begins to wait.
    """

    def __init__(self, hands: int, stop: asyncio.Event) -> None:
        self.hands = hands
        self.stop = stop
        self.active = 0
        self.moving = 0
        self.exhausted = False
        self.cut_short = False
        self.ended_by: CompactError | None = None
        self.when_idle: Callable[[], Awaitable[None]]

    @property
    def all_wait(self) -> bool:
        """Whether every picture in hand waits and no other can start."""
        return bool(self.active) and not self.moving and (self.exhausted or self.active == self.hands)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """While this lasts, one thing that moved waits for a reply, its own or another's."""
        self.moving -= 1
        try:
            await self.when_idle()
            yield
        finally:
            self.moving += 1

    def finish(self, why: CompactError) -> None:
        """Stop the run, but for what is in flight: it is being paid for."""
        self.ended_by = self.ended_by or why
        self.stop.set()

    def leave_undone(self) -> NoReturn:
        """Give up a request because of `stop`."""
        self.cut_short = True
        raise GivenUp
