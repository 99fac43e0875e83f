"""The runner: drives each picture's process, sends what it asks, and streams. It knows no capability and no method.

A process is a generator: it yields lists of requests, is sent the replies in the same order, and returns what became
of the picture. It sees nothing but its own picture's replies, so neither timing nor a kill can change what
it asks. Replies that are journalled already are handed over without asking.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field

from compact_hf.engine.admission import Admission, Patience
from compact_hf.engine.budget import Budget
from compact_hf.engine.journal import Finished, Journal
from compact_hf.engine.rates import Limits
from compact_hf.errors import CompactError, SourceError, StoppedEarly, TeacherError, TeacherUnavailableError
from compact_hf.records import Picture
from compact_hf.teachers.teacher import Failure, Reply, Request, Role, Teacher


@dataclass(frozen=True, slots=True)
class Result:
    """What a process returns: what became of its picture (JSON), and how many questions of it are kept."""

    body: str
    accepted: int


Process = Generator[list[Request], list[Reply], Result]

# So many requests given up in a row mean that the teacher is gone, not that a picture is odd.
_GIVEN_UP_IN_A_ROW = 10
# Pictures that are made ready beside those in flight, at least.
_AHEAD = 4
# Pictures in hand at a time where requests are sent in batches: enough for the largest.
_IN_BATCHES = 10_000


@dataclass(slots=True)
class Progress:
    """Where a run stands in this session; the caller may read it at any time."""

    finished: int = 0
    sent: int = 0
    failures: int = 0
    unfinished: int = 0
    last_failure: str = ""


class _GivenUp(Exception):
    """A request that will not be answered in this session; its picture stays unfinished."""


@dataclass(slots=True)
class _Line:
    """One teacher with its queue and gate."""

    teacher: Teacher
    admission: Admission
    queue: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    pending: dict[str, tuple[Request, asyncio.Future[Reply | Failure]]] = field(default_factory=dict)

    async def requests(self) -> AsyncIterator[Request]:
        while True:
            yield await self.queue.get()


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
        # One line a teacher, whatever its roles: who is asked to slow down in one is to slow down in all.
        self._in_batches = any(teacher.in_batches for teacher in teachers.values())
        # A few more than requests in flight, so that the next picture is ready when a place gets free; in batches as
        # many as a batch can take.
        ready = limits.in_flight + max(_AHEAD, limits.in_flight // 4)
        self._hands = _IN_BATCHES if self._in_batches else ready
        unlimited = Limits(self._hands)
        # Beside a teacher that answers in batches another one is asked about thousands of pictures at once: they are
        # made ready as its places get free, or all would be in memory.
        self._ready = asyncio.Semaphore(ready)
        lines = {
            id(teacher): _Line(teacher, Admission(unlimited if teacher.in_batches else limits, patience))
            for teacher in teachers.values()
        }
        self._lines = tuple(lines.values())
        self._line_of = {role: lines[id(teacher)] for role, teacher in teachers.items()}
        self._budget = budget or Budget()
        self._stop = stop or asyncio.Event()
        self._on_progress = on_progress
        self._active = 0  # pictures in hand
        self._moving = 0  # pictures and requests that do not wait for a reply
        self._exhausted = False
        self._cut_short = False
        self._answered_once = False
        self._given_up_in_a_row = 0
        self._ended_by: CompactError | None = None

    async def run(self, pictures: AsyncGenerator[Picture, None], process: Callable[[Picture], Process]) -> Progress:
        """Drive every picture to its end.

        Raises:
            StoppedEarly: `stop` was set, the budget is used up, or some pictures could not be finished; the same run
                goes on.
            TeacherError: the teacher refuses for good, or ended before its last reply.
            TeacherUnavailableError: the teacher cannot be reached, or keeps failing.
            JournalError: the journal cannot be written.
        """
        pumps = [asyncio.ensure_future(self._pump(line)) for line in self._lines]
        feeder = asyncio.ensure_future(self._feed(pictures, process))
        tasks = [feeder, *pumps]
        if any(line.teacher.in_batches for line in self._lines):
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
        if self._ended_by is not None:
            raise self._ended_by
        if self._cut_short:
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
        await self._stop.wait()
        if self._ended_by is not None:
            await asyncio.Event().wait()
        self._cut_short = True

    async def _feed(self, pictures: AsyncGenerator[Picture, None], process: Callable[[Picture], Process]) -> None:
        slots = asyncio.Semaphore(self._hands)

        async def drive(picture: Picture) -> None:
            try:
                await self._drive(picture, process(picture))
            finally:
                self._active -= 1
                self._moving -= 1
                slots.release()
                await self._flush_if_idle()

        try:
            # A task group: the first error ends the others, and nothing outlives the run.
            async with asyncio.TaskGroup() as group:
                async for picture in pictures:
                    await slots.acquire()
                    if self._stop.is_set():
                        self._cut_short = True
                        break
                    self._active += 1
                    self._moving += 1
                    group.create_task(drive(picture))
                self._exhausted = True
                await self._flush_if_idle()
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
        except _GivenUp:
            if self._stop.is_set():
                self._cut_short = True
            else:
                self.progress.unfinished += 1
        finally:
            process.close()

    async def _ask_all(self, requests: list[Request]) -> list[Reply]:
        # The picture's own motion becomes that of its requests, until the last of them is answered.
        self._moving += len(requests) - 1
        try:
            answers = await asyncio.gather(*map(self._ask, requests), return_exceptions=True)
        finally:
            self._moving -= len(requests) - 1
        replies: list[Reply] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            replies.append(answer)
        return replies

    async def _ask(self, request: Request) -> Reply:
        found = self._journal.reply(request.key)
        if found is not None:
            return found
        line = self._line_of[request.role]
        attempt = 0
        while True:
            answer, holds = await self._answer(line, request)
            if isinstance(answer, Reply):
                return answer
            self.progress.failures += 1
            self.progress.last_failure = answer.message
            self._on_progress(self.progress, None)
            if answer.overloaded:
                if not line.admission.overloaded(answer, holds):
                    self._end(f"{line.teacher.name} says for too long that it is overloaded: {answer.message}")
                continue
            attempt += 1
            delay = line.admission.retry_delay(answer, holds, attempt)
            if delay is None:
                self._give_up(line, answer)
                raise _GivenUp
            await self._pause(delay)

    async def _answer(self, line: _Line, request: Request) -> tuple[Reply | Failure, int]:
        """Send a request once there is room for it; return what came back, and after how many holds it was sent."""
        if not self._in_batches or line.teacher.in_batches:
            return await self._prepared(line, request)
        await self._turn(self._ready.acquire, self._ready.locked())
        try:
            return await self._prepared(line, request)
        finally:
            if request.exposure is not None:
                request.exposure.forget()
            self._ready.release()

    async def _prepared(self, line: _Line, request: Request) -> tuple[Reply | Failure, int]:
        if self._stop.is_set():
            self._cut_short = True
            raise _GivenUp
        try:
            await line.teacher.prepare(request)
        except SourceError as error:
            # This picture is gone; the others are not.
            return Failure(request.key, str(error), worth_retrying=False), line.admission.holds
        holds = await self._admitted(line)
        try:
            answer = await self._send(line, request)
            reply = answer if isinstance(answer, Reply) else None
            if reply is not None:
                line.admission.answered(holds, reply.input_tokens + reply.output_tokens)
                self._answered_once = True
                self._given_up_in_a_row = 0
            self._budget.came_back(request.role, reply)
            return answer, holds
        finally:
            line.admission.slots.give_back()

    async def _admitted(self, line: _Line) -> int:
        """Take a place in flight, and return the number of holds so far."""
        while True:
            holds = await line.admission.wait(self._stop.is_set)
            await self._turn(line.admission.slots.take, line.admission.slots.are_taken)
            # A hold may have begun meanwhile.
            ready = holds == line.admission.holds and await line.admission.rates.wait(self._stop)
            if ready and await self._affordable(line, holds):
                self._budget.sent()
                return holds
            line.admission.slots.give_back()
            if self._stop.is_set():
                self._cut_short = True
                raise _GivenUp

    async def _affordable(self, line: _Line, holds: int) -> bool:
        """Return True once the budget has room for one more request, False where another hold or the end comes first.

        What is in flight may still leave room: only when nothing is, the budget is used up.
        """
        while holds == line.admission.holds and not self._stop.is_set():
            if not (why := self._budget.spent_up()):
                return True
            if not self._budget.in_flight:
                self._finish(StoppedEarly(f"{why} and run the same command to go on"))
                return False
            # Who waits for room waits for a reply to somebody else.
            self._moving -= 1
            try:
                await self._flush_if_idle()
                await self._budget.change()
            finally:
                self._moving += 1
        return False

    async def _turn(self, take: Callable[[], Awaitable[object]], is_taken: bool) -> None:
        if not is_taken:
            await take()
            return
        # Who waits for a place waits for a reply to somebody else.
        self._moving -= 1
        try:
            await self._flush_if_idle()
            await take()
        finally:
            self._moving += 1

    async def _send(self, line: _Line, request: Request) -> Reply | Failure:
        future: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        line.pending[request.key] = request, future
        line.queue.put_nowait(request)
        self.progress.sent += 1
        self._moving -= 1
        try:
            await self._flush_if_idle()
            return await future
        finally:
            self._moving += 1

    async def _pause(self, delay: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay)

    def _give_up(self, line: _Line, failure: Failure) -> None:
        self._given_up_in_a_row += 1
        # Who has not answered anybody yet may still be answering the others.
        never = not self._answered_once and failure.worth_retrying and not line.pending
        if never or self._given_up_in_a_row >= _GIVEN_UP_IN_A_ROW:
            self._end(f"gave up asking {line.teacher.name}: {failure.message}")

    def _end(self, why: str) -> None:
        self._finish(TeacherUnavailableError(f"{why}; nothing is lost, run the same command later"))

    def _finish(self, why: CompactError) -> None:
        """Stop the run, but for what is in flight: it is being paid for."""
        self._ended_by = self._ended_by or why
        self._stop.set()

    async def _flush_if_idle(self) -> None:
        """Tell a teacher when no request can come any more before a reply.

        That is so where all its places are taken, or where every picture in hand waits and no other can start.
        """
        waiting = self._active and not self._moving and (self._exhausted or self._active == self._hands)
        live = any(line.pending for line in self._lines if not line.teacher.in_batches)
        for line in self._lines:
            # What another teacher's replies bring belongs into the same batch.
            idle = waiting and not (live and line.teacher.in_batches)
            if idle or line.admission.slots.are_taken:
                await line.teacher.flush()

    async def _pump(self, line: _Line) -> None:
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
