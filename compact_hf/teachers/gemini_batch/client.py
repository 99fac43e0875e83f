"""The calls that a Gemini batch takes, through google-genai: files up and down, jobs made, found and looked at.

Each is made once, always with a time-out. What may pass is raised as `TemporaryError`, what never will as
a TeacherError.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from compact_hf.errors import TeacherError
from compact_hf.teachers.gemini import translate_api_error
from compact_hf.teachers.http import one_line

if TYPE_CHECKING:
    import httpx
    from google.genai.errors import APIError

T = TypeVar("T")

_END_STATES: Final = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_JOB_PATH: Final = re.compile(r"/batches/[^/:]+$")
_PAGE_SIZE: Final = 100


class TemporaryError(Exception):
    """A call that did not work this time: nobody answered, or the service has no room for more."""


class NotFoundError(Exception):
    """The service does not have, or no longer has, what was asked for."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as the service sees it.

    Attributes:
        state (`str`): `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED`, `CANCELLED`, `EXPIRED`, ...
        answered_requests, requests (`int`): how many requests were answered, of how many; 0 of 0 where it does not say.
        results_file (`str`): the file of results, `files/...`, or empty.
        error_message (`str`): what it says of a job that failed, one line, or empty.
    """

    state: str
    answered_requests: int = 0
    requests: int = 0
    results_file: str = ""
    error_message: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in _END_STATES


class BatchService:
    """Gemini's batches and files for one model.

    Args:
        teacher (`str`): the name under which errors speak of it.
        model (`str`): the model's name.
        key (`str`): the API key.
        server (`str`): the server's name in errors.
        url (`str | None`): another server than the service's own.
        timeout_s (`float`): for each call, and each 8 MiB of a file, in seconds.

    Raises (every call):
        Trouble: it may work later.
        TeacherError: it never will: the key, the model or the request is refused.
    """

    def __init__(self, teacher: str, model: str, *, key: str, server: str, url: str | None, timeout_s: float) -> None:
        import httpx
        from google.genai import Client
        from google.genai.types import HttpOptions

        self._teacher = teacher
        self._model = model
        self._key = key
        self._server = server
        self._timeout_s = timeout_s
        self._job_bodies: dict[str, dict[str, Any]] = {}
        self._http = httpx.AsyncClient(timeout=timeout_s, event_hooks={"response": [self._capture_job]})
        options = HttpOptions(
            base_url=url,
            # The one in which the service documents batches and files.
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
        """Send a file of requests and return its name there, `files/...`."""
        from google.genai.types import UploadFileConfig

        config = UploadFileConfig(display_name=display_name, mime_type="jsonl")
        file = await self._call(self._client.aio.files.upload(file=path, config=config))
        return self._require_name(file.name)

    async def submit(self, file: str, display_name: str) -> str:
        """Make a job of an uploaded file and return its name, `batches/...`. Trouble may come after it was made."""
        from google.genai.types import CreateBatchJobConfig

        config = CreateBatchJobConfig(display_name=display_name)
        job = await self._call(self._client.aio.batches.create(model=self._model, src=file, config=config))
        return self._require_name(job.name)

    async def find_job(self, display_name: str) -> str | None:
        """Return the name of the job that was made under this display name, None where there is none."""

        async def search() -> str | None:
            pages = await self._client.aio.batches.list(config={"page_size": _PAGE_SIZE})
            async for job in pages:
                if job.display_name == display_name:
                    return job.name
            return None

        return await self._call(search())

    async def get_status(self, name: str) -> JobStatus:
        """Return how a job stands.

        Raises:
            Gone: there is no such job.
        """
        job = await self._call(self._client.aio.batches.get(name=name), not_found_codes=(404,))
        # The SDK leaves out how far a job is, and why it failed.
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
        """Fetch a file of results.

        Raises:
            Gone: it is not there any more.
        """
        # Files that are gone are answered like those of others: 403. The key itself was good a moment ago.
        await self._call(self._client.aio.files.download(file=file, destination=path), not_found_codes=(403, 404))

    async def discard(self, file: str) -> None:
        """Delete a file at the service, which holds 20 GB of them. Where this does not work, it does so in two days."""
        with contextlib.suppress(NotFoundError, TemporaryError, TeacherError):
            await self._call(self._client.aio.files.delete(name=file), not_found_codes=(403, 404))

    async def _call(self, call: Awaitable[T], not_found_codes: tuple[int, ...] = ()) -> T:
        import httpx
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
            problem = TemporaryError(f"the connection to {self._server} broke off ({type(error).__name__})")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # The SDK reads bodies without looking at what they are: a truncated or foreign one ends in any of these.
            problem = TemporaryError(f"the reply of {self._server} is not Gemini's JSON ({type(error).__name__})")
        # Raised out here, where no traceback shows the error behind it, which may quote the key.
        raise problem

    def _translate_error(self, error: APIError, not_found_codes: tuple[int, ...]) -> Exception:
        if error.code in not_found_codes:
            return NotFoundError(self._clean_message(str(error.message)))
        failure = translate_api_error("", error, teacher=self._teacher, secret=self._key)
        if isinstance(failure, TeacherError):
            return failure
        if failure.is_retryable:
            return TemporaryError(failure.message)
        return TeacherError(
            f"{self._teacher} refuses a batch ({failure.message}); the same requests go one by one with "
            f"--teacher gemini:{self._model}"
        )

    def _require_name(self, name: str | None) -> str:
        if not name:
            raise TemporaryError(f"the reply of {self._server} is not Gemini's JSON (no name)")
        return name

    def _clean_message(self, text: str) -> str:
        return one_line(text.replace(self._key, "<key>"))

    async def _capture_job(self, response: httpx.Response) -> None:
        if response.request.method != "GET" or not _JOB_PATH.search(response.request.url.path):
            return
        await response.aread()
        try:
            body = _as_dict(response.json())
        except ValueError:
            return
        self._job_bodies[str(body.get("name", ""))] = body


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_count(stats: dict[str, Any], name: str) -> int:
    """Return one of the counts, which JSON spells as texts."""
    text = str(stats.get(name, 0))
    return int(text) if text.isdecimal() else 0
