"""Gemini's batch API as teacher or verifier: half the price, and answers within hours. The key is that of `gemini`.

In: requests with a prompt, an image and a pydantic schema, all of a flush together. Out: the model's JSON text,
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
from compact_hf.teachers.gemini import KEY_VARIABLES, TIMEOUT_S
from compact_hf.teachers.gemini_batch.client import BatchService
from compact_hf.teachers.gemini_batch.scheduler import BatchLimits, BatchTiming, JobScheduler
from compact_hf.teachers.gemini_batch.store import Job, JobStore, read_results
from compact_hf.teachers.http import parse_server_url, read_api_key
from compact_hf.teachers.registry import GEMINI_MODEL, TeacherSettings

_POLL_GROWTH: Final = 1.5


class GeminiBatch:
    """Ask one Gemini model in batches.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): the model's name, without `models/`.
        state_dir (`Path`): the run folder, in which the jobs are remembered.
        url (`str`, *optional*): another server that speaks Gemini's REST protocol.
        on_wait (`Callable[[str], None]`, *optional*): told in one line what is waited for, at every look.
        timing (`BatchTiming`, *optional*): how long to wait for what.
        limits (`BatchLimits`, *optional*): what a job holds at most.
        timeout_s (`float`, *optional*, defaults to 120): for each call, in seconds.

    Raises:
        UsageError: no usable key in the environment, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    source_type: str | None = None
    is_batch = True

    def __init__(
        self,
        model: str = GEMINI_MODEL,
        *,
        state_dir: Path,
        url: str | None = None,
        on_wait: Callable[[str], None] = lambda line: None,
        timing: BatchTiming | None = None,
        limits: BatchLimits | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._key = read_api_key(KEY_VARIABLES)
        if not self._key:
            raise UsageError(
                "the teacher gemini-batch needs a key and found none: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the "
                "environment"
            )
        self._server = "the Gemini API" if url is None else parse_server_url(url)
        self.name = f"gemini-batch:{model}"
        self._model = model
        self._url = url
        self._on_wait = on_wait
        self._timing = timing or BatchTiming()
        self._limits = limits or BatchLimits()
        self._timeout_s = timeout_s
        self._store = JobStore(state_dir, f"{self.name} at {self._server}")
        self._service: BatchService | None = None
        self._requests: dict[str, Request] = {}
        self._arrivals = 0
        self._is_exhausted = False
        self._flush_event = asyncio.Event()
        self._pause_s = self._timing.initial_poll_s

    async def prepare(self, request: Request) -> None:
        """See `Teacher.prepare`. Nothing: images are encoded as they are written, or all would be in memory."""

    async def flush(self) -> None:
        """See `Teacher.flush`: what was asked goes out together."""
        self._flush_event.set()

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
        scheduler = JobScheduler(
            self._store, self._service, timing=self._timing, limits=self._limits, on_wait=self._on_wait
        )
        feeder = asyncio.ensure_future(self._feed(requests))
        try:
            while self._requests or not self._is_exhausted:
                is_flushed = await self._wait_for_flush(feeder, has_jobs=bool(scheduler.active_jobs(self._requests)))
                await scheduler.advance_jobs(self._requests)
                # Answers that are here go first: what follows from them goes out with what waits.
                if is_flushed and not scheduler.collected_jobs(self._requests):
                    for failure in await self._send(scheduler):
                        yield self._deliver(failure)
                for job in scheduler.collected_jobs(self._requests):
                    for answer in self._iter_answers(job):
                        yield self._deliver(answer)
                    scheduler.release_job(job)
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            scheduler.clean_up(self._requests)
            if running_jobs := scheduler.describe_running(self._requests):
                self._on_wait(
                    f"{running_jobs} left running at {self._server}; the same command collects what comes of it"
                )

    async def _send(self, scheduler: JobScheduler) -> list[Failure]:
        """Write and send what is in no job yet; return a failure for each image that cannot be read any more."""
        job_keys = scheduler.keys()
        new_requests = deque(request for key, request in self._requests.items() if key not in job_keys)
        failures: list[Failure] = []
        while new_requests:
            failures += await scheduler.write_job(new_requests)
            await scheduler.advance_jobs(self._requests)
        return failures

    async def _feed(self, requests: AsyncIterator[Request]) -> None:
        try:
            async for request in requests:
                self._requests[request.key] = request
                self._arrivals += 1
        finally:
            self._is_exhausted = True
            self._flush_event.set()

    async def _wait_for_flush(self, feeder: asyncio.Future[None], *, has_jobs: bool) -> bool:
        """Return True once nothing more can come before an answer, False when it is time to look at the jobs again."""
        pause_s = self._pause_s if has_jobs else None
        self._pause_s = min(self._pause_s * _POLL_GROWTH, self._timing.max_poll_s)
        try:
            await asyncio.wait_for(self._flush_event.wait(), pause_s)
        except TimeoutError:
            return False
        if feeder.done():
            feeder.result()
        # A job costs minutes at least: what follows from the last answers can be waited for.
        arrivals = -1
        while arrivals != self._arrivals and not self._is_exhausted:
            arrivals = self._arrivals
            await asyncio.sleep(self._timing.settle_s)
        self._flush_event.clear()
        self._pause_s = self._timing.initial_poll_s
        return True

    def _iter_answers(self, job: Job) -> Iterator[Reply | Failure]:
        """Yield an answer to each request of an ended job that is asked for; what it left out failed."""
        keys = {key for key in job.keys if key in self._requests}
        # At once: a request that failed may be asked again while the others are still handed over.
        job.keys = [key for key in job.keys if key not in keys]
        results = self._store.results_path(job)
        with self._store.record_delivered(job) as record:
            for answer in read_results(results, self._model) if results.exists() else ():
                if answer.key in keys:
                    keys.remove(answer.key)
                    record(answer.key)
                    yield answer
            for key in sorted(keys):
                record(key)
                yield Failure(key, f"the batch {job.ended}")

    def _deliver(self, answer: Reply | Failure) -> Reply | Failure:
        del self._requests[answer.key]
        # It may lead to new requests, which are to go out together: another flush tells when, if any can come.
        if self._is_exhausted:
            self._flush_event.set()
        else:
            self._flush_event.clear()
        return answer


def open_gemini_batch(model: str, settings: TeacherSettings) -> GeminiBatch:
    """Return the teacher `gemini-batch`; see `teachers.registry.Backend`."""
    return GeminiBatch(model, state_dir=settings.state_dir, url=settings.url, on_wait=settings.on_wait)
