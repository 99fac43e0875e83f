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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from compact_hf.errors import JournalError, SourceError
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.gemini import config_for, read_response
from compact_hf.teachers.http import one_line

if TYPE_CHECKING:
    from pydantic import BaseModel

# google.rpc.Code -> the HTTP status that says the same.
_HTTP_STATUS: Final = dict(
    enumerate((200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401))
)
_SPELLED_OTHERWISE: Final = {"response_schema", "response_json_schema", "store"}
_PASSING: Final = (408, 409, 429, 499)


async def write_requests(
    path: Path, requests: deque[Request], *, max_bytes: int, max_requests: int
) -> tuple[list[str], list[Failure]]:
    """Write requests from the left of the queue until a file is full; each picture is encoded, written and forgotten.

    Args:
        path (`Path`): the file of requests, a JSON object `{key, request}` a line.
        requests (`deque[Request]`): what is written, or cannot be, is taken out.
        max_bytes (`int`): the file is full with the request that reaches it.
        max_requests (`int`): the file is full with so many.

    Returns:
        The keys that were written, and a failure for each picture that cannot be read any more.

    Raises:
        OSError: the file cannot be written.
    """
    keys: list[str] = []
    failures: list[Failure] = []
    with path.open("wb") as file:
        while requests and len(keys) < max_requests and file.tell() < max_bytes:
            request = requests.popleft()
            try:
                file.write(await _line(request))
                keys.append(request.key)
            except SourceError as error:
                failures.append(Failure(request.key, str(error), worth_retrying=False))
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
                found = json.loads(line)
                key = found["key"]
            except (ValueError, TypeError, KeyError):
                continue
            if isinstance(key, str):
                yield _answer(key, found, model)


async def _line(request: Request) -> bytes:
    parts: list[dict[str, Any]] = [{"text": request.prompt}]
    if request.exposure is not None:
        data = await request.exposure.base64()
        # There may be a hundred thousand pictures in hand.
        request.exposure.forget()
        parts.insert(0, {"inlineData": {"mimeType": "image/jpeg", "data": data}})
    asked = {"contents": [{"role": "user", "parts": parts}], **_settings(request)}
    return json.dumps({"key": request.key, "request": asked}).encode() + b"\n"


def _settings(request: Request) -> dict[str, Any]:
    """Return the settings that the request has when it goes by itself, as they are spelled on the wire."""
    config = config_for(request)
    found = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_SPELLED_OTHERWISE)
    return {"generationConfig": {**found, "responseSchema": _schema(request.schema)}, "store": config.store}


@lru_cache(maxsize=16)
def _schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Return a schema in Gemini's words: a batch takes `responseJsonSchema` too, but was seen not to keep to it."""
    from google.genai.types import JSONSchema, Schema

    found = Schema.from_json_schema(json_schema=JSONSchema.model_validate(schema.model_json_schema()))
    return _ordered(found.model_dump(mode="json", by_alias=True, exclude_none=True))


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its fields' order spelled out, as the SDK does: a model writes them in it."""
    if "items" in schema:
        schema = {**schema, "items": _ordered(schema["items"])}
    if "properties" in schema:
        fields = {name: _ordered(field) for name, field in schema["properties"].items()}
        schema = {**schema, "properties": fields, "propertyOrdering": list(fields)}
    return schema


def _answer(key: str, line: dict[str, Any], model: str) -> Reply | Failure:
    from google.genai.types import GenerateContentResponse
    from pydantic import ValidationError

    if isinstance(error := line.get("error"), dict):
        return _failure(key, error)
    try:
        # What a newer service adds is of no interest, and no reason to give up an answer.
        response = GenerateContentResponse.model_validate(line.get("response"), extra="ignore")
    except ValidationError:
        return Failure(key, "a line of the batch is not Gemini's JSON")
    return read_response(key, response, model)


def _failure(key: str, error: dict[str, Any]) -> Failure:
    code = error.get("code")
    status = _HTTP_STATUS.get(code, code) if isinstance(code, int) else 500
    said = one_line(str(error.get("message") or error.get("status") or "no message"))
    # Never `overloaded`: what one request of a batch met is no reason to hold back all that come after it.
    return Failure(key, f"{status} {said}", worth_retrying=status >= 500 or status in _PASSING)


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
