"""The runner: drives each image's process to its end, as many at a time as there is work for. It knows no capability
and no method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

from compact_hf.errors import StoppedEarly
from compact_hf.records import ImageInfo
from compact_hf.runs.budget import Budget
from compact_hf.runs.dispatcher import Dispatcher, RequestAbandoned, RunState, TeacherQueue
from compact_hf.runs.journal import FinishedImage, Journal
from compact_hf.runs.process import Process, SessionProgress
from compact_hf.runs.rate_limit import RateLimits, RequestThrottle, RetryPolicy
from compact_hf.teachers.base import Reply, Request, Role, Teacher

# Images that are made ready beside those in flight, at least.
_MIN_PREPARED: Final = 4
# Images in hand at a time where requests are sent in batches: enough for the largest.
_BATCH_MAX_ACTIVE: Final = 10_000


class Runner:
    """Run processes over images.

    Args:
        journal (`Journal`): where replies and outcomes go.
        teachers (`Mapping[Role, Teacher]`): who is asked in each role; may be the same in both.
        rate_limits (`RateLimits`): what each of them may be asked at most, at the same time and in a minute.
        budget (`Budget`, *optional*): what the run may cost.
        retry_policy (`RetryPolicy`, *optional*): how long to go on trying.
        stop (`asyncio.Event`, *optional*): once set, nothing new is sent; what is in flight is finished. The runner
            sets it too, where the teacher is gone.
        on_progress (`Callable[[SessionProgress, FinishedImage | None], None]`, *optional*): called after each
            finished image (with it) and after each failure (without).
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
        # A few more than requests in flight, so that the next image is ready when a place gets free; in batches as
        # many as a batch can take.
        max_prepared = rate_limits.in_flight + max(_MIN_PREPARED, rate_limits.in_flight // 4)
        max_active = _BATCH_MAX_ACTIVE if any(teacher.is_batch for teacher in teachers.values()) else max_prepared
        # One queue a teacher, whatever its roles: who is asked to slow down in one is to slow down in all.
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

    async def run(
        self, images: AsyncGenerator[ImageInfo, None], process: Callable[[ImageInfo], Process]
    ) -> SessionProgress:
        """Drive every image to its end.

        Raises:
            StoppedEarly: `stop` was set, the budget is used up, or some images could not be finished; the same run
                goes on.
            TeacherError: the teacher refuses for good, or ended before its last reply.
            TeacherUnavailableError: the teacher cannot be reached, or keeps failing.
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
            # The feeder ends when all is done; a pump only ends before it by an error.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._state.stop_error is not None:
            raise self._state.stop_error
        if self._state.is_incomplete:
            raise StoppedEarly(f"stopped after {self.progress.finished} pictures; the same command goes on")
        if self.progress.unfinished:
            raise StoppedEarly(
                f"{self.progress.unfinished} pictures are unfinished (last: {self.progress.last_failure}); "
                "the same command tries them again"
            )
        return self.progress

    async def _wait_for_interrupt(self) -> None:
        """Return when Ctrl-C is pressed: nobody waits for a batch then, and none is lost.

        A budget that is used up is another matter: what it paid for is waited for.
        """
        await self._state.stop.wait()
        if self._state.stop_error is not None:
            await asyncio.Event().wait()
        self._state.is_incomplete = True

    async def _feed(self, images: AsyncGenerator[ImageInfo, None], process: Callable[[ImageInfo], Process]) -> None:
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
            # A task group: the first error ends the others, and nothing outlives the run.
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
            raise errors.exceptions[0] from None
        finally:
            await images.aclose()

    async def _drive(self, image: ImageInfo, process: Process) -> None:
        try:
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
                self.progress.unfinished += 1
        finally:
            process.close()

    async def _ask_all(self, requests: list[Request]) -> list[Reply]:
        # The image's own motion becomes that of its requests, until the last of them is answered.
        self._state.runnable += len(requests) - 1
        try:
            answers = await asyncio.gather(*map(self._dispatcher.fetch_reply, requests), return_exceptions=True)
        finally:
            self._state.runnable -= len(requests) - 1
        replies: list[Reply] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            replies.append(answer)
        return replies
