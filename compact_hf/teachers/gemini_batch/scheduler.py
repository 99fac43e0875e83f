"""Takes the jobs of a Gemini batch teacher from stage to stage: written, uploaded, submitted, collected.

Each stage is on disk before the next begins. What may be at the service without standing here (a kill or a lost answer
between) is looked for there by its display name before it is sent again.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final

from compact_hf.errors import TeacherUnavailableError
from compact_hf.teachers.base import Failure, Request
from compact_hf.teachers.gemini_batch.client import BatchService, JobStatus, NotFoundError, TemporaryError
from compact_hf.teachers.gemini_batch.store import Job, JobStore, write_requests

# The service keeps an uploaded file for 48 hours.
_UPLOAD_LIFETIME_S: Final = 40 * 3600.0
_END_MESSAGES: Final = {
    "SUCCEEDED": "left this request out",
    "PARTIALLY_SUCCEEDED": "left this request out",
    "EXPIRED": "expired before this request was answered",
    "CANCELLED": "was cancelled before this request was answered",
    "FAILED": "failed",
}


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """How long to wait for what, in seconds.

    Attributes:
        initial_poll_s, max_poll_s (`float`): the pause between two looks at the jobs grows from the first to the
            longest.
        settle_s (`float`): a flush holds once no request came for so long.
        max_outage_s (`float`): how long the service may be out of reach, or have no room while no job of ours runs.
    """

    initial_poll_s: float = 10.0
    max_poll_s: float = 120.0
    settle_s: float = 1.0
    max_outage_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one job holds at most.

    Attributes:
        max_bytes (`int`): a file is full with the request that reaches this. The service takes 2 GB a file and keeps
            20 GB in all; a smaller one is sent again sooner where an upload breaks off.
        max_requests (`int`): a file is full with so many.
    """

    max_bytes: int = 500_000_000
    max_requests: int = 5_000


