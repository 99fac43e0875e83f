"""What the batch teacher knows of its jobs, on disk, so that a kill at any moment costs nothing.

In: a run folder. Out, in its folder `batches`, for each job: ID.json (the job; written whole or not at all),
ID.requests.jsonl (from before it is uploaded until it is submitted), ID.results.jsonl (once it was collected) and
ID.handed (a line for each answer that was handed over).
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from compact_hf.errors import JournalError

Stage = Literal["written", "uploaded", "submitted", "collected"]

FOLDER: Final = "batches"
_PREFIX: Final = "compact-"
_HALF_WRITTEN: Final = ".part"


@dataclass(slots=True)
class Job:
    """Requests that are sent together.

    Attributes:
        teacher (`str`): who it is for: the teacher's name and server.
        keys (`list[str]`): the keys of its requests, without those whose answers were handed over.
        id (`str`): unique; also its display name at the service, by which it is found again.
        stage (`Stage`): how far it came.
        since (`float`): unix seconds at which it came there.
        file (`str`): the uploaded requests at the service, `files/...`; from `uploaded` on.
        name (`str`): the job at the service, `batches/...`; from `submitted` on.
        ended (`str`): how it ended, in words; from `collected` on.
    """

    teacher: str
    keys: list[str]
    id: str = field(default_factory=lambda: f"{_PREFIX}{uuid.uuid4().hex}")
    stage: Stage = "written"
    since: float = field(default_factory=time.time)
    file: str = ""
    name: str = ""
    ended: str = ""

    def age_s(self) -> float:
        """Return the seconds since it came to its stage."""
        return time.time() - self.since


class JobFolder:
    """The jobs of one teacher in a run folder. Nothing is made before the first job is kept.

    Raises (every method):
        JournalError: the run folder cannot be read or written, or a file in it is damaged.
    """

    def __init__(self, run: Path, teacher: str) -> None:
        self.teacher = teacher
        self._folder = run / FOLDER

    def load(self) -> list[Job]:
        """Return the teacher's jobs in the order in which they came to their stage; clear away what was never one."""
        with self.spoken():
            if not self._folder.is_dir():
                return []
            files = sorted(self._folder.iterdir())
            jobs = [self._read(file) for file in files if file.suffix == ".json"]
            known = {job.id for job in jobs}
            for file in files:
                if file.suffix == _HALF_WRITTEN or file.name.partition(".")[0] not in known:
                    file.unlink()
        return sorted((job for job in jobs if job.teacher == self.teacher), key=lambda job: job.since)

    def requests(self, job: Job) -> Path:
        """Return where the job's requests are written."""
        with self.spoken():
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{job.id}.requests.jsonl"

    def results(self, job: Job) -> Path:
        """Return where the job's results are kept."""
        return self._folder / f"{job.id}.results.jsonl"

    def handed(self, job: Job) -> set[str]:
        """Return the keys whose answers were handed over, in this session or an earlier one."""
        with self.spoken():
            log = self._log(job)
            return set(log.read_text(encoding="utf-8").split()) if log.exists() else set()

    @contextmanager
    def handing(self, job: Job) -> Iterator[Callable[[str], None]]:
        """Yield a function that notes a key whose answer is about to be handed over."""
        with self.spoken(), self._log(job).open("ab", buffering=0) as log:

            def note(key: str) -> None:
                log.write(f"{key}\n".encode())

            yield note

    def half_written(self, path: Path) -> Path:
        """Return where a file is written before it is whole."""
        return path.with_name(path.name + _HALF_WRITTEN)

    def advance(self, job: Job, stage: Stage) -> None:
        """Keep the job at its new stage; give up the file of requests once the service has taken it."""
        job.stage, job.since = stage, time.time()
        self.keep(job)
        if stage in ("submitted", "collected"):
            with self.spoken():
                self.requests(job).unlink(missing_ok=True)

    def keep(self, job: Job) -> None:
        """Write the job down, whole or not at all."""
        with self.spoken():
            self._folder.mkdir(parents=True, exist_ok=True)
            whole = self._folder / f"{job.id}.json"
            with self.half_written(whole).open("w", encoding="utf-8") as file:
                json.dump(asdict(job), file)
                file.flush()
                os.fsync(file.fileno())
            self.half_written(whole).replace(whole)

    def forget(self, job: Job) -> None:
        """Give up all that is kept of the job, and the folder with the last one."""
        with self.spoken():
            # The job first: without it, what a kill in here leaves over is cleared away the next time.
            for path in (self._folder / f"{job.id}.json", self.requests(job), self.results(job), self._log(job)):
                path.unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _log(self, job: Job) -> Path:
        return self._folder / f"{job.id}.handed"

    def _read(self, file: Path) -> Job:
        try:
            return Job(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise JournalError(
                f"{file} is damaged ({error}); restore it from a copy, or remove it: its requests are sent once more"
            ) from error

    @contextmanager
    def spoken(self) -> Iterator[None]:
        """Turn the errors of the disk into one line that says what to do."""
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"cannot keep batches in {self._folder} ({error.strerror or error}); let it be written, "
                "make room if the disk is full, and run the same command"
            ) from error
