"""Calls Gemini's batch and file APIs through google-genai: uploads and downloads files, creates, finds and polls jobs.

Each call is made once, with a timeout. Temporary errors are raised as `TemporaryError`, permanent ones as
`TeacherError`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx

from compact_hf.errors import TeacherError
from compact_hf.teachers.base import FailureKind, Reply
from compact_hf.teachers.failures import Service
from compact_hf.teachers.gemini import KEY_VARIABLES, translate_api_error
from compact_hf.teachers.http import MAX_RESPONSE_BYTES, one_line, refuse_redirect

if TYPE_CHECKING:
    from google.genai.errors import APIError

T = TypeVar("T")

_END_STATES: Final = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_JOB_PATH: Final = re.compile(r"/batches/[^/:]+$")
_PAGE_SIZE: Final = 100
_MAX_FILE_BYTES: Final = 2 * 2**30  # the maximum of the service
_BYTES_PER_TIMEOUT: Final = 8 * 2**20


class TemporaryError(Exception):
    """Raised when a call failed and may succeed later: the service did not answer, or its quota is used up for now."""


class NotFoundError(Exception):
    """Raised when the service does not have, or no longer has, the requested job or file."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """State of a job, as reported by the service.

    Attributes:
        state (`str`): `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED`, `CANCELLED`, `EXPIRED`, ...
        answered_requests (`int`, *optional*, defaults to 0): number of answered requests, 0 if not reported.
        requests (`int`, *optional*, defaults to 0): number of requests of the job, 0 if not reported.
        results_file (`str`, *optional*): name of the file of results, `files/...`; otherwise empty.
        error_message (`str`, *optional*): why the job failed, in one line; otherwise empty.
    """

    state: str
    answered_requests: int = 0
    requests: int = 0
    results_file: str = ""
    error_message: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether the job has ended, successfully or not."""
        return self.state in _END_STATES


