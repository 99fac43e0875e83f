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
from compact_hf.runs.process import SessionProgress
from compact_hf.runs.rate_limit import RequestThrottle
from compact_hf.teachers.base import Failure, Reply, Request, Role, Teacher


class RequestAbandoned(Exception):
    """A request that will not be answered in this session; its image stays unfinished."""


class RunState:
    """The state of one run.

    Args:
        max_active (`int`): images that may be in hand at the same time.
        stop (`asyncio.Event`): once set, nothing new is sent.

    Attributes:
        active (`int`): images in hand.
        runnable (`int`): images and requests that do not wait for a reply.
        is_exhausted (`bool`): there are no further images.
        is_incomplete (`bool`): something was left undone because of `stop`.
        stop_error (`CompactError | None`): what set `stop`, where that was not the caller.
        on_idle (`Callable[[], Awaitable[None]]`): awaited whenever something begins to wait.
    """

    def __init__(self, max_active: int, stop: asyncio.Event) -> None:
        self.max_active = max_active
        self.stop = stop
        self.active = 0
        self.runnable = 0
        self.is_exhausted = False
        self.is_incomplete = False
        self.stop_error: CompactError | None = None
        self.on_idle: Callable[[], Awaitable[None]]

    @property
    def is_idle(self) -> bool:
        """Whether every image in hand waits and no other can start."""
        return bool(self.active) and not self.runnable and (self.is_exhausted or self.active == self.max_active)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """While this lasts, one thing that moved waits for a reply, its own or another's."""
        self.runnable -= 1
        try:
            await self.on_idle()
            yield
        finally:
            self.runnable += 1

    def request_stop(self, error: CompactError) -> None:
        """Stop the run, but for what is in flight: it is being paid for."""
        self.stop_error = self.stop_error or error
        self.stop.set()

    def abandon(self) -> NoReturn:
        """Give up a request because of `stop`."""
        self.is_incomplete = True
        raise RequestAbandoned


# So many requests given up in a row mean that the teacher is gone, not that an image is odd.
_MAX_CONSECUTIVE_ABANDONED: Final = 10


@dataclass(slots=True)
class TeacherQueue:
    """One teacher with its queue and gate."""

    teacher: Teacher
    throttle: RequestThrottle
    unsent: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    pending: dict[str, tuple[Request, asyncio.Future[Reply | Failure]]] = field(default_factory=dict)

    async def iter_requests(self) -> AsyncIterator[Request]:
        """Yield what is to be asked, as it comes."""
        while True:
            yield await self.unsent.get()


