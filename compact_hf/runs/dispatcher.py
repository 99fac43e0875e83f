"""Dispatches requests to teachers: concurrency, rate limits, budget, retries and journaling. One queue per teacher.

`RunState` is shared by all images and requests of a run: it counts what is active and what waits for a reply, and
holds the reason why the run stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn

from compact_hf.errors import CompactError, SourceError, StoppedEarly, TeacherError, TeacherUnavailableError
from compact_hf.runs.breaker import Breaker
from compact_hf.runs.budget import Budget
from compact_hf.runs.journal import Journal
from compact_hf.runs.process import SessionProgress
from compact_hf.runs.rate_limit import RequestThrottle
from compact_hf.teachers.base import Failure, FailureKind, Reply, Request, Role, Teacher


class RequestAbandoned(Exception):
    """Raised when a request will not be answered in this session; its image stays unfinished."""


class RunState:
    """Shared state of a run: active and waiting tasks, idle detection, stop reason.

    Args:
        max_active (`int`): maximum number of images that are processed at the same time.
        stop (`asyncio.Event`): once set, no new request is sent.

    Attributes:
        active (`int`): number of images that are being processed.
        runnable (`int`): number of images and requests that are not waiting for a reply.
        is_exhausted (`bool`): whether the source has no further images.
        is_incomplete (`bool`): whether work was left undone because of `stop`.
        stop_error (`CompactError | None`): the reason why the run itself set `stop`; None if the caller set it.
        on_idle (`Callable[[], Awaitable[None]]`): awaited each time a task begins to wait.
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
        """Whether every active image waits for a reply and no further image can start."""
        return bool(self.active) and not self.runnable and (self.is_exhausted or self.active == self.max_active)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """Count one task as waiting for a reply (its own or another's) while the block runs."""
        self.runnable -= 1
        try:
            # This task may have been the last one that could add a request: a batch is then sent.
            await self.on_idle()
            yield
        finally:
            self.runnable += 1

    def request_stop(self, error: CompactError) -> None:
        """Stop the run, except for requests in flight, which are paid for already.

        Args:
            error (`CompactError`): the reason, which the run raises at its end; the first reason counts.
        """
        self.stop_error = self.stop_error or error
        self.stop.set()

    def abandon(self) -> NoReturn:
        """Abandon a request because of `stop`.

        Raises:
            RequestAbandoned: always.
        """
        self.is_incomplete = True
        raise RequestAbandoned


# This number of requests abandoned in a row means that the teacher is unavailable, not that an image is unusual.
_MAX_CONSECUTIVE_ABANDONED: Final = 10


@dataclass(slots=True)
class TeacherQueue:
    """One teacher with its request queue and its throttle.

    Attributes:
        teacher (`Teacher`): the teacher.
        throttle (`RequestThrottle`): limits the rate and the number of requests in flight.
        unsent (`asyncio.Queue[Request]`): requests that the teacher has not read yet.
        pending (`dict[str, tuple[Request, asyncio.Future]]`): key -> the request and the future of its result, for
            requests without a result yet.
    """

    teacher: Teacher
    throttle: RequestThrottle
    unsent: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    pending: dict[str, tuple[Request, asyncio.Future[Reply | Failure]]] = field(default_factory=dict)

    async def iter_requests(self) -> AsyncIterator[Request]:
        """Yield requests as they are queued; never ends."""
        while True:
            yield await self.unsent.get()


