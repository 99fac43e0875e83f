"""Stores the jobs of the batch teacher on disk, so that nothing is lost if the process is killed at any moment.

Each job has up to four files in the directory `batches` of the run directory:

    ID.json              the job; written atomically
    ID.requests.jsonl    its requests, one per line; exists until the job is submitted
    ID.results.jsonl     its answers, one per line; exists after the job was collected
    ID.handed            the key of each answer that was delivered, one per line
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from compact_hf.errors import JournalError, SourceError
from compact_hf.parsing import parse_json, read_json
from compact_hf.teachers.base import Failure, FailureKind, Reply, Request
from compact_hf.teachers.failures import Service, ServiceError, get_failure_kind, translate_error
from compact_hf.teachers.gemini import KEY_VARIABLES, read_response
from compact_hf.teachers.gemini_request import build_body
from compact_hf.teachers.http import MAX_RESPONSE_BYTES, one_line

# google.rpc.Code (0 to 16) -> the corresponding HTTP status, as listed in google/rpc/code.proto.
_HTTP_STATUS: Final = dict(
    enumerate((200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401))
)


async def write_requests(
    path: Path, requests: deque[Request], *, max_bytes: int, max_requests: int
) -> tuple[list[str], list[Failure]]:
    """Write requests from the left of a queue to a file until it is full; only one image is in memory at a time.

    Args:
        path (`Path`): file to write, one JSON object `{key, request}` per line.
        requests (`deque[Request]`): the queue; requests are removed when they were written or failed.
        max_bytes (`int`): size of a full file in bytes; the request that reaches it is the last one.
        max_requests (`int`): maximum number of requests in the file.

    Returns:
        The keys of the written requests, and a failure for each request whose image can no longer be read.

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
                failures.append(Failure(request.key, str(error), FailureKind.LOST))
        file.flush()
        # On disk before the job is saved, which refers to this file.
        await asyncio.to_thread(os.fsync, file.fileno())
    return keys, failures


def read_results(path: Path, model: str) -> Iterator[Reply | Failure]:
    """Yield the answers in a file of results, in the order of the file; skip lines without a key, and too long ones.

    Args:
        path (`Path`): file of results, one JSON object `{key, response}` or `{key, error}` per line.
        model (`str`): name of the model, used if a response does not name one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for line in _iter_lines(file):
            try:
                record = parse_json(line)
                key = record["key"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            if isinstance(key, str):
                yield _parse_answer(key, record, model)


def _iter_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file that are not longer than a response may be."""
    is_rest = False  # of a line whose beginning was skipped
    while part := file.readline(MAX_RESPONSE_BYTES):
        is_end = part.endswith(b"\n") or len(part) < MAX_RESPONSE_BYTES
        if is_end and not is_rest:
            yield part
        is_rest = not is_end


async def _format_request(request: Request) -> bytes:
    """Return a request as a line of a job's file, and free its image."""
    body = await build_body(request)
    if request.encoded_image is not None:
        request.encoded_image.release()  # up to 10,000 images may be active
    return b'{"key":%b,"request":%b}\n' % (json.dumps(request.key).encode(), body)


def _parse_answer(key: str, record: dict[str, Any], model: str) -> Reply | Failure:
    """Return a line of a file of results as a reply or a failure."""
    from google.genai.types import GenerateContentResponse
    from pydantic import ValidationError

    if isinstance(error := record.get("error"), dict):
        return _translate_error(key, error, model)
    try:
        # Ignore fields that a newer version of the service adds, instead of rejecting the answer.
        response = GenerateContentResponse.model_validate(record.get("response"), extra="ignore")
    except ValidationError:
        unreadable = Reply(key, text="", model=f"gemini:{model}", refused="unreadable", has_usage=False)
        return Failure(key, "the batch's answer to this request is not Gemini's JSON", billed=unreadable)
    return read_response(key, response, model)


def _translate_error(key: str, error: dict[str, Any], model: str) -> Reply | Failure:
    """Return a `google.rpc.Status` as what it means for its request."""
    code = error.get("code")
    # A code outside of google.rpc.Code is taken as an HTTP status.
    status = _HTTP_STATUS.get(code, code) if isinstance(code, int) else 500
    message = one_line(str(error.get("message") or error.get("status") or "no message"))
    service = Service(f"gemini-batch:{model}", "the Gemini API", KEY_VARIABLES[0])
    result = translate_error(ServiceError(status, message), key, service)
    if isinstance(result, Reply):
        return result
    # The error of one request in a batch must neither delay nor stop the others.
    kind = get_failure_kind(status)
    return Failure(key, f"{status} {message}", FailureKind.TRANSIENT if kind is FailureKind.OVERLOADED else kind)


Stage = Literal["written", "uploaded", "submitted", "collected"]

JOBS_DIRECTORY: Final = "batches"
_PREFIX: Final = "compact-"
_TEMP_SUFFIX: Final = ".part"