class Dispatcher:
    """Brings requests to their replies.

    Args:
        journal (`Journal`): where replies go, and where earlier ones are.
        queue_by_role (`Mapping[Role, TeacherQueue]`): whom to ask; the same queue for several roles of one teacher.
        budget (`Budget`): what the run may cost.
        state (`RunState`): the run's.
        progress (`SessionProgress`): the run's.
        max_prepared (`int`): requests made ready at a time for a teacher beside one that answers in batches, with
            thousands of images in hand: all of them would be in memory.
        on_failure (`Callable[[], None]`): called after each failure.
    """

    def __init__(
        self,
        journal: Journal,
        queue_by_role: Mapping[Role, TeacherQueue],
        *,
        budget: Budget,
        state: RunState,
        progress: SessionProgress,
        max_prepared: int,
        on_failure: Callable[[], None],
    ) -> None:
        self.queues = tuple({id(queue): queue for queue in queue_by_role.values()}.values())
        self.has_batch_teacher = any(queue.teacher.is_batch for queue in self.queues)
        self._journal = journal
        self._queue_by_role = queue_by_role
        self._budget = budget
        self._state = state
        self._progress = progress
        self._prepare_slots = asyncio.Semaphore(max_prepared)
        self._on_failure = on_failure
        self._has_answered = False
        self._consecutive_abandoned = 0
        state.on_idle = self.flush_if_idle

    async def fetch_reply(self, request: Request) -> Reply:
        """Return the reply to a request: the journal's, or else the teacher's.

        Raises:
            RequestAbandoned: there is none to be had in this session.
        """
        reply = self._journal.get_reply(request.key)
        if reply is not None:
            return reply
        queue = self._queue_by_role[request.role]
        attempt = 0
        while True:
            answer, hold_count = await self._dispatch(queue, request)
            if isinstance(answer, Reply):
                return answer
            self._progress.failures += 1
            self._progress.last_failure = answer.message
            self._on_failure()
            if answer.is_overloaded:
                if not queue.throttle.record_overload(answer, hold_count):
                    self._stop_run(f"{queue.teacher.name} says for too long that it is overloaded: {answer.message}")
                continue
            attempt += 1
            delay = queue.throttle.retry_delay(answer, hold_count, attempt)
            if delay is None:
                self._record_abandoned(queue, answer)
                raise RequestAbandoned
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state.stop.wait(), delay)

    async def receive_replies(self, queue: TeacherQueue) -> None:
        """Hand a queue's replies over as they come, each journalled before the next is asked for.

        Raises:
            TeacherError: the teacher refuses for good, or ended before its last reply.
            JournalError: the journal cannot be written.
        """
        async with contextlib.aclosing(queue.teacher.ask(queue.iter_requests())) as answers:
            async for answer in answers:
                if answer.key not in queue.pending:
                    continue
                request, future = queue.pending.pop(answer.key)
                if isinstance(answer, Reply):
                    # Before the teacher is asked for the next one, which it may forget this one for.
                    self._journal.record_reply(request.image_id, request.role, answer)
                if not future.done():
                    future.set_result(answer)
        raise TeacherError(f"{queue.teacher.name} ended before its last reply; run the same command to go on")

    async def flush_if_idle(self) -> None:
        """Tell a teacher when no request can come any more before a reply.

        That is so where all its places are taken, or where every image in hand waits and no other can start.
        """
        has_pending = any(queue.pending for queue in self.queues if not queue.teacher.is_batch)
        for queue in self.queues:
            # What another teacher's replies bring belongs into the same batch.
            is_idle = self._state.is_idle and not (has_pending and queue.teacher.is_batch)
            if is_idle or queue.throttle.slots.is_full:
                await queue.teacher.flush()

    async def _dispatch(self, queue: TeacherQueue, request: Request) -> tuple[Reply | Failure, int]:
        """Send a request once there is room for it; return what came back, and after how many holds it was sent."""
        if not self.has_batch_teacher or queue.teacher.is_batch:
            return await self._prepare_and_send(queue, request)
        await self._acquire(self._prepare_slots.acquire, self._prepare_slots.locked())
        try:
            return await self._prepare_and_send(queue, request)
        finally:
            if request.encoded_image is not None:
                request.encoded_image.release()
            self._prepare_slots.release()

    async def _prepare_and_send(self, queue: TeacherQueue, request: Request) -> tuple[Reply | Failure, int]:
        if self._state.stop.is_set():
            self._state.abandon()
        try:
            await queue.teacher.prepare(request)
        except SourceError as error:
            # This image is gone; the others are not.
            return Failure(request.key, str(error), is_retryable=False), queue.throttle.hold_count
        hold_count = await self._acquire_slot(queue)
        try:
            answer = await self._send(queue, request)
            reply = answer if isinstance(answer, Reply) else None
            if reply is not None:
                queue.throttle.record_reply(hold_count, reply.input_tokens + reply.output_tokens)
                self._has_answered = True
                self._consecutive_abandoned = 0
            self._budget.record_result(request.role, reply)
            return answer, hold_count
        finally:
            queue.throttle.slots.release()

    async def _acquire_slot(self, queue: TeacherQueue) -> int:
        """Take a place in flight, and return the number of holds so far."""
        stop = self._state.stop
        while True:
            hold_count = await queue.throttle.wait(stop.is_set)
            await self._acquire(queue.throttle.slots.acquire, queue.throttle.slots.is_full)
            # A hold may have begun meanwhile.
            can_send = hold_count == queue.throttle.hold_count and await queue.throttle.rate_limiter.wait(stop)
            if can_send and await self._wait_for_budget(queue, hold_count):
                self._budget.record_sent()
                return hold_count
            queue.throttle.slots.release()
            if stop.is_set():
                self._state.abandon()

    async def _wait_for_budget(self, queue: TeacherQueue, hold_count: int) -> bool:
        """Return True once the budget has room for one more request, False where another hold or the end comes first.

        What is in flight may still leave room: only when nothing is, the budget is used up.
        """
        while hold_count == queue.throttle.hold_count and not self._state.stop.is_set():
            if not (reason := self._budget.exhausted_reason()):
                return True
            if not self._budget.in_flight:
                self._state.request_stop(StoppedEarly(f"{reason} and run the same command to go on"))
                return False
            async with self._state.waiting():
                await self._budget.wait_for_change()
        return False

    async def _acquire(self, acquire: Callable[[], Awaitable[object]], is_full: bool) -> None:
        if not is_full:
            await acquire()
            return
        async with self._state.waiting():
            await acquire()

    async def _send(self, queue: TeacherQueue, request: Request) -> Reply | Failure:
        future: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        queue.pending[request.key] = request, future
        queue.unsent.put_nowait(request)
        self._progress.sent += 1
        async with self._state.waiting():
            return await future

    def _record_abandoned(self, queue: TeacherQueue, failure: Failure) -> None:
        self._consecutive_abandoned += 1
        # Who has not answered anybody yet may still be answering the others.
        is_unreachable = not self._has_answered and failure.is_retryable and not queue.pending
        if is_unreachable or self._consecutive_abandoned >= _MAX_CONSECUTIVE_ABANDONED:
            self._stop_run(f"gave up asking {queue.teacher.name}: {failure.message}")

    def _stop_run(self, reason: str) -> None:
        self._state.request_stop(TeacherUnavailableError(f"{reason}; nothing is lost, run the same command later"))