class JobScheduler:
    """The jobs of one teacher, those of earlier sessions included."""

    def __init__(
        self,
        store: JobStore,
        service: BatchService,
        *,
        timing: BatchTiming,
        limits: BatchLimits,
        on_wait: Callable[[str], None],
    ) -> None:
        self._store = store
        self._service = service
        self._timing = timing
        self._limits = limits
        self._on_wait = on_wait
        self._jobs = store.load()
        self._job_count = len(self._jobs)
        self._job_numbers = {job.id: number for number, job in enumerate(self._jobs, 1)}
        # Whoever was killed here may have submitted it.
        self._maybe_submitted = {job.id for job in self._jobs if job.stage == "uploaded"}
        self._delivered_jobs = [
            job for job in self._jobs if job.stage == "collected" and store.read_delivered(job).issuperset(job.keys)
        ]
        self._statuses: dict[str, JobStatus] = {}
        self._failing_since: float | None = None

    def keys(self) -> set[str]:
        """Return the keys of all requests that are in a job, without those whose answers were handed over."""
        return {key for job in self._jobs for key in job.keys}

    def active_jobs(self, keys: Container[str]) -> list[Job]:
        """Return the jobs that hold one of the requests that are asked for."""
        return [job for job in self._jobs if any(key in keys for key in job.keys)]

    def collected_jobs(self, keys: Container[str]) -> list[Job]:
        """Return those of them that have ended and whose results are here."""
        return [job for job in self.active_jobs(keys) if job.stage == "collected"]

    def describe_running(self, keys: Container[str]) -> str:
        """Return, in words, those of them that the service works on; nothing where there are none."""
        count = sum(job.stage == "submitted" for job in self.active_jobs(keys))
        return f"{count} {'batch' if count == 1 else 'batches'}" if count else ""

    def release_job(self, job: Job) -> None:
        """Forget a job, but for those of its requests that nobody has asked for yet."""
        delivered_keys = self._store.read_delivered(job)
        job.keys = [key for key in job.keys if key not in delivered_keys]
        if job.keys:
            self._store.save(job)
        else:
            self._store.remove(job)
            self._jobs.remove(job)

    def clean_up(self, keys: Container[str]) -> None:
        """Forget the jobs that an earlier session handed over whole and was killed before it forgot them."""
        active_jobs = self.active_jobs(keys)
        for job in self._delivered_jobs:
            if job in self._jobs and job not in active_jobs:
                self._store.remove(job)

    async def write_job(self, requests: deque[Request]) -> list[Failure]:
        """Make one job of the requests on the left, as many as it holds; return a failure for each lost image.

        Raises:
            JournalError: the run folder cannot be written.
        """
        self._on_wait(f"batch {self._job_count + 1}: writing, {len(requests):,} requests to go")
        job = Job(self._store.teacher, [])
        path = self._store.requests_path(job)
        temp_file = self._store.temp_file(path)
        with self._store.translate_os_errors():
            job.keys, failures = await write_requests(
                temp_file, requests, max_bytes=self._limits.max_bytes, max_requests=self._limits.max_requests
            )
            if job.keys:
                temp_file.replace(path)
                self._store.save(job)
                self._jobs.append(job)
                self._job_count += 1
                self._job_numbers[job.id] = self._job_count
            else:
                temp_file.unlink()
        return failures

    async def advance_jobs(self, keys: Container[str]) -> None:
        """Take every job that is waited for as far as the service allows, and tell what is waited for.

        Raises:
            TeacherError: the service refuses the key, the model or a batch.
            TeacherUnavailableError: nothing has worked for longer than the pace allows.
            JournalError: the run folder cannot be written.
        """
        last_error: TemporaryError | None = None
        has_progress = False
        for job in self.active_jobs(keys):
            if job.stage == "collected":
                continue
            # Where there is no room for a new job, there is none for the next; news of others there may be.
            if last_error is not None and job.stage != "submitted":
                continue
            try:
                with self._store.translate_os_errors():
                    await self._advance(job)
                has_progress = True
            except TemporaryError as error:
                last_error = error
        self._check_outage(None if has_progress else last_error)
        if open_jobs := [job for job in self.active_jobs(keys) if job.stage != "collected"]:
            self._on_wait(self._describe(open_jobs) + (f"; {last_error}, trying again" if last_error else ""))

    def _check_outage(self, error: TemporaryError | None) -> None:
        if error is None:
            self._failing_since = None
            return
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._timing.max_outage_s:
            raise TeacherUnavailableError(f"{error}; nothing is lost, run the same command later")

    async def _advance(self, job: Job) -> None:
        if job.stage == "uploaded" and job.id in self._maybe_submitted:
            job_name = await self._service.find_job(job.id)
            if job_name is not None:
                job.name = job_name
                self._store.advance(job, "submitted")
            elif job.age_s() > _UPLOAD_LIFETIME_S:
                self._store.advance(job, "written")
        if job.stage == "written":
            file = self._store.requests_path(job)
            self._on_wait(
                f"batch {self._job_numbers[job.id]} of {self._job_count}: sending {file.stat().st_size / 1e6:,.1f} MB"
            )
            job.file = await self._service.upload(file, job.id)
            self._store.advance(job, "uploaded")
        if job.stage == "uploaded":
            self._maybe_submitted.add(job.id)
            job.name = await self._service.submit(job.file, job.id)
            self._store.advance(job, "submitted")
        await self._poll(job)

    async def _poll(self, job: Job) -> None:
        try:
            status = self._statuses[job.id] = await self._service.get_status(job.name)
            if not status.is_ended:
                return
            job.ended = _END_MESSAGES[status.state] + (f" ({status.error_message})" if status.error_message else "")
            if status.results_file:
                results = self._store.results_path(job)
                temp_file = self._store.temp_file(results)
                await self._service.download(status.results_file, temp_file)
                temp_file.replace(results)
        except NotFoundError as error:
            job.ended = f"is not at the service any more ({error})"
        self._store.advance(job, "collected")
        await self._service.discard(job.file)

    def _describe(self, jobs: list[Job]) -> str:
        """Return one line: `batch 1 of 2: RUNNING for 12 min, 340 of 1,200 answered`."""
        states = Counter(self._state(job) for job in jobs)
        statuses = [self._statuses[job.id] for job in jobs if job.id in self._statuses]
        answered_requests = sum(status.answered_requests for status in statuses)
        requests = sum(status.requests for status in statuses)
        minutes = max(job.age_s() for job in jobs) // 60
        if len(jobs) == 1:
            subject, summary = f"batch {self._job_numbers[jobs[0].id]} of {self._job_count}", next(iter(states))
        else:
            subject = f"{len(jobs)} of {self._job_count} batches"
            summary = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"{subject}: {summary} for {minutes:.0f} min" + (
            f", {answered_requests:,} of {requests:,} answered" if requests else ""
        )

    def _state(self, job: Job) -> str:
        status = self._statuses.get(job.id)
        if job.stage == "submitted":
            return status.state if status else "SUBMITTED"
        return "NOT SENT"
