"""Implements the teacher `gemini-batch`, which uses Gemini's batch API: half the price, answers within hours.

    compact generate IMAGES --out RUN --teacher gemini-batch --preset efficient

A request has a prompt, an image and a pydantic schema; a reply is the model's JSON text, unparsed. The requests of a
flush are sent together. Jobs are stored in the run directory (store.py): after a kill at any moment, a resumed run
matches its requests to the existing jobs, and nothing is sent twice. The key is the same as for `gemini`.
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

_POLL_GROWTH: Final = 1.5  # factor by which the pause between two polls grows


class GeminiBatch:
    """Teacher that asks one Gemini model in batches.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): name of the model, without `models/`.
        state_dir (`Path`): run directory, in which the jobs are stored.
        url (`str`, *optional*): URL of another server that speaks Gemini's REST protocol.
        on_wait (`Callable[[str], None]`, *optional*): called at each poll with a line that says what is waited for.
        timing (`BatchTiming`, *optional*): waiting times.
        limits (`BatchLimits`, *optional*): limits on the size of a job.
        timeout_s (`float`, *optional*, defaults to 120): timeout of each call in seconds.

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
        # State between `_feed`, which reads requests, and `ask`, which sends them and yields answers.
        # `_requests`: key -> request, for all requests without an answer.
        self._requests: dict[str, Request] = {}
        self._arrivals = 0
        self._is_exhausted = False
        self._flush_event = asyncio.Event()
        self._pause_s = self._timing.initial_poll_s

    async def prepare(self, request: Request) -> None:
        """Do nothing: each image is encoded when its request is written, because all of them would fill the memory.

        Args:
            request (`Request`): a request that will be sent soon.
        """

    async def flush(self) -> None:
        """Send all requests that wait, as one or more jobs; see `Teacher.flush`."""
        self._flush_event.set()

    async def close(self) -> None:
        """Close the connections; submitted jobs continue at the service."""
        if self._service is not None:
            await self._service.close()
            self._service = None

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield one `Reply` or `Failure` per request; see `Teacher.ask`.

        The caller must store an answer before it reads the next one, because the teacher then deletes it.

        Args:
            requests (`AsyncIterator[Request]`): the requests.

        Raises:
            TeacherError: the service refuses the key, the model or the batch permanently.
            TeacherUnavailableError: the service could not be used for too long; the same requests resume the jobs.
            JournalError: the run directory cannot be read or written.
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
                # Deliver collected answers first: the requests that follow from them join the next job.
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
                    f"{running_jobs} left running at {self._server}; run the same command again to collect the results"
                )

    async def _send(self, scheduler: JobScheduler) -> list[Failure]:
        """Send the requests that are in no job yet; return a failure for each image that can no longer be read."""
        job_keys = scheduler.keys()
        new_requests = deque(request for key, request in self._requests.items() if key not in job_keys)
        failures: list[Failure] = []
        while new_requests:
            failures += await scheduler.write_job(new_requests)
            await scheduler.advance_jobs(self._requests)
        return failures

    async def _feed(self, requests: AsyncIterator[Request]) -> None:
        """Read the request stream to its end, which counts as a flush."""
        try:
            async for request in requests:
                self._requests[request.key] = request
                self._arrivals += 1
        finally:
            self._is_exhausted = True
            self._flush_event.set()

    async def _wait_for_flush(self, feeder: asyncio.Future[None], *, has_jobs: bool) -> bool:
        """Return True when no request can come before the next answer, False when it is time to poll the jobs."""
        pause_s = self._pause_s if has_jobs else None
        self._pause_s = min(self._pause_s * _POLL_GROWTH, self._timing.max_poll_s)
        try:
            await asyncio.wait_for(self._flush_event.wait(), pause_s)
        except TimeoutError:
            return False
        if feeder.done():
            feeder.result()
        # A job takes minutes at least, so wait until the requests that follow from the last answers have arrived.
        arrivals = -1
        while arrivals != self._arrivals and not self._is_exhausted:
            arrivals = self._arrivals
            await asyncio.sleep(self._timing.settle_s)
        self._flush_event.clear()
        self._pause_s = self._timing.initial_poll_s
        return True

    def _iter_answers(self, job: Job) -> Iterator[Reply | Failure]:
        """Yield an answer to each waiting request of a collected job; a request that the job left out has failed."""
        keys = {key for key in job.keys if key in self._requests}
        # Update the job before yielding: a failed request may be sent again while other answers are still delivered.
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
        """Remove the request of an answer, and require another flush before requests are sent."""
        del self._requests[answer.key]
        # The answer may lead to new requests, which should be sent together: wait for the flush that follows them. If
        # the stream has ended, no new requests can come.
        if self._is_exhausted:
            self._flush_event.set()
        else:
            self._flush_event.clear()
        return answer


def open_gemini_batch(model: str, settings: TeacherSettings) -> GeminiBatch:
    """Return the teacher `gemini-batch`; see `opener` of `teachers.registry.Backend`.

    Args:
        model (`str`): name of the model.
        settings (`TeacherSettings`): its `state_dir`, `url` and `on_wait` are used.
    """
    return GeminiBatch(model, state_dir=settings.state_dir, url=settings.url, on_wait=settings.on_wait)
