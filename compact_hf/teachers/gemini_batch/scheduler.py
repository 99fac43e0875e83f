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
from compact_hf.teachers.gemini_batch.client import BatchService, Gone, Look, Trouble
from compact_hf.teachers.gemini_batch.store import Job, JobFolder, write_requests

# The service keeps an uploaded file for 48 hours.
_UPLOAD_GOOD_S: Final = 40 * 3600.0
_ENDED_AS: Final = {
    "SUCCEEDED": "left this request out",
    "PARTIALLY_SUCCEEDED": "left this request out",
    "EXPIRED": "expired before this request was answered",
    "CANCELLED": "was cancelled before this request was answered",
    "FAILED": "failed",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds.

    Attributes:
        first_s, longest_s (`float`): the pause between two looks at the jobs grows from the first to the longest.
        settle_s (`float`): a flush holds once no request came for so long.
        patience_s (`float`): how long the service may be out of reach, or have no room while no job of ours runs.
    """

    first_s: float = 10.0
    longest_s: float = 120.0
    settle_s: float = 1.0
    patience_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job holds at most.

    Attributes:
        max_bytes (`int`): a file is full with the request that reaches this. The service takes 2 GB a file and keeps
            20 GB in all; a smaller one is sent again sooner where an upload breaks off.
        max_requests (`int`): a file is full with so many.
    """

    max_bytes: int = 500_000_000
    max_requests: int = 5_000


class Dispatch:
    """The jobs of one teacher, those of earlier sessions included."""

    def __init__(
        self, folder: JobFolder, service: BatchService, *, pace: Pace, limits: Limits, on_wait: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._service = service
        self._pace = pace
        self._limits = limits
        self._on_wait = on_wait
        self._jobs = folder.load()
        self._made = len(self._jobs)
        self._number = {job.id: number for number, job in enumerate(self._jobs, 1)}
        # Whoever was killed here may have submitted it.
        self._maybe_made = {job.id for job in self._jobs if job.stage == "uploaded"}
        self._handed_before = [
            job for job in self._jobs if job.stage == "collected" and folder.handed(job).issuperset(job.keys)
        ]
        self._looks: dict[str, Look] = {}
        self._troubled_since: float | None = None

    def keys(self) -> set[str]:
        """Return the keys of all requests that are in a job, without those whose answers were handed over."""
        return {key for job in self._jobs for key in job.keys}

    def due(self, asked: Container[str]) -> list[Job]:
        """Return the jobs that hold one of the requests that are asked for."""
        return [job for job in self._jobs if any(key in asked for key in job.keys)]

    def collected(self, asked: Container[str]) -> list[Job]:
        """Return those of them that have ended and whose results are here."""
        return [job for job in self.due(asked) if job.stage == "collected"]

    def running(self, asked: Container[str]) -> str:
        """Return, in words, those of them that the service works on; nothing where there are none."""
        count = sum(job.stage == "submitted" for job in self.due(asked))
        return f"{count} {'batch' if count == 1 else 'batches'}" if count else ""

    def handed_over(self, job: Job) -> None:
        """Forget a job, but for those of its requests that nobody has asked for yet."""
        handed = self._folder.handed(job)
        job.keys = [key for key in job.keys if key not in handed]
        if job.keys:
            self._folder.keep(job)
        else:
            self._folder.forget(job)
            self._jobs.remove(job)

    def tidy(self, asked: Container[str]) -> None:
        """Forget the jobs that an earlier session handed over whole and was killed before it forgot them."""
        due = self.due(asked)
        for job in self._handed_before:
            if job in self._jobs and job not in due:
                self._folder.forget(job)

    async def write(self, fresh: deque[Request]) -> list[Failure]:
        """Make one job of the requests on the left, as many as it holds; return a failure for each lost picture.

        Raises:
            JournalError: the run folder cannot be written.
        """
        self._on_wait(f"batch {self._made + 1}: writing, {len(fresh):,} requests to go")
        job = Job(self._folder.teacher, [])
        whole = self._folder.requests(job)
        part = self._folder.half_written(whole)
        with self._folder.spoken():
            job.keys, failures = await write_requests(
                part, fresh, max_bytes=self._limits.max_bytes, max_requests=self._limits.max_requests
            )
            if job.keys:
                part.replace(whole)
                self._folder.keep(job)
                self._jobs.append(job)
                self._made += 1
                self._number[job.id] = self._made
            else:
                part.unlink()
        return failures

    async def look_after(self, asked: Container[str]) -> None:
        """Take every job that is waited for as far as the service allows, and tell what is waited for.

        Raises:
            TeacherError: the service refuses the key, the model or a batch.
            TeacherUnavailableError: nothing has worked for longer than the pace allows.
            JournalError: the run folder cannot be written.
        """
        trouble: Trouble | None = None
        worked = False
        for job in self.due(asked):
            if job.stage == "collected":
                continue
            # Where there is no room for a new job, there is none for the next; news of others there may be.
            if trouble is not None and job.stage != "submitted":
                continue
            try:
                with self._folder.spoken():
                    await self._step(job)
                worked = True
            except Trouble as met:
                trouble = met
        self._bear(None if worked else trouble)
        if waiting := [job for job in self.due(asked) if job.stage != "collected"]:
            self._on_wait(self._told(waiting) + (f"; {trouble}, trying again" if trouble else ""))

    def _bear(self, trouble: Trouble | None) -> None:
        if trouble is None:
            self._troubled_since = None
            return
        now = time.monotonic()
        self._troubled_since = self._troubled_since or now
        if now - self._troubled_since > self._pace.patience_s:
            raise TeacherUnavailableError(f"{trouble}; nothing is lost, run the same command later")

    async def _step(self, job: Job) -> None:
        if job.stage == "uploaded" and job.id in self._maybe_made:
            found = await self._service.find(job.id)
            if found is not None:
                job.name = found
                self._folder.advance(job, "submitted")
            elif job.age_s() > _UPLOAD_GOOD_S:
                self._folder.advance(job, "written")
        if job.stage == "written":
            file = self._folder.requests(job)
            self._on_wait(f"batch {self._number[job.id]} of {self._made}: sending {file.stat().st_size / 1e6:,.1f} MB")
            job.file = await self._service.upload(file, job.id)
            self._folder.advance(job, "uploaded")
        if job.stage == "uploaded":
            self._maybe_made.add(job.id)
            job.name = await self._service.submit(job.file, job.id)
            self._folder.advance(job, "submitted")
        await self._look(job)

    async def _look(self, job: Job) -> None:
        try:
            look = self._looks[job.id] = await self._service.look(job.name)
            if not look.ended:
                return
            job.ended = _ENDED_AS[look.state] + (f" ({look.why})" if look.why else "")
            if look.results:
                results = self._folder.results(job)
                part = self._folder.half_written(results)
                await self._service.download(look.results, part)
                part.replace(results)
        except Gone as gone:
            job.ended = f"is not at the service any more ({gone})"
        self._folder.advance(job, "collected")
        await self._service.discard(job.file)

    def _told(self, waiting: list[Job]) -> str:
        """Return one line: `batch 1 of 2: RUNNING for 12 min, 340 of 1,200 answered`."""
        states = Counter(self._state(job) for job in waiting)
        looks = [self._looks[job.id] for job in waiting if job.id in self._looks]
        answered, requests = sum(look.answered for look in looks), sum(look.requests for look in looks)
        minutes = max(job.age_s() for job in waiting) // 60
        if len(waiting) == 1:
            which, what = f"batch {self._number[waiting[0].id]} of {self._made}", next(iter(states))
        else:
            which = f"{len(waiting)} of {self._made} batches"
            what = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"{which}: {what} for {minutes:.0f} min" + (
            f", {answered:,} of {requests:,} answered" if requests else ""
        )

    def _state(self, job: Job) -> str:
        look = self._looks.get(job.id)
        if job.stage == "submitted":
            return look.state if look else "SUBMITTED"
        return "NOT SENT"