class Dispatcher:
    """Gets a reply for each request, from the journal or from its teacher.

    Args:
        journal (`Journal`): stores replies and returns the stored ones.
        queue_by_role (`Mapping[Role, TeacherQueue]`): the queue of each role's teacher; roles with the same teacher
            share one queue.
        budget (`Budget`): limits the requests and the cost of the run.
        state (`RunState`): shared state of the run.
        progress (`SessionProgress`): counters of the session, updated here.
        max_prepared (`int`): maximum number of prepared requests of a one-by-one teacher if another teacher of the run
            answers in batches. Thousands of images are then active, and preparing all of them would fill the memory.
        on_failure (`Callable[[], None]`): called after each failure.

    Attributes:
        breaker (`Breaker`): watches whether the replies can be used.
        has_answered (`bool`): whether any request of this session was answered.
        rejection (`TeacherError | None`): the newest rejection of a request, as an error of the run; it counts if no
            request was answered.
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
        self.breaker = Breaker({role: queue.teacher.name for role, queue in queue_by_role.items()})
        self.rejection: TeacherError | None = None
        self.has_answered = False
        self._consecutive_abandoned = 0
        state.on_idle = self.flush_if_idle

    async def fetch_reply(self, request: Request) -> Reply:
        """Return the reply to a request from the journal, or else ask the teacher, with retries.

        Args:
            request (`Request`): the request.

        Returns:
            The reply, which is in the journal.

        Raises:
            RequestAbandoned: the request cannot be answered in this session.
        """
        # A reply of an earlier session is paid for already: ask only for what is missing.
        reply = self._journal.get_reply(request.key)
        if reply is not None:
            return reply
        queue = self._queue_by_role[request.role]
        attempt = 0
        while True:
            # One send per pass, until there is a reply or the request is abandoned.
            answer, hold_count = await self._dispatch(queue, request)
            if isinstance(answer, Reply):
                return self._check_usable(request, answer)
            if answer.error is not None:
                self._state.request_stop(answer.error)
                self._state.abandon()
            if answer.kind is FailureKind.OVERLOADED:
                self._report(answer, is_retrying=True)
                # Not counted as an attempt: overload says nothing about this request.
                if not queue.throttle.record_overload(answer, hold_count):
                    self._postpone_run(f"{queue.teacher.name} has been overloaded for too long: {answer.message}")
                continue
            attempt += 1
            delay = queue.throttle.retry_delay(answer, hold_count, attempt)
            # Not retryable, no attempt is left, or the server asks for too long a delay.
            if delay is None:
                if answer.billed is not None and answer.is_last_resort:
                    self._journal.promote_unused(request.image_id, request.role, answer.billed)
                    return self._check_usable(request, answer.billed)
                self._report(answer, is_retrying=False)
                if queue.throttle.is_too_long(answer):
                    self._postpone_run(f"{queue.teacher.name} asks for a long delay: {answer.message}")
                else:
                    self._record_abandoned(queue, answer)
                raise RequestAbandoned
            self._report(answer, is_retrying=True)
            with contextlib.suppress(TimeoutError):
                # Sleep, but wake up when the run stops; the next dispatch then abandons the request.
                await asyncio.wait_for(self._state.stop.wait(), delay)

    async def receive_replies(self, queue: TeacherQueue) -> None:
        """Deliver the results of a queue's teacher to the waiting requests; journal each reply before reading the next.

        Args:
            queue (`TeacherQueue`): the queue to serve.

        Raises:
            TeacherError: the teacher refuses permanently, or its stream ended before its last reply.
            JournalError: the journal cannot be written.
        """
        async with contextlib.aclosing(queue.teacher.ask(queue.iter_requests())) as answers:
            async for answer in answers:
                if answer.key not in queue.pending:
                    continue
                request, future = queue.pending.pop(answer.key)
                # Write before reading the next answer: a batch teacher then forgets this one.
                answer = self._record_answer(request, answer)
                # The task that waited may have been cancelled.
                if not future.done():
                    future.set_result(answer)
        raise TeacherError(
            f"the stream of {queue.teacher.name} ended before its last reply; run the same command again to resume"
        )

    def _record_answer(self, request: Request, answer: Reply | Failure) -> Reply | Failure:
        """Journal what was billed, with an estimate of tokens that the service did not state; return the answer."""
        if isinstance(answer, Reply):
            answer = self._budget.estimate_usage(request, answer)
            self._journal.record_reply(request.image_id, request.role, answer)
        elif answer.billed is not None:
            billed = self._budget.estimate_usage(request, answer.billed)
            self._journal.record_unused(request.image_id, request.role, billed)
            answer = replace(answer, billed=billed)
        return answer

    async def flush_if_idle(self) -> None:
        """Flush each teacher that cannot get another request before its next reply.

        This is the case if all its slots are taken, or if every active image waits and no further image can start.
        """
        has_pending = any(queue.pending for queue in self.queues if not queue.teacher.is_batch)
        for queue in self.queues:
            # Replies of other teachers may lead to more requests for the same batch, so wait for them first.
            is_idle = self._state.is_idle and not (has_pending and queue.teacher.is_batch)
            if is_idle or queue.throttle.slots.is_full:
                await queue.teacher.flush()

    async def _dispatch(self, queue: TeacherQueue, request: Request) -> tuple[Reply | Failure, int]:
        """Send a request when the limits allow it; return its result and the number of holds before it was sent."""
        # Only a one-by-one teacher beside a batch teacher needs the limit on prepared requests.
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
        """Encode the image, wait for a slot, send the request, and count its result."""
        if self._state.stop.is_set():
            self._state.abandon()
        try:
            await queue.teacher.prepare(request)
        except SourceError as error:
            # Only this image is lost; the run continues with the others.
            return Failure(request.key, str(error), FailureKind.LOST), queue.throttle.hold_count
        hold_count = await self._acquire_slot(queue, request.role)
        billed: Reply | None = None
        try:
            answer = await self._send(queue, request)
            if isinstance(answer, Reply):
                queue.throttle.record_reply(hold_count, answer.input_tokens + answer.output_tokens)
                self.has_answered = True
                self._consecutive_abandoned = 0
            billed = answer if isinstance(answer, Reply) else answer.billed
            return answer, hold_count
        finally:
            self._budget.record_result(request.role, billed)
            queue.throttle.slots.release()

    async def _acquire_slot(self, queue: TeacherQueue, role: Role) -> int:
        """Wait until a request may be sent, take its slot and charge the budget; return the number of holds so far."""
        stop = self._state.stop
        while True:
            hold_count = await queue.throttle.wait(stop.is_set)
            await self._acquire(queue.throttle.slots.acquire, queue.throttle.slots.is_full)
            if await self._reserve_budget(queue, role, hold_count):
                # The rate comes last, so that nothing waits between it and sending. A hold may have begun while waiting
                # for any of these: then give all of them back and wait again.
                if await queue.throttle.rate_limiter.wait(stop) and hold_count == queue.throttle.hold_count:
                    return hold_count
                self._budget.record_result(role, None)
            queue.throttle.slots.release()
            if stop.is_set():
                self._state.abandon()

    async def _reserve_budget(self, queue: TeacherQueue, role: Role, hold_count: int) -> bool:
        """Charge one more request when the budget allows it; return False if a hold or the end of the run comes first.

        Requests in flight may turn out cheaper than assumed. The budget is used up only if none is in flight.
        """
        try:
            while hold_count == queue.throttle.hold_count and not self._state.stop.is_set():
                if self._budget.can_send(role):
                    self._budget.reserve(role)
                    return True
                if not self._budget.in_flight:
                    reason = self._budget.exhausted_reason(role)
                    self._state.request_stop(StoppedEarly(f"{reason} and run the same command again to resume"))
                    return False
                async with self._state.waiting():
                    await self._budget.wait_for_change(role)
            return False
        finally:
            self._budget.wake_next(role)

    async def _acquire(self, acquire: Callable[[], Awaitable[object]], is_full: bool) -> None:
        """Acquire a slot; the task counts as waiting only if it cannot get one at once."""
        if not is_full:
            await acquire()
            return
        async with self._state.waiting():
            await acquire()

    async def _send(self, queue: TeacherQueue, request: Request) -> Reply | Failure:
        """Queue a request for its teacher and wait for its result."""
        # `receive_replies` sets the result and removes the request from `pending`.
        future: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        queue.pending[request.key] = request, future
        queue.unsent.put_nowait(request)
        self._progress.sent += 1
        async with self._state.waiting():
            return await future

    def _record_abandoned(self, queue: TeacherQueue, failure: Failure) -> None:
        """Count an abandoned request, and stop the run if its teacher appears to be unavailable."""
        if failure.kind is FailureKind.LOST:
            return
        self._consecutive_abandoned += 1
        if failure.kind is FailureKind.REJECTED and not self.has_answered:
            self.rejection = TeacherError(
                f"{queue.teacher.name} rejects every request ({failure.message}): check --teacher and --teacher-url, "
                "and what the server's documentation says about this error"
            )
            if self.breaker.record_rejection(failure):
                self._state.request_stop(self.rejection)
        # A teacher without any reply yet counts as unreachable only when no other request is still pending.
        is_unreachable = not self.has_answered and failure.kind is FailureKind.TRANSIENT and not queue.pending
        if is_unreachable or self._consecutive_abandoned >= _MAX_CONSECUTIVE_ABANDONED:
            self._stop_run(f"gave up asking {queue.teacher.name}: {failure.message}")

    def _check_usable(self, request: Request, reply: Reply) -> Reply:
        """Return the reply; stop the run if the teacher's replies are never usable."""
        if (error := self.breaker.record_reply(request, reply)) is not None:
            self._state.request_stop(error)
        return reply

    def _report(self, failure: Failure, *, is_retrying: bool) -> None:
        self._progress.failures += 1
        self._progress.last_failure = failure.message
        self._progress.is_retrying = is_retrying
        self._on_failure()

    def _postpone_run(self, reason: str) -> None:
        """Stop the run because waiting helps, but would take too long."""
        self._state.request_stop(StoppedEarly(f"{reason}; nothing is lost, run the same command later"))

    def _stop_run(self, reason: str) -> None:
        self._state.request_stop(TeacherUnavailableError(f"{reason}; nothing is lost, run the same command later"))
