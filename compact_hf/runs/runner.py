"""Runs the processes of many images concurrently: passes their requests to the dispatcher and journals their outcomes.

It does not depend on capabilities or methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

from compact_hf.errors import StoppedEarly, UnusableRepliesError
from compact_hf.records import ImageInfo
from compact_hf.runs.budget import Budget
from compact_hf.runs.dispatcher import Dispatcher, RequestAbandoned, RunState, TeacherQueue
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.runs.process import Process, SessionProgress
from compact_hf.runs.rate_limit import RateLimits, RequestThrottle, RetryPolicy
from compact_hf.teachers.base import Reply, Request, Role, Teacher
from compact_hf.wording import format_count

# Minimum number of active images in addition to the requests in flight.
_MIN_PREPARED: Final = 4
# Maximum number of active images if a teacher answers in batches; more than the requests of the largest batch.
_BATCH_MAX_ACTIVE: Final = 10_000
_POLL_S: Final = 0.05


class Runner:
    """Runs one process per image until all have ended.

    Args:
        journal (`Journal`): stores replies and outcomes.
        teachers (`Mapping[Role, Teacher]`): the teacher of each role; several roles may have the same one.
        rate_limits (`RateLimits`): limits on the requests to each teacher, in flight and per minute.
        budget (`Budget`, *optional*): limits the requests and the cost of the run; unlimited by default.
        retry_policy (`RetryPolicy`, *optional*): how often and how long failed requests are retried.
        stop (`asyncio.Event`, *optional*): once set, no new request is sent, and requests in flight are finished. The
            runner also sets it, for example if a teacher is unavailable.
        on_progress (`Callable[[SessionProgress, FinishedImage | None], None]`, *optional*): called after each finished
            image, with the image, and after each failure, with None.
    """

    def __init__(
        self,
        journal: Journal,
        teachers: Mapping[Role, Teacher],
        *,
        rate_limits: RateLimits,
        budget: Budget | None = None,
        retry_policy: RetryPolicy | None = None,
        stop: asyncio.Event | None = None,
        on_progress: Callable[[SessionProgress, FinishedImage | None], None] = lambda progress, finished: None,
    ) -> None:
        self.progress = SessionProgress()
        self._journal = journal
        self._on_progress = on_progress
        # More active images than requests in flight, so that a request is ready when a slot becomes free. With a batch
        # teacher, as many as fill its largest batch.
        max_prepared = rate_limits.in_flight + max(_MIN_PREPARED, rate_limits.in_flight // 4)
        max_active = _BATCH_MAX_ACTIVE if any(teacher.is_batch for teacher in teachers.values()) else max_prepared
        # One queue per teacher, even if it has several roles: an overload in one role slows down all of them.
        queues = {
            id(teacher): TeacherQueue(
                teacher, RequestThrottle(RateLimits(max_active) if teacher.is_batch else rate_limits, retry_policy)
            )
            for teacher in teachers.values()
        }
        self._state = RunState(max_active, stop or asyncio.Event())
        self._dispatcher = Dispatcher(
            journal,
            {role: queues[id(teacher)] for role, teacher in teachers.items()},
            budget=budget or Budget(),
            state=self._state,
            progress=self.progress,
            max_prepared=max_prepared,
            on_failure=lambda: on_progress(self.progress, None),
        )

    def count_in_flight(self) -> int | None:
        """Return the number of requests whose replies are waited for after Ctrl-C; None if the run stops by itself."""
        if self._state.stop_error is not None:
            return None
        return sum(len(queue.pending) for queue in self._dispatcher.queues if not queue.teacher.is_batch)

    async def run(
        self, images: AsyncGenerator[ImageInfo, None], process: Callable[[ImageInfo], Process]
    ) -> SessionProgress:
        """Run the process of each image to its end.

        Args:
            images (`AsyncGenerator[ImageInfo, None]`): the images, read as there is room for them.
            process (`Callable[[ImageInfo], Process]`): returns the process of an image.

        Returns:
            The counters of this session.

        Raises:
            StoppedEarly: `stop` was set, the budget is used up, or some images could not be finished; the same run can
                be resumed.
            TeacherError: a teacher refuses permanently, or its stream ended before its last reply.
            TeacherUnavailableError: a teacher cannot be reached, or keeps failing.
            JournalError: the journal cannot be written.
        """
        feeder = asyncio.ensure_future(self._feed(images, process))
        tasks = [
            feeder,
            *(asyncio.ensure_future(self._dispatcher.receive_replies(queue)) for queue in self._dispatcher.queues),
        ]
        if self._dispatcher.has_batch_teacher:
            tasks.append(asyncio.ensure_future(self._wait_for_interrupt()))
        try:
            # The feeder ends when all images are finished. A receiver ends earlier only by an error, which is raised
            # here.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(self._state.stop_error, UnusableRepliesError):
                self.forget_unusable()
        if self._state.stop_error is not None:
            raise self._state.stop_error
        if self._state.is_incomplete:
            finished = format_count(self.progress.finished, "image")
            raise StoppedEarly(f"stopped after {finished}; run the same command again to resume")
        if self.progress.unfinished:
            if self._dispatcher.rejection is not None and not self._dispatcher.has_answered:
                raise self._dispatcher.rejection
            raise StoppedEarly(
                f"{format_count(self.progress.unfinished, 'image')} could not be finished (last failure: "
                f"{self.progress.last_failure}): run the same command again to retry"
            )
        return self.progress

    def forget_unusable(self) -> UnusableRepliesError | None:
        """Forget the replies of roles without any usable reply, so that they are requested again.

        Returns:
            The error that says so; None if there are no such replies.
        """
        breaker = self._dispatcher.breaker
        if (error := breaker.make_error()) is not None:
            self._journal.forget(breaker.provisional_keys(), breaker.provisional_images())
        return error

    async def _wait_for_interrupt(self) -> None:
        """Return after Ctrl-C, so that the run ends without waiting for batches, which are not lost.

        Requests that are sent one by one are waited for, because their replies would be lost.

        If `stop` was set for another reason, such as a used-up budget, never return: the replies that were paid for
        are waited for.
        """
        await self._state.stop.wait()
        if self._state.stop_error is not None:
            await asyncio.Event().wait()
        while self.count_in_flight():
            await asyncio.sleep(_POLL_S)
        self._state.is_incomplete = True

    async def _feed(self, images: AsyncGenerator[ImageInfo, None], process: Callable[[ImageInfo], Process]) -> None:
        """Start the process of each image, at most `max_active` at a time, and wait until all have ended."""
        state = self._state
        slots = asyncio.Semaphore(state.max_active)

        async def drive(image: ImageInfo) -> None:
            try:
                await self._drive(image, process(image))
            finally:
                state.active -= 1
                state.runnable -= 1
                slots.release()
                await state.on_idle()

        try:
            # A task group: the first error cancels the other images, and no task outlives the run.
            async with asyncio.TaskGroup() as group:
                async for image in images:
                    await slots.acquire()
                    if state.stop.is_set():
                        state.is_incomplete = True
                        break
                    state.active += 1
                    state.runnable += 1
                    group.create_task(drive(image))
                state.is_exhausted = True
                await state.on_idle()
        except BaseExceptionGroup as errors:
            # A task group raises a group of errors, even if there is only one.
            raise errors.exceptions[0] from None
        finally:
            await images.aclose()

    async def _drive(self, image: ImageInfo, process: Process) -> None:
        """Run one process to its end and journal its outcome, or count the image as unfinished."""
        try:
            # The process yields requests, takes their replies in the same order, and ends with its result.
            requests = next(process)
            while True:
                requests = process.send(await self._ask_all(requests))
        except StopIteration as stop_iteration:
            finished_image = FinishedImage(
                image.image_id, image.ref, stop_iteration.value.body, stop_iteration.value.accepted
            )
            self._journal.record_outcome(finished_image)
            self.progress.finished += 1
            self._on_progress(self.progress, finished_image)
        except RequestAbandoned:
            if self._state.stop.is_set():
                self._state.is_incomplete = True
            else:
                # No outcome is journalled, so that the next session retries this image.
                self.progress.unfinished += 1
        finally:
            process.close()

    async def _ask_all(self, requests: list[Request]) -> list[Reply]:
        """Return the replies to concurrent requests of one image, in their order."""
        # `runnable` counts each request instead of the image until all of them are answered.
        self._state.runnable += len(requests) - 1
        try:
            answers = await asyncio.gather(*map(self._dispatcher.fetch_reply, requests), return_exceptions=True)
        finally:
            self._state.runnable -= len(requests) - 1
        # Errors are raised only now, when no request of this image is in flight any more.
        replies: list[Reply] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            replies.append(answer)
        return replies
