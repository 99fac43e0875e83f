"""Implements the batches and files of Gemini's REST protocol, as further routes of `GeminiServer`.

    with GeminiServer() as server:
        server.batches.polls_to_finish = 5       # a job ends at the fifth poll
        generate("IMAGES", "RUN", teacher="gemini-batch", preset="efficient", teacher_url=server.url)

A file of requests is checked as strictly as by the real service: one invalid line makes it refuse all of the file. The
same scripted model answers the requests (scripted_model.py).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from compact_hf.testing.scripted_model import ModelRequest

_MAX_FILE_BYTES: Final = 2_000_000_000
_REQUEST_FIELDS: Final = {
    *("contents", "generationConfig", "store", "systemInstruction", "safetySettings", "tools", "toolConfig"),
    *("cachedContent", "labels", "model"),
}
# Final state without results -> (code of google.rpc.Code, message).
_CODES: Final = {"EXPIRED": (4, "the batch expired"), "FAILED": (13, "internal error"), "CANCELLED": (1, "cancelled")}


@dataclass(slots=True)
class BatchJob:
    """A batch job on the server.

    Attributes:
        name (`str`): resource name, `batches/batchN`.
        display_name (`str`): name given by the client.
        final_state (`str`): state in which the job will end.
        results (`list[dict[str, Any]]`): lines of the file of results.
        poll_count (`int`, *optional*, defaults to 0): number of times the client has asked for the state.
    """

    name: str
    display_name: str
    final_state: str
    results: list[dict[str, Any]]
    poll_count: int = 0


class GeminiBatches:
    """The batch jobs and files of a server.

    The first four attributes may be set at any time to simulate slow jobs and errors.

    Args:
        check_request (`Callable[[Request], Response | None]`): returns the error for a wrong key or model, else None.
        parse_request (`Callable[[dict, dict], ModelRequest]`): parses a request; raises ValueError, KeyError or
            TypeError if it is invalid.
        respond (`Callable[[ModelRequest], Response]`): returns the response to a request.

    Attributes:
        polls_to_finish (`int`): number of polls after which a job has ended, 2 at first. Before that it is pending,
            then running.
        final_state (`Callable[[int], str]`): returns the state in which the job with an index (from 0) ends:
            `SUCCEEDED`, `FAILED`, `EXPIRED` or `CANCELLED`. Only a job that succeeded has results.
        fault (`Callable[[str, int], Response | None]`): called before each call is handled, with its kind and its index
            (from 0) among the calls of this kind. Returns a response to send instead, or None. The kinds are `upload`
            (start of an upload), `chunk`, `create`, `created` (after the job was created), `get`, `list` and
            `download`.
        edit_results (`Callable[[list[str]], list[str]]`): called with the lines of a file of results before they are
            sent; returns the lines to send instead.
        jobs (`list[BatchJob]`): all jobs in the order of their creation.
        files (`dict[str, bytes]`): uploaded files that have not been deleted: name -> content.
        calls (`Counter[str]`): number of calls of each kind.
    """

    def __init__(
        self,
        *,
        check_request: Callable[[Request], Response | None],
        parse_request: Callable[[dict[str, Any], dict[str, str]], ModelRequest],
        respond: Callable[[ModelRequest], Response],
    ) -> None:
        self.polls_to_finish = 2
        self.final_state: Callable[[int], str] = lambda number: "SUCCEEDED"
        self.fault: Callable[[str, int], Response | None] = lambda call, number: None
        self.edit_results: Callable[[list[str]], list[str]] = lambda lines: lines
        self.jobs: list[BatchJob] = []
        self.files: dict[str, bytes] = {}
        self.calls: Counter[str] = Counter()
        self._check_request = check_request
        self._parse_request = parse_request
        self._respond = respond
        # Id of an unfinished upload -> (announced size, bytes received so far).
        self._uploads: dict[str, tuple[int, bytearray]] = {}
        self._numbers = itertools.count(1)

    def routes(self) -> list[Route]:
        """Return the routes to add to the server."""
        return [
            Route("/upload/{version}/files", self._upload, methods=["POST"]),
            Route("/{version}/files/{file}:download", self._download, methods=["GET"]),
            Route("/{version}/files/{file}", self._delete, methods=["DELETE"]),
            Route("/{version}/models/{model}:batchGenerateContent", self._create, methods=["POST"]),
            Route("/{version}/batches", self._list, methods=["GET"]),
            Route("/{version}/batches/{batch}:cancel", self._cancel, methods=["POST"]),
            Route("/{version}/batches/{batch}", self._get, methods=["GET"]),
        ]

    async def _upload(self, request: Request) -> Response:
        """Start a resumable upload and return its URL, or receive a chunk at that URL."""
        upload_id = request.query_params.get("upload_id")
        if upload_id is not None:
            # Like the service, which needs no key here, because only the client that started the upload has its URL.
            try:
                return self._take_fault("chunk") or self._receive_chunk(
                    upload_id, request.headers, await request.body()
                )
            except ClientDisconnect:
                # The client stopped in the middle of a chunk. The buffer is unchanged, so the chunk can be sent again.
                return Response(status_code=499)
        if problem := self._check_request(request) or self._take_fault("upload"):
            return problem
        headers = request.headers
        start = (headers.get("x-goog-upload-protocol"), headers.get("x-goog-upload-command"))
        size = headers.get("x-goog-upload-header-content-length", "")
        if start != ("resumable", "start") or not size.isdecimal() or int(size) > _MAX_FILE_BYTES:
            return _invalid("expected the start of a resumable upload of at most 2 GB")
        upload_id = f"upload-{next(self._numbers)}"
        self._uploads[upload_id] = (int(size), bytearray())
        upload_url = request.url.include_query_params(upload_id=upload_id, upload_protocol="resumable")
        return Response(headers={"X-Goog-Upload-URL": str(upload_url), "X-Goog-Upload-Status": "active"})

    def _receive_chunk(self, upload_id: str, headers: Any, body: bytes) -> Response:
        """Append a chunk to an upload, or finish the upload and return the file."""
        if upload_id not in self._uploads:
            return _error(404, "NOT_FOUND", "upload not found")
        size, buffer = self._uploads[upload_id]
        # Chunks must be contiguous: a repeated or skipped one is refused.
        if headers.get("x-goog-upload-offset") != str(len(buffer)):
            return _invalid(f"expected the offset {len(buffer)}")
        buffer += body
        # "upload": more chunks follow. "upload, finalize": the upload is complete and becomes a file.
        match headers.get("x-goog-upload-command"):
            case "upload":
                return Response(headers={"X-Goog-Upload-Status": "active"})
            case "upload, finalize" if len(buffer) == size:
                name = f"files/file{next(self._numbers)}"
                self.files[name] = bytes(buffer)
                del self._uploads[upload_id]
                file = {"name": name, "sizeBytes": str(size), "state": "ACTIVE", "source": "UPLOADED"}
                return JSONResponse({"file": file}, headers={"X-Goog-Upload-Status": "final"})
        return _invalid(f"expected {size} bytes and then the command finalize, got {len(buffer)}")

    async def _create(self, request: Request) -> Response:
        """Create a job from an uploaded file and compute all of its results."""
        if problem := self._check_request(request) or self._take_fault("create"):
            return problem
        try:
            batch = (await request.json())["batch"]
            display_name, file = batch["displayName"], batch["inputConfig"]["fileName"]
        except ClientDisconnect:
            return Response(status_code=499)
        except (ValueError, KeyError, TypeError) as error:
            return _invalid(f"expected batch.displayName and batch.inputConfig.fileName ({error!r})")
        if file not in self.files:
            return _permission_denied(file)
        try:
            model_requests = self._parse_file(self.files[file].decode())
        except ValueError as error:
            return _invalid(str(error))
        # All results are computed now; the polls only delay the time at which the client sees them.
        number = len(self.jobs)
        results = [_result(key, self._respond(model_request)) for key, model_request in model_requests.items()]
        self.jobs.append(BatchJob(f"batches/batch{number}", display_name, self.final_state(number), results))
        # An error here simulates a lost response: the job exists, but the client does not learn its name.
        return self._take_fault("created") or JSONResponse(_operation(self.jobs[-1], "PENDING"))

    def _parse_file(self, text: str) -> dict[str, ModelRequest]:
        """Return key -> request for a file of JSON lines; ValueError with the line number if one is invalid."""
        model_requests: dict[str, ModelRequest] = {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = json.loads(line)
                if entry.keys() != {"key", "request"} or entry["key"] in model_requests:
                    raise ValueError("expected a unique key and a request")
                if unknown := entry["request"].keys() - _REQUEST_FIELDS:
                    raise ValueError(f"no such field: {sorted(unknown)[0]!r}")
                model_requests[entry["key"]] = self._parse_request(entry["request"], {})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                # AttributeError: the line, or its request, is not a JSON object.
                raise ValueError(f"Error on line {number}: {error}") from error
        if not model_requests:
            raise ValueError("the file contains no requests")
        return model_requests

    async def _get(self, request: Request) -> Response:
        """Return the state of a job; this counts as a poll."""
        if problem := self._check_request(request) or self._take_fault("get"):
            return problem
        job = self._find_job(request)
        if job is None:
            return _error(404, "NOT_FOUND", "there is no such batch")
        job.poll_count += 1
        return JSONResponse(_operation(job, self._state(job)))

    async def _list(self, request: Request) -> Response:
        """Return a page of the jobs, the newest first."""
        if problem := self._check_request(request) or self._take_fault("list"):
            return problem
        # A page token is the index of the first job of the page. The default page has 50 jobs.
        size, start = (int(request.query_params.get(name) or 0) for name in ("pageSize", "pageToken"))
        newest_first = self.jobs[::-1]
        end = start + (size or 50)
        page: dict[str, Any] = {"operations": [_operation(job, self._state(job)) for job in newest_first[start:end]]}
        if end < len(newest_first):
            page["nextPageToken"] = str(end)
        return JSONResponse(page)

    async def _cancel(self, request: Request) -> Response:
        """End a job as cancelled."""
        job = self._find_job(request)
        if problem := self._check_request(request):
            return problem
        if job is None:
            return _error(404, "NOT_FOUND", "there is no such batch")
        # As many polls as a finished job has, so that the state is final at once.
        job.final_state, job.poll_count = "CANCELLED", self.polls_to_finish
        return JSONResponse({})

    async def _download(self, request: Request) -> Response:
        """Return the file of results of a job that succeeded."""
        if problem := self._check_request(request) or self._take_fault("download"):
            return problem
        name = f"files/{request.path_params['file']}"
        if name in self.files:
            return _invalid("only generated files can be downloaded")
        job = next((job for job in self.jobs if _results_file(job) == name), None)
        if job is None or self._state(job) != "SUCCEEDED":
            return _permission_denied(name)
        lines = self.edit_results([json.dumps(result) for result in job.results])
        return Response("".join(f"{line}\n" for line in lines), media_type="application/jsonl")

    async def _delete(self, request: Request) -> Response:
        name = f"files/{request.path_params['file']}"
        if problem := self._check_request(request):
            return problem
        return JSONResponse({}) if self.files.pop(name, None) is not None else _permission_denied(name)

    def _take_fault(self, call: str) -> Response | None:
        """Count a call, and return the response of `fault` for it, or None."""
        number = self.calls[call]
        self.calls[call] += 1
        return self.fault(call, number)

    def _find_job(self, request: Request) -> BatchJob | None:
        name = f"batches/{request.path_params['batch']}"
        return next((job for job in self.jobs if job.name == name), None)

    def _state(self, job: BatchJob) -> str:
        """Return the state of a job after the polls so far."""
        # PENDING at the first poll, RUNNING from the second one, until the last poll shows the final state.
        if job.poll_count >= self.polls_to_finish:
            return job.final_state
        return "RUNNING" if job.poll_count > 1 else "PENDING"


def _operation(job: BatchJob, state: str) -> dict[str, Any]:
    """Return a job in the format of the service, a long-running operation."""
    count = len(job.results)
    success_count = {"PENDING": 0, "RUNNING": count // 2}.get(state, count)
    metadata: dict[str, Any] = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "name": job.name,
        "displayName": job.display_name,
        "state": f"BATCH_STATE_{state}",
        "createTime": "2026-11-22T00:00:00Z",
        # Google's JSON writes 64-bit integers as strings.
        "batchStats": {"requestCount": str(count), "successfulRequestCount": str(success_count)},
    }
    operation: dict[str, Any] = {"name": job.name, "metadata": metadata}
    # Ended without results: only an error. PENDING and RUNNING have neither `done` nor a result.
    if state in _CODES:
        code, message = _CODES[state]
        operation |= {"done": True, "error": {"code": code, "message": message}}
    elif state == "SUCCEEDED":
        metadata["output"] = {"responsesFile": _results_file(job)}
        operation |= {"done": True, "response": metadata["output"]}
    return operation


def _results_file(job: BatchJob) -> str:
    return f"files/results-of-{job.name.partition('/')[2]}"


def _result(key: str, response: Response) -> dict[str, Any]:
    """Return one line of a file of results."""
    body = json.loads(bytes(response.body))
    return {"key": key, "response": body} if response.status_code == 200 else {"key": key, "error": body["error"]}


def _invalid(message: str) -> Response:
    return _error(400, "INVALID_ARGUMENT", message)


def _permission_denied(file: str) -> Response:
    # Like the service, which gives one answer for files of other users and for files that do not exist.
    return _error(403, "PERMISSION_DENIED", f"You do not have permission to access {file}, or it does not exist.")


def _error(code: int, status: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message, "status": status}}, status_code=code)
