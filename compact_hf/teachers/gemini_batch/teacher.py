"""Gemini's batch API as teacher or verifier: half the price, and answers within hours. The key is that of `gemini`.

In: requests with a prompt, a picture and a pydantic schema, all of a flush together. Out: the model's JSON text,
unparsed. What was sent is remembered in the run folder (store.py): after a kill at any moment the same requests
are attached to the jobs that hold them, and nothing is sent twice.

compact generate PICTURES --out RUN --teacher gemini-batch --preset efficient
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.gemini import DEFAULT_MODEL, KEY_VARIABLES, TIMEOUT_S
from compact_hf.teachers.gemini_batch.client import BatchService
from compact_hf.teachers.gemini_batch.scheduler import Dispatch, Limits, Pace
from compact_hf.teachers.gemini_batch.store import Job, JobFolder, read_results
from compact_hf.teachers.http import key_in, server_of

_GROWTH: Final = 1.5


class GeminiBatch:
    """Ask one Gemini model in batches.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): the model's name, without `models/`.
        state_dir (`Path`): the run folder, in which the jobs are remembered.
        url (`str`, *optional*): another server that speaks Gemini's REST protocol.
        on_wait (`Callable[[str], None]`, *optional*): told in one line what is waited for, at every look.
        pace (`Pace`, *optional*): how long to wait for what.
        limits (`Limits`, *optional*): what a job holds at most.
        timeout_s (`float`, *optional*, defaults to 120): for each call, in seconds.

    Raises:
        UsageError: no usable key in the environment, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    sources: str | None = None
    in_batches = True

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        state_dir: Path,
        url: str | None = None,
        on_wait: Callable[[str], None] = lambda line: None,
        pace: Pace | None = None,
        limits: Limits | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._key = key_in(KEY_VARIABLES)
        if not self._key:
            raise UsageError(
                "the teacher gemini-batch needs a key and found none: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the "
                "environment"
            )
        self._server = "the Gemini API" if url is None else server_of(url)
        self.name = f"gemini-batch:{model}"
        self._model = model
        self._url = url
        self._on_wait = on_wait
        self._pace = pace or Pace()
        self._limits = limits or Limits()
        self._timeout_s = timeout_s
        self._folder = JobFolder(state_dir, f"{self.name} at {self._server}")
        self._service: BatchService | None = None
        self._asked: dict[str, Request] = {}
        self._arrived = 0
        self._exhausted = False
        self._flushed = asyncio.Event()
        self._pause_s = self._pace.first_s

    async def prepare(self, request: Request) -> None:
        """See `Teacher.prepare`. Nothing: pictures are encoded as they are written, or all would be in memory."""

    async def flush(self) -> None:
        """See `Teacher.flush`: what was asked goes out together."""
        self._flushed.set()

    async def close(self) -> None:
        """Close the connections; jobs go on at the service."""
        if self._service is not None:
            await self._service.close()
            self._service = None

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`. Whoever takes an answer keeps it before asking for the next: then it is forgotten here.

        Raises:
            TeacherError: the service refuses the key, the model or the batch.
            TeacherUnavailableError: the service was out of reach for too long; the same requests go on.
            JournalError: the run folder cannot be read or written.
        """
        self._service = self._service or BatchService(
            self.name, self._model, key=self._key, server=self._server, url=self._url, timeout_s=self._timeout_s
        )
        dispatch = Dispatch(self._folder, self._service, pace=self._pace, limits=self._limits, on_wait=self._on_wait)
        feeder = asyncio.ensure_future(self._feed(requests))
        try:
            while self._asked or not self._exhausted:
                flushed = await self._woken(feeder, waiting=bool(dispatch.due(self._asked)))
                await dispatch.look_after(self._asked)
                # Answers that are here go first: what follows from them goes out with what waits.
                if flushed and not dispatch.collected(self._asked):
                    for failure in await self._send(dispatch):
                        yield self._handed_over(failure)
                for job in dispatch.collected(self._asked):
                    for answer in self._answers(job):
                        yield self._handed_over(answer)
                    dispatch.handed_over(job)
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            dispatch.tidy(self._asked)
            if running := dispatch.running(self._asked):
                self._on_wait(f"{running} left running at {self._server}; the same command collects what comes of it")

    async def _send(self, dispatch: Dispatch) -> list[Failure]:
        """Write and send what is in no job yet; return a failure for each picture that cannot be read any more."""
        held = dispatch.keys()
        fresh = deque(request for key, request in self._asked.items() if key not in held)
        failures: list[Failure] = []
        while fresh:
            failures += await dispatch.write(fresh)
            await dispatch.look_after(self._asked)
        return failures

    async def _feed(self, requests: AsyncIterator[Request]) -> None:
        try:
            async for request in requests:
                self._asked[request.key] = request
                self._arrived += 1
        finally:
            self._exhausted = True
            self._flushed.set()

    async def _woken(self, feeder: asyncio.Future[None], *, waiting: bool) -> bool:
        """Return True once nothing more can come before an answer, False when it is time to look at the jobs again."""
        pause_s = self._pause_s if waiting else None
        self._pause_s = min(self._pause_s * _GROWTH, self._pace.longest_s)
        try:
            await asyncio.wait_for(self._flushed.wait(), pause_s)
        except TimeoutError:
            return False
        if feeder.done():
            feeder.result()
        # A job costs minutes at least: what follows from the last answers can be waited for.
        arrived = -1
        while arrived != self._arrived and not self._exhausted:
            arrived = self._arrived
            await asyncio.sleep(self._pace.settle_s)
        self._flushed.clear()
        self._pause_s = self._pace.first_s
        return True

    def _answers(self, job: Job) -> Iterator[Reply | Failure]:
        """Yield an answer to each request of an ended job that is asked for; what it left out failed."""
        due = {key for key in job.keys if key in self._asked}
        # At once: a request that failed may be asked again while the others are still handed over.
        job.keys = [key for key in job.keys if key not in due]
        results = self._folder.results(job)
        with self._folder.handing(job) as handing:
            for answer in read_results(results, self._model) if results.exists() else ():
                if answer.key in due:
                    due.remove(answer.key)
                    handing(answer.key)
                    yield answer
            for key in sorted(due):
                handing(key)
                yield Failure(key, f"the batch {job.ended}")

    def _handed_over(self, answer: Reply | Failure) -> Reply | Failure:
        del self._asked[answer.key]
        # It may lead to new requests, which are to go out together: another flush tells when, if any can come.
        if self._exhausted:
            self._flushed.set()
        else:
            self._flushed.clear()
        return answer