class BatchService:
    """Client of Gemini's batch and file APIs for one model.

    All methods but `close` and `discard` raise `TemporaryError` if the call may succeed later, and `TeacherError` if
    the key, the model or the request is refused permanently.

    Args:
        teacher (`str`): name of the teacher in error messages.
        model (`str`): name of the model.
        key (`str`): API key.
        server (`str`): name of the server in error messages.
        url (`str | None`): URL of another server; None for Google's.
        timeout_s (`float`): timeout in seconds of each call, and of each 8 MiB of a file.
    """

    def __init__(self, teacher: str, model: str, *, key: str, server: str, url: str | None, timeout_s: float) -> None:
        from google.genai import Client
        from google.genai.types import HttpOptions

        self._service = Service(teacher, server, KEY_VARIABLES[0])
        self._model = model
        self._key = key
        self._server = server
        self._timeout_s = timeout_s
        # Job name -> JSON of the newest response about the job, because google-genai's types omit parts of it.
        self._job_bodies: dict[str, dict[str, Any]] = {}
        self._http = httpx.AsyncClient(
            timeout=timeout_s,
            # httpx decompresses without a limit, so compressed responses are refused.
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [self._limit_response, self._capture_job]},
        )
        options = HttpOptions(
            base_url=url,
            # The service documents batches and files for this version.
            api_version="v1beta",
            timeout=round(timeout_s * 1000),
            httpx_async_client=self._http,
        )
        self._client = Client(api_key=key, vertexai=False, http_options=options)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aio.aclose()
        await self._http.aclose()

    async def upload(self, path: Path, display_name: str) -> str:
        """Upload a file of requests and return its name at the service, `files/...`.

        Args:
            path (`Path`): the file.
            display_name (`str`): display name of the file at the service.
        """
        from google.genai.types import UploadFileConfig

        config = UploadFileConfig(display_name=display_name, mime_type="jsonl")
        file = await self._call(self._client.aio.files.upload(file=path, config=config))
        return self._require_name(file.name)

    async def submit(self, file: str, display_name: str) -> str:
        """Create a job from an uploaded file and return its name, `batches/...`.

        The job may exist even if this raises `TemporaryError`: `find_job` finds it by its display name.

        Args:
            file (`str`): name of the uploaded file, `files/...`.
            display_name (`str`): display name of the job.
        """
        from google.genai.types import CreateBatchJobConfig

        config = CreateBatchJobConfig(display_name=display_name)
        job = await self._call(self._client.aio.batches.create(model=self._model, src=file, config=config))
        return self._require_name(job.name)

    async def find_job(self, display_name: str) -> str | None:
        """Return the name of the job with a display name, or None if there is none.

        Args:
            display_name (`str`): display name of the job.
        """

        async def search() -> str | None:
            pages = await self._client.aio.batches.list(config={"page_size": _PAGE_SIZE})
            async for job in pages:
                if job.display_name == display_name:
                    return job.name
            return None

        return await self._call(search())

    async def get_status(self, name: str) -> JobStatus:
        """Return the state of a job.

        Args:
            name (`str`): name of the job, `batches/...`.

        Raises:
            NotFoundError: the job does not exist.
        """
        job = await self._call(self._client.aio.batches.get(name=name), not_found_codes=(404,))
        # google-genai's type omits the progress of a job and its error.
        body = self._job_bodies.pop(name, {})
        stats, error = _as_dict(_as_dict(body.get("metadata")).get("batchStats")), _as_dict(body.get("error"))
        return JobStatus(
            state=job.state.value.removeprefix("JOB_STATE_") if job.state else "UNSPECIFIED",
            answered_requests=_read_count(stats, "successfulRequestCount") + _read_count(stats, "failedRequestCount"),
            requests=_read_count(stats, "requestCount"),
            results_file=(job.dest.file_name or "") if job.dest else "",
            error_message=self._clean_message(str(error.get("message", ""))),
        )

    async def download(self, file: str, path: Path) -> None:
        """Download a file of results.

        Args:
            file (`str`): name of the file at the service, `files/...`.
            path (`Path`): file to write.

        Raises:
            NotFoundError: the file no longer exists.
        """
        # The service answers 403 for deleted files, as for files of other users. The key worked just before.
        await self._call(self._client.aio.files.download(file=file, destination=path), not_found_codes=(403, 404))

    async def discard(self, file: str) -> None:
        """Delete a file at the service, whose quota is 20 GB; ignore errors, because files expire after two days.

        Args:
            file (`str`): name of the file, `files/...`.
        """
        with contextlib.suppress(NotFoundError, TemporaryError, TeacherError):
            await self._call(self._client.aio.files.delete(name=file), not_found_codes=(403, 404))

    async def _call(self, call: Awaitable[T], not_found_codes: tuple[int, ...] = ()) -> T:
        """Await a call of google-genai and translate its errors; `not_found_codes` become `NotFoundError`."""
        from google.genai.errors import APIError

        problem: Exception
        try:
            return await call
        except APIError as error:
            problem = self._translate_error(error, not_found_codes)
        except (TimeoutError, httpx.TimeoutException):
            problem = TemporaryError(f"{self._server} gave no answer within {self._timeout_s:g} s")
        except (httpx.ConnectError, ConnectionError) as error:
            problem = TemporaryError(f"{self._server} cannot be reached ({type(error).__name__})")
        except httpx.HTTPError as error:
            problem = TemporaryError(f"the connection to {self._server} was lost ({type(error).__name__})")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # google-genai does not validate bodies: a truncated or foreign one may raise any of these.
            problem = TemporaryError(f"the reply of {self._server} is not Gemini's JSON ({type(error).__name__})")
        # Raised outside of `except`, so that the traceback does not include the original error, which may quote the
        # key.
        raise problem

    def _translate_error(self, error: APIError, not_found_codes: tuple[int, ...]) -> Exception:
        """Return the exception to raise for an error status of the service."""
        if error.code in not_found_codes:
            return NotFoundError(self._clean_message(str(error.message)))
        failure = translate_api_error("", error, service=self._service, secret=self._key)
        if isinstance(failure, Reply):
            return self._refuse(failure.refused)
        if failure.error is not None:
            return failure.error
        if failure.kind in (FailureKind.TRANSIENT, FailureKind.OVERLOADED):
            return TemporaryError(failure.message)
        return self._refuse(failure.message)

    def _refuse(self, reason: str) -> TeacherError:
        return TeacherError(
            f"{self._service.teacher} refuses a batch ({reason}): send the requests one by one with "
            f"--teacher gemini:{self._model}"
        )

    def _require_name(self, name: str | None) -> str:
        if not name:
            raise TemporaryError(f"the reply of {self._server} is not Gemini's JSON (no name)")
        return name

    def _clean_message(self, text: str) -> str:
        return one_line(text.replace(self._key, "<key>"))

    async def _limit_response(self, response: httpx.Response) -> None:
        """Refuse a redirect or a compressed response, and limit the size and the time of the body; an event hook."""
        refuse_redirect(self._server, str(response.request.url), response.status_code, response.headers)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise TemporaryError(f"the reply of {self._server} is compressed ({one_line(encoding)})")
        is_file = response.status_code == 200 and response.request.url.path.endswith(":download")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _BoundedStream(
            response.stream,
            self._server,
            max_bytes=_MAX_FILE_BYTES if is_file else MAX_RESPONSE_BYTES,
            timeout_s=self._timeout_s,
        )

    async def _capture_job(self, response: httpx.Response) -> None:
        """Keep the JSON of a response about a job; an event hook of httpx."""
        if response.request.method != "GET" or not _JOB_PATH.search(response.request.url.path):
            return
        await response.aread()
        try:
            body = _as_dict(response.json())
        except (ValueError, RecursionError):
            return
        self._job_bodies[str(body.get("name", ""))] = body


class _BoundedStream(httpx.AsyncByteStream):
    """A body of limited size, which must arrive at 8 MiB per timeout; httpx limits only the time between two bytes."""

    def __init__(self, stream: httpx.AsyncByteStream, server: str, *, max_bytes: int, timeout_s: float) -> None:
        self._stream = stream
        self._server = server
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, start = 0, time.monotonic()
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise TemporaryError(f"the reply of {self._server} is larger than {self._max_bytes:,} bytes")
            if time.monotonic() - start > self._timeout_s * (1 + size / _BYTES_PER_TIMEOUT):
                raise TemporaryError(f"{self._server} gave no complete answer within {self._timeout_s:g} s")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_count(stats: dict[str, Any], name: str) -> int:
    """Return a count, which the service sends as a JSON string; 0 if it is missing."""
    text = str(stats.get(name, 0))
    return int(text) if text.isdecimal() else 0
