"""Send requests to teachers: concurrency, rate limits, budget, retries and the journal. One queue per teacher.

The run's state is shared by its images and requests: what is active, what waits for a reply, and why the run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn

from compact_hf.errors import CompactError, SourceError, StoppedEarly, TeacherError, TeacherUnavailableError
from compact_hf.runs.budget import Budget
from compact_hf.runs.journal import Journal
from compact_hf.runs.process import Progress
from compact_hf.runs.rate_limit import Admission
from compact_hf.teachers.base import Failure, Reply, Request, Role, Teacher


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


# So many requests given up in a row mean that the teacher is gone, not that a picture is odd.
_GIVEN_UP_IN_A_ROW: Final = 10


@dataclass(slots=True)
class Line:
    """One teacher with its queue and gate."""

    teacher: Teacher
    admission: Admission
    queue: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    pending: dict[str, tuple[Request, asyncio.Future[Reply | Failure]]] = field(default_factory=dict)

    async def requests(self) -> AsyncIterator[Request]:
        """Yield what is to be asked, as it comes."""
        while True:
            yield await self.queue.get()


class Asking:
    """Brings requests to their replies.

    Args:
        journal (`Journal`): where replies go, and where earlier ones are.
        line_of (`Mapping[Role, Line]`): whom to ask; the same line for several roles of one teacher.
        budget (`Budget`): what the run may cost.
        course (`Course`): the run's.
        progress (`Progress`): the run's.
        ready (`int`): requests made ready at a time for a teacher beside one that answers in batches, with thousands
            of pictures in hand: all of them would be in memory.
        on_failure (`Callable[[], None]`): called after each failure.
    """

    def __init__(
        self,
        journal: Journal,
        line_of: Mapping[Role, Line],
        *,
        budget: Budget,
        course: Course,
        progress: Progress,
        ready: int,
        on_failure: Callable[[], None],
    ) -> None:
        self.lines = tuple({id(line): line for line in line_of.values()}.values())
        self.in_batches = any(line.teacher.in_batches for line in self.lines)
        self._journal = journal
        self._line_of = line_of
        self._budget = budget
        self._course = course
        self._progress = progress
        self._ready = asyncio.Semaphore(ready)
        self._on_failure = on_failure
        self._answered_once = False
        self._given_up_in_a_row = 0
        course.when_idle = self.flush_if_idle

    async def reply_to(self, request: Request) -> Reply:
        """Return the reply to a request: the journal's, or else the teacher's.

        Raises:
            GivenUp: there is none to be had in this session.
        """
        found = self._journal.reply(request.key)
        if found is not None:
            return found
        line = self._line_of[request.role]
        attempt = 0
        while True:
            answer, holds = await self._answer(line, request)
            if isinstance(answer, Reply):
                return answer
            self._progress.failures += 1
            self._progress.last_failure = answer.message
            self._on_failure()
            if answer.overloaded:
                if not line.admission.overloaded(answer, holds):
                    self._end(f"{line.teacher.name} says for too long that it is overloaded: {answer.message}")
                continue
            attempt += 1
            delay = line.admission.retry_delay(answer, holds, attempt)
            if delay is None:
                self._give_up(line, answer)
                raise GivenUp
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._course.stop.wait(), delay)

    async def pump(self, line: Line) -> None:
        """Hand a line's replies over as they come, each journalled before the next is asked for.

        Raises:
            TeacherError: the teacher refuses for good, or ended before its last reply.
            JournalError: the journal cannot be written.
        """
        async with contextlib.aclosing(line.teacher.ask(line.requests())) as answers:
            async for answer in answers:
                if answer.key not in line.pending:
                    continue
                request, future = line.pending.pop(answer.key)
                if isinstance(answer, Reply):
                    # Before the teacher is asked for the next one, which it may forget this one for.
                    self._journal.record_reply(request.image_id, request.role, answer)
                if not future.done():
                    future.set_result(answer)
        raise TeacherError(f"{line.teacher.name} ended before its last reply; run the same command to go on")

    async def flush_if_idle(self) -> None:
        """Tell a teacher when no request can come any more before a reply.

        That is so where all its places are taken, or where every picture in hand waits and no other can start.
        """
        live = any(line.pending for line in self.lines if not line.teacher.in_batches)
        for line in self.lines:
            # What another teacher's replies bring belongs into the same batch.
            idle = self._course.all_wait and not (live and line.teacher.in_batches)
            if idle or line.admission.slots.are_taken:
                await line.teacher.flush()

    async def _answer(self, line: Line, request: Request) -> tuple[Reply | Failure, int]:
        """Send a request once there is room for it; return what came back, and after how many holds it was sent."""
        if not self.in_batches or line.teacher.in_batches:
            return await self._prepared(line, request)
        await self._turn(self._ready.acquire, self._ready.locked())
        try:
            return await self._prepared(line, request)
        finally:
            if request.exposure is not None:
                request.exposure.forget()
            self._ready.release()

    async def _prepared(self, line: Line, request: Request) -> tuple[Reply | Failure, int]:
        if self._course.stop.is_set():
            self._course.leave_undone()
        try:
            await line.teacher.prepare(request)
        except SourceError as error:
            # This picture is gone; the others are not.
            return Failure(request.key, str(error), worth_retrying=False), line.admission.holds
        holds = await self._admitted(line)
        try:
            answer = await self._sent(line, request)
            reply = answer if isinstance(answer, Reply) else None
            if reply is not None:
                line.admission.answered(holds, reply.input_tokens + reply.output_tokens)
                self._answered_once = True
                self._given_up_in_a_row = 0
            self._budget.came_back(request.role, reply)
            return answer, holds
        finally:
            line.admission.slots.give_back()

    async def _admitted(self, line: Line) -> int:
        """Take a place in flight, and return the number of holds so far."""
        stop = self._course.stop
        while True:
            holds = await line.admission.wait(stop.is_set)
            await self._turn(line.admission.slots.take, line.admission.slots.are_taken)
            # A hold may have begun meanwhile.
            ready = holds == line.admission.holds and await line.admission.rates.wait(stop)
            if ready and await self._affordable(line, holds):
                self._budget.sent()
                return holds
            line.admission.slots.give_back()
            if stop.is_set():
                self._course.leave_undone()

    async def _affordable(self, line: Line, holds: int) -> bool:
        """Return True once the budget has room for one more request, False where another hold or the end comes first.

        What is in flight may still leave room: only when nothing is, the budget is used up.
        """
        while holds == line.admission.holds and not self._course.stop.is_set():
            if not (why := self._budget.spent_up()):
                return True
            if not self._budget.in_flight:
                self._course.finish(StoppedEarly(f"{why} and run the same command to go on"))
                return False
            async with self._course.waiting():
                await self._budget.change()
        return False

    async def _turn(self, take: Callable[[], Awaitable[object]], is_taken: bool) -> None:
        if not is_taken:
            await take()
            return
        async with self._course.waiting():
            await take()

    async def _sent(self, line: Line, request: Request) -> Reply | Failure:
        future: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        line.pending[request.key] = request, future
        line.queue.put_nowait(request)
        self._progress.sent += 1
        async with self._course.waiting():
            return await future

    def _give_up(self, line: Line, failure: Failure) -> None:
        self._given_up_in_a_row += 1
        # Who has not answered anybody yet may still be answering the others.
        never = not self._answered_once and failure.worth_retrying and not line.pending
        if never or self._given_up_in_a_row >= _GIVEN_UP_IN_A_ROW:
            self._end(f"gave up asking {line.teacher.name}: {failure.message}")

    def _end(self, why: str) -> None:
        self._course.finish(TeacherUnavailableError(f"{why}; nothing is lost, run the same command later"))
