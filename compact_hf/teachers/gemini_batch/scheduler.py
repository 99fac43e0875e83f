"""Advances the jobs of a Gemini batch teacher through their stages: written, uploaded, submitted, collected.

Each stage is saved to disk before the next one begins. After a kill or a lost response, the service may have a job that
was not saved as submitted; it is looked up by its display name before it is submitted again.
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

# The service deletes an uploaded file after 48 hours; an older upload than this is repeated.
_UPLOAD_LIFETIME_S: Final = 40 * 3600.0
# State in which a job ended -> what this means for a request without an answer; follows "the batch" in messages.
_END_MESSAGES: Final = {
    "SUCCEEDED": "has no answer to this request",
    "PARTIALLY_SUCCEEDED": "has no answer to this request",
    "EXPIRED": "expired before this request was answered",
    "CANCELLED": "was cancelled before this request was answered",
    "FAILED": "failed",
}


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Waiting times of the batch teacher, in seconds.

    Attributes:
        initial_poll_s (`float`, *optional*, defaults to 10.0): pause before the jobs are polled for the first time;
            it grows with each poll.
        max_poll_s (`float`, *optional*, defaults to 120.0): longest pause between two polls.
        settle_s (`float`, *optional*, defaults to 1.0): requests are sent when none has arrived for this long after a
            flush.
        max_outage_s (`float`, *optional*, defaults to 3600.0): the run stops if all calls failed for this long, because
            the service cannot be reached or accepts no more jobs.
    """

    initial_poll_s: float = 10.0
    max_poll_s: float = 120.0
    settle_s: float = 1.0
    max_outage_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits on the size of one job.

    Attributes:
        max_bytes (`int`, *optional*, defaults to 500,000,000): size of a job's file; the request that reaches it is the
            last one. The service accepts 2 GB per file and 20 GB in total; smaller files are faster to repeat after an
            interrupted upload.
        max_requests (`int`, *optional*, defaults to 5,000): maximum number of requests in a job.
    """

    max_bytes: int = 500_000_000
    max_requests: int = 5_000


class JobScheduler:
    """Manages the jobs of one teacher, including those of earlier sessions.

    Args:
        store (`JobStore`): the jobs on disk.
        service (`BatchService`): client of the service.
        timing (`BatchTiming`): waiting times.
        limits (`BatchLimits`): limits on the size of a job.
        on_wait (`Callable[[str], None]`): called with a line that says what is waited for.
    """

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
        # job id -> number in messages
        self._job_numbers = {job.id: number for number, job in enumerate(self._jobs, 1)}
        # An earlier session may have been killed after it submitted the job and before it saved that.
        self._maybe_submitted = {job.id for job in self._jobs if job.stage == "uploaded"}
        # Jobs whose answers were all delivered by an earlier session, which was killed before it removed them.
        self._delivered_jobs = [
            job for job in self._jobs if job.stage == "collected" and store.read_delivered(job).issuperset(job.keys)
        ]
        self._statuses: dict[str, JobStatus] = {}
        self._failing_since: float | None = None

    def keys(self) -> set[str]:
        """Return the keys of all requests in jobs, without those whose answers were delivered."""
        return {key for job in self._jobs for key in job.keys}

    def active_jobs(self, keys: Container[str]) -> list[Job]:
        """Return the jobs that contain at least one of the given requests.

        Args:
            keys (`Container[str]`): keys of the requests that wait for an answer.
        """
        return [job for job in self._jobs if any(key in keys for key in job.keys)]

    def collected_jobs(self, keys: Container[str]) -> list[Job]:
        """Return the active jobs whose results have been collected.

        Args:
            keys (`Container[str]`): as for `active_jobs`.
        """
        return [job for job in self.active_jobs(keys) if job.stage == "collected"]

    def describe_running(self, keys: Container[str]) -> str:
        """Return the number of active jobs that the service works on, as text such as `2 batches`; empty if none.

        Args:
            keys (`Container[str]`): as for `active_jobs`.
        """
        count = sum(job.stage == "submitted" for job in self.active_jobs(keys))
        return f"{count} {'batch' if count == 1 else 'batches'}" if count else ""

    def release_job(self, job: Job) -> None:
        """Remove the delivered answers from a job, and the job itself if no undelivered request is left.

        Args:
            job (`Job`): a collected job.
        """
        delivered_keys = self._store.read_delivered(job)
        job.keys = [key for key in job.keys if key not in delivered_keys]
        if job.keys:
            self._store.save(job)
        else:
            self._store.remove(job)
            self._jobs.remove(job)

    def clean_up(self, keys: Container[str]) -> None:
        """Remove the jobs whose answers were all delivered by an earlier session, which was killed before it did so.

        Args:
            keys (`Container[str]`): keys of the requests that still wait for an answer; their jobs are kept.
        """
        active_jobs = self.active_jobs(keys)
        for job in self._delivered_jobs:
            if job in self._jobs and job not in active_jobs:
                self._store.remove(job)

    async def write_job(self, requests: deque[Request]) -> list[Failure]:
        """Write one job with as many requests as fit, taken from the left of the queue.

        Args:
            requests (`deque[Request]`): requests that are in no job yet; those that are written are removed.

        Returns:
            One failure for each request whose image can no longer be read.

        Raises:
            JournalError: the run directory cannot be written.
        """
        self._on_wait(f"batch {self._job_count + 1}: writing, {len(requests):,} requests left")
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
        """Advance all active jobs as far as the service allows, and report what is waited for.

        Args:
            keys (`Container[str]`): as for `active_jobs`.

        Raises:
            TeacherError: the service refuses the key, the model or a batch permanently.
            TeacherUnavailableError: all calls have failed for longer than `max_outage_s`.
            JournalError: the run directory cannot be written.
        """
        last_error: TemporaryError | None = None
        has_progress = False
        for job in self.active_jobs(keys):
            if job.stage == "collected":
                continue
            # If the service rejects one new job for now, it will also reject the next; submitted jobs can still be
            # polled.
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
            self._on_wait(self._describe(open_jobs) + (f"; {last_error}, will retry" if last_error else ""))

    def _check_outage(self, error: TemporaryError | None) -> None:
        """Raise TeacherUnavailableError if calls have failed without any success for longer than `max_outage_s`."""
        if error is None:
            self._failing_since = None
            return
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._timing.max_outage_s:
            raise TeacherUnavailableError(f"{error}; nothing is lost, run the same command later")

    async def _advance(self, job: Job) -> None:
        """Take one job through its remaining stages until it waits for the service."""
        # Before submitting again: a kill or a lost response may have hidden that the job was created.
        if job.stage == "uploaded" and job.id in self._maybe_submitted:
            job_name = await self._service.find_job(job.id)
            if job_name is not None:
                job.name = job_name
                self._store.advance(job, "submitted")
            # Never submitted, and the uploaded file may be deleted already: upload it again.
            elif job.age_s() > _UPLOAD_LIFETIME_S:
                self._store.advance(job, "written")
        if job.stage == "written":
            file = self._store.requests_path(job)
            self._on_wait(
                f"batch {self._job_numbers[job.id]} of {self._job_count}: uploading {file.stat().st_size / 1e6:,.1f} MB"
            )
            job.file = await self._service.upload(file, job.id)
            self._store.advance(job, "uploaded")
        if job.stage == "uploaded":
            # Before the call, whose response may be lost.
            self._maybe_submitted.add(job.id)
            job.name = await self._service.submit(job.file, job.id)
            self._store.advance(job, "submitted")
        await self._poll(job)

    async def _poll(self, job: Job) -> None:
        """Update the state of a submitted job; if it has ended, download its results and mark it as collected."""
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
        # The service forgot the job or its results: its requests have no answer.
        except NotFoundError as error:
            job.ended = f"no longer exists at the service ({error})"
        self._store.advance(job, "collected")
        await self._service.discard(job.file)

    def _describe(self, jobs: list[Job]) -> str:
        """Return a progress line such as `batch 1 of 2: RUNNING for 12 min, 340 of 1,200 answered`."""
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
