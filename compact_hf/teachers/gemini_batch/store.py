"""The jobs of the batch teacher on disk, so that a kill at any moment costs nothing, and the two files of a job.

In the run directory's `batches`, for each job: ID.json (the job; written whole or not at all), ID.requests.jsonl (from
before it is uploaded until it is submitted), ID.results.jsonl (once it was collected) and ID.handed (a line for each
answer that was handed over). Requests and answers are one line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from compact_hf.errors import JournalError, SourceError
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.gemini import read_response
from compact_hf.teachers.gemini_request import build_body
from compact_hf.teachers.http import one_line

# google.rpc.Code -> the HTTP status that says the same.
_HTTP_STATUS: Final = dict(
    enumerate((200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401))
)
_RETRYABLE_CODES: Final = (408, 409, 429, 499)


async def write_requests(
    path: Path, requests: deque[Request], *, max_bytes: int, max_requests: int
) -> tuple[list[str], list[Failure]]:
    """Write requests from the left of the queue until a file is full; each image is encoded, written and forgotten.

    Args:
        path (`Path`): the file of requests, a JSON object `{key, request}` a line.
        requests (`deque[Request]`): what is written, or cannot be, is taken out.
        max_bytes (`int`): the file is full with the request that reaches it.
        max_requests (`int`): the file is full with so many.

    Returns:
        The keys that were written, and a failure for each image that cannot be read any more.

    Raises:
        OSError: the file cannot be written.
    """
    keys: list[str] = []
    failures: list[Failure] = []
    with path.open("wb") as file:
        while requests and len(keys) < max_requests and file.tell() < max_bytes:
            request = requests.popleft()
            try:
                file.write(await _format_request(request))
                keys.append(request.key)
            except SourceError as error:
                failures.append(Failure(request.key, str(error), is_retryable=False))
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return keys, failures


def read_results(path: Path, model: str) -> Iterator[Reply | Failure]:
    """Yield the answers in a file of results in its order; lines that are no answers to anybody are passed over.

    Args:
        path (`Path`): the file of results, a JSON object `{key, response}` or `{key, error}` a line.
        model (`str`): who is taken to have answered where a response does not say.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                key = record["key"]
            except (ValueError, TypeError, KeyError):
                continue
            if isinstance(key, str):
                yield _parse_answer(key, record, model)


async def _format_request(request: Request) -> bytes:
    body = await build_body(request)
    if request.encoded_image is not None:
        request.encoded_image.release()  # there may be a hundred thousand images in hand
    return b'{"key":%b,"request":%b}\n' % (json.dumps(request.key).encode(), body)


def _parse_answer(key: str, record: dict[str, Any], model: str) -> Reply | Failure:
    from google.genai.types import GenerateContentResponse
    from pydantic import ValidationError

    if isinstance(error := record.get("error"), dict):
        return _parse_failure(key, error)
    try:
        # What a newer service adds is of no interest, and no reason to give up an answer.
        response = GenerateContentResponse.model_validate(record.get("response"), extra="ignore")
    except ValidationError:
        return Failure(key, "a line of the batch is not Gemini's JSON")
    return read_response(key, response, model)


def _parse_failure(key: str, error: dict[str, Any]) -> Failure:
    code = error.get("code")
    status = _HTTP_STATUS.get(code, code) if isinstance(code, int) else 500
    message = one_line(str(error.get("message") or error.get("status") or "no message"))
    # Never `is_overloaded`: what one request of a batch met is no reason to hold back all that come after it.
    return Failure(key, f"{status} {message}", is_retryable=status >= 500 or status in _RETRYABLE_CODES)


Stage = Literal["written", "uploaded", "submitted", "collected"]

JOBS_DIRECTORY: Final = "batches"
_PREFIX: Final = "compact-"
_TEMP_SUFFIX: Final = ".part"


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


class JobStore:
    """The jobs of one teacher in a run folder. Nothing is made before the first job is kept.

    Raises (every method):
        JournalError: the run folder cannot be read or written, or a file in it is damaged.
    """

    def __init__(self, run: Path, teacher: str) -> None:
        self.teacher = teacher
        self._directory = run / JOBS_DIRECTORY

    def load(self) -> list[Job]:
        """Return the teacher's jobs in the order in which they came to their stage; clear away what was never one."""
        with self.translate_os_errors():
            if not self._directory.is_dir():
                return []
            files = sorted(self._directory.iterdir())
            jobs = [self._read_job(file) for file in files if file.suffix == ".json"]
            job_ids = {job.id for job in jobs}
            for file in files:
                if file.suffix == _TEMP_SUFFIX or file.name.partition(".")[0] not in job_ids:
                    file.unlink()
        return sorted((job for job in jobs if job.teacher == self.teacher), key=lambda job: job.since)

    def requests_path(self, job: Job) -> Path:
        """Return where the job's requests are written."""
        with self.translate_os_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory / f"{job.id}.requests.jsonl"

    def results_path(self, job: Job) -> Path:
        """Return where the job's results are kept."""
        return self._directory / f"{job.id}.results.jsonl"

    def read_delivered(self, job: Job) -> set[str]:
        """Return the keys whose answers were handed over, in this session or an earlier one."""
        with self.translate_os_errors():
            log = self._delivery_log(job)
            return set(log.read_text(encoding="utf-8").split()) if log.exists() else set()

    @contextmanager
    def record_delivered(self, job: Job) -> Iterator[Callable[[str], None]]:
        """Yield a function that notes a key whose answer is about to be handed over."""
        with self.translate_os_errors(), self._delivery_log(job).open("ab", buffering=0) as log:

            def record_key(key: str) -> None:
                log.write(f"{key}\n".encode())

            yield record_key

    def temp_file(self, path: Path) -> Path:
        """Return where a file is written before it is whole."""
        return path.with_name(path.name + _TEMP_SUFFIX)

    def advance(self, job: Job, stage: Stage) -> None:
        """Keep the job at its new stage; give up the file of requests once the service has taken it."""
        job.stage, job.since = stage, time.time()
        self.save(job)
        if stage in ("submitted", "collected"):
            with self.translate_os_errors():
                self.requests_path(job).unlink(missing_ok=True)

    def save(self, job: Job) -> None:
        """Write the job down, whole or not at all."""
        with self.translate_os_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{job.id}.json"
            with self.temp_file(path).open("w", encoding="utf-8") as file:
                json.dump(asdict(job), file)
                file.flush()
                os.fsync(file.fileno())
            self.temp_file(path).replace(path)

    def remove(self, job: Job) -> None:
        """Give up all that is kept of the job, and the folder with the last one."""
        with self.translate_os_errors():
            # The job first: without it, what a kill in here leaves over is cleared away the next time.
            for path in (
                self._directory / f"{job.id}.json",
                self.requests_path(job),
                self.results_path(job),
                self._delivery_log(job),
            ):
                path.unlink(missing_ok=True)
            if not any(self._directory.iterdir()):
                self._directory.rmdir()

    def _delivery_log(self, job: Job) -> Path:
        return self._directory / f"{job.id}.handed"

    def _read_job(self, file: Path) -> Job:
        try:
            return Job(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise JournalError(
                f"{file} is damaged ({error}); restore it from a copy, or remove it: its requests are sent once more"
            ) from error

    @contextmanager
    def translate_os_errors(self) -> Iterator[None]:
        """Turn the errors of the disk into one line that says what to do."""
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"cannot keep batches in {self._directory} ({error.strerror or error}); let it be written, "
                "make room if the disk is full, and run the same command"
            ) from error
