"""The runner: drives each picture's process to its end, as many at a time as there is work for. It knows no capability
and no method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

from compact_hf.errors import StoppedEarly
from compact_hf.records import Picture
from compact_hf.runs.budget import Budget
from compact_hf.runs.dispatcher import Asking, Course, GivenUp, Line
from compact_hf.runs.journal import Finished, Journal
from compact_hf.runs.process import Process, Progress
from compact_hf.runs.rate_limit import Admission, Limits, Patience
from compact_hf.teachers.base import Reply, Request, Role, Teacher

# Pictures that are made ready beside those in flight, at least.
_AHEAD: Final = 4
# Pictures in hand at a time where requests are sent in batches: enough for the largest.
_IN_BATCHES: Final = 10_000


class Runner:
    """Run processes over pictures.

    Args:
        journal (`Journal`): where replies and outcomes go.
        teachers (`Mapping[Role, Teacher]`): who is asked in each role; may be the same in both.
        limits (`Limits`): what each of them may be asked at most, at the same time and in a minute.
        budget (`Budget`, *optional*): what the run may cost.
        patience (`Patience`, *optional*): how long to go on trying.
        stop (`asyncio.Event`, *optional*): once set, nothing new is sent; what is in flight is finished. The runner
            sets it too, where the teacher is gone.
        on_progress (`Callable[[Progress, Finished | None], None]`, *optional*): called after each finished picture
            (with it) and after each failure (without).
    """

    def __init__(
        self,
        journal: Journal,
        teachers: Mapping[Role, Teacher],
        *,
        limits: Limits,
        budget: Budget | None = None,
        patience: Patience | None = None,
        stop: asyncio.Event | None = None,
        on_progress: Callable[[Progress, Finished | None], None] = lambda progress, finished: None,
    ) -> None:
        self.progress = Progress()
        self._journal = journal
        self._on_progress = on_progress
        # A few more than requests in flight, so that the next picture is ready when a place gets free; in batches as
        # many as a batch can take.
        ready = limits.in_flight + max(_AHEAD, limits.in_flight // 4)
        hands = _IN_BATCHES if any(teacher.in_batches for teacher in teachers.values()) else ready
        # One line a teacher, whatever its roles: who is asked to slow down in one is to slow down in all.
        lines = {
            id(teacher): Line(teacher, Admission(Limits(hands) if teacher.in_batches else limits, patience))
            for teacher in teachers.values()
        }
        self._course = Course(hands, stop or asyncio.Event())
        self._asking = Asking(
            journal,
            {role: lines[id(teacher)] for role, teacher in teachers.items()},
            budget=budget or Budget(),
            course=self._course,
            progress=self.progress,
            ready=ready,
            on_failure=lambda: on_progress(self.progress, None),
        )

    async def run(self, pictures: AsyncGenerator[Picture, None], process: Callable[[Picture], Process]) -> Progress:
        """Drive every picture to its end.

        Raises:
            StoppedEarly: `stop` was set, the budget is used up, or some pictures could not be finished; the same run
                goes on.
            TeacherError: the teacher refuses for good, or ended before its last reply.
            TeacherUnavailableError: the teacher cannot be reached, or keeps failing.
            JournalError: the journal cannot be written.
        """
        feeder = asyncio.ensure_future(self._feed(pictures, process))
        tasks = [feeder, *(asyncio.ensure_future(self._asking.pump(line)) for line in self._asking.lines)]
        if self._asking.in_batches:
            tasks.append(asyncio.ensure_future(self._left()))
        try:
            # The feeder ends when all is done; a pump only ends before it by an error.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._course.ended_by is not None:
            raise self._course.ended_by
        if self._course.cut_short:
            raise StoppedEarly(f"stopped after {self.progress.finished} pictures; the same command goes on")
        if self.progress.unfinished:
            raise StoppedEarly(
                f"{self.progress.unfinished} pictures are unfinished (last: {self.progress.last_failure}); "
                "the same command tries them again"
            )
        return self.progress

    async def _left(self) -> None:
        """Return when Ctrl-C is pressed: nobody waits for a batch then, and none is lost.

        A budget that is used up is another matter: what it paid for is waited for.
        """
        await self._course.stop.wait()
        if self._course.ended_by is not None:
            await asyncio.Event().wait()
        self._course.cut_short = True

    async def _feed(self, pictures: AsyncGenerator[Picture, None], process: Callable[[Picture], Process]) -> None:
        course = self._course
        hands = asyncio.Semaphore(course.hands)

        async def drive(picture: Picture) -> None:
            try:
                await self._drive(picture, process(picture))
            finally:
                course.active -= 1
                course.moving -= 1
                hands.release()
                await course.when_idle()

        try:
            # A task group: the first error ends the others, and nothing outlives the run.
            async with asyncio.TaskGroup() as group:
                async for picture in pictures:
                    await hands.acquire()
                    if course.stop.is_set():
                        course.cut_short = True
                        break
                    course.active += 1
                    course.moving += 1
                    group.create_task(drive(picture))
                course.exhausted = True
                await course.when_idle()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await pictures.aclose()

    async def _drive(self, picture: Picture, process: Process) -> None:
        try:
            requests = next(process)
            while True:
                requests = process.send(await self._ask_all(requests))
        except StopIteration as end:
            finished = Finished(picture.image_id, picture.ref, end.value.body, end.value.accepted)
            self._journal.record_outcome(finished)
            self.progress.finished += 1
            self._on_progress(self.progress, finished)
        except GivenUp:
            if self._course.stop.is_set():
                self._course.cut_short = True
            else:
                self.progress.unfinished += 1
        finally:
            process.close()

    async def _ask_all(self, requests: list[Request]) -> list[Reply]:
        # The picture's own motion becomes that of its requests, until the last of them is answered.
        self._course.moving += len(requests) - 1
        try:
            answers = await asyncio.gather(*map(self._asking.reply_to, requests), return_exceptions=True)
        finally:
            self._course.moving -= len(requests) - 1
        replies: list[Reply] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            replies.append(answer)
        return replies