@dataclass(slots=True)
class Job:
    """A job: requests that are sent together.

    Attributes:
        teacher (`str`): name and server of the teacher.
        keys (`list[str]`): keys of its requests, without those whose answers were delivered.
        id (`str`, *optional*): unique id, also the display name of the job at the service; random by default.
        stage (`Stage`, *optional*, defaults to `"written"`): current stage.
        since (`float`, *optional*, defaults to now): time at which the job reached its stage, in seconds since 1970.
        file (`str`, *optional*): name of the uploaded file at the service, `files/...`; from the stage `uploaded`.
        name (`str`, *optional*): name of the job at the service, `batches/...`; from the stage `submitted`.
        ended (`str`, *optional*): how the job ended, as the rest of a sentence that begins with "the batch"; from the
            stage `collected`.
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
        """Return the time since the job reached its stage, in seconds."""
        return time.time() - self.since


def has_submitted_jobs(run: Path) -> bool:
    """Return whether a run directory holds jobs that the service has accepted, and therefore bills.

    Args:
        run (`Path`): the run directory.
    """
    return any(
        json.loads(file.read_bytes())["stage"] in ("submitted", "collected")
        for file in (run / JOBS_DIRECTORY).glob("*.json")
    )


def discard_jobs(run: Path) -> None:
    """Delete all jobs of a run directory; for jobs that were never submitted.

    Args:
        run (`Path`): the run directory.
    """
    shutil.rmtree(run / JOBS_DIRECTORY, ignore_errors=True)


class JobStore:
    """The jobs of one teacher in a run directory. The directory `batches` is created with the first job.

    All methods that access the disk raise `JournalError` if the run directory cannot be read or written, or if a file
    in it is damaged.

    Args:
        run (`Path`): the run directory.
        teacher (`str`): name and server of the teacher; jobs of other teachers are ignored.
    """

    def __init__(self, run: Path, teacher: str) -> None:
        self.teacher = teacher
        self._directory = run / JOBS_DIRECTORY

    def load(self) -> list[Job]:
        """Return the teacher's jobs, ordered by the time at which they reached their stage; delete leftover files."""
        with self.translate_os_errors():
            if not self._directory.is_dir():
                return []
            files = sorted(self._directory.iterdir())
            jobs = [self._read_job(file) for file in files if file.suffix == ".json"]
            job_ids = {job.id for job in jobs}
            for file in files:
                # Left behind by a kill: half-written files, and files whose job was not saved or is removed.
                if file.suffix == _TEMP_SUFFIX or file.name.partition(".")[0] not in job_ids:
                    file.unlink()
        return sorted((job for job in jobs if job.teacher == self.teacher), key=lambda job: job.since)

    def requests_path(self, job: Job) -> Path:
        """Return the path of a job's file of requests, and create its directory.

        Args:
            job (`Job`): the job.
        """
        with self.translate_os_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory / f"{job.id}.requests.jsonl"

    def results_path(self, job: Job) -> Path:
        """Return the path of a job's file of results.

        Args:
            job (`Job`): the job.
        """
        return self._directory / f"{job.id}.results.jsonl"

    def read_delivered(self, job: Job) -> set[str]:
        """Return the keys of the answers that were delivered, in this session or an earlier one.

        Args:
            job (`Job`): the job.
        """
        with self.translate_os_errors():
            log = self._delivery_log(job)
            return set(log.read_text(encoding="utf-8").split()) if log.exists() else set()

    @contextmanager
    def record_delivered(self, job: Job) -> Iterator[Callable[[str], None]]:
        """Yield a function that records the key of an answer that is about to be delivered.

        Args:
            job (`Job`): the job.
        """
        # Unbuffered, so that a kill after the delivery does not lose the key.
        with self.translate_os_errors(), self._delivery_log(job).open("ab", buffering=0) as log:

            def record_key(key: str) -> None:
                log.write(f"{key}\n".encode())

            yield record_key

    def temp_file(self, path: Path) -> Path:
        """Return the temporary path of a file that is being written.

        Args:
            path (`Path`): final path of the file.
        """
        return path.with_name(path.name + _TEMP_SUFFIX)

    def advance(self, job: Job, stage: Stage) -> None:
        """Save a job at a new stage; delete its file of requests once the service has accepted the job.

        Args:
            job (`Job`): the job.
            stage (`Stage`): the new stage.
        """
        job.stage, job.since = stage, time.time()
        self.save(job)
        # Only after the new stage was saved: up to then, the file may be needed to submit again.
        if stage in ("submitted", "collected"):
            with self.translate_os_errors():
                self.requests_path(job).unlink(missing_ok=True)

    def save(self, job: Job) -> None:
        """Save a job atomically.

        Args:
            job (`Job`): the job.
        """
        with self.translate_os_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{job.id}.json"
            with self.temp_file(path).open("w", encoding="utf-8") as file:
                json.dump(asdict(job), file)
                file.flush()
                os.fsync(file.fileno())
            self.temp_file(path).replace(path)

    def remove(self, job: Job) -> None:
        """Delete all files of a job, and the directory `batches` after the last job.

        Args:
            job (`Job`): the job.
        """
        with self.translate_os_errors():
            # ID.json first: after a kill in this loop, `load` deletes the other files, which belong to no job then.
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
            return Job(**read_json(file))
        except (ValueError, TypeError) as error:
            raise JournalError(
                f"{file} is damaged ({error}): restore it from a copy, or delete it to send its requests again"
            ) from error

    @contextmanager
    def translate_os_errors(self) -> Iterator[None]:
        """Turn disk errors inside the block into a JournalError of one line that says what to do."""
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"cannot store batches in {self._directory} ({error.strerror or error}): make it writable, "
                "free some space if the disk is full, and run the same command again"
            ) from error
