"""Batches and files as Gemini's REST protocol has them, over loopback: the routes that `GeminiServer` adds to its own.

    with GeminiServer() as server:
        server.batches.looks = 5       # a job has ended at the fifth look
        generate("PICTURES", "RUN", teacher="gemini-batch", preset="efficient", teacher_url=server.url)

It reads files of requests as strictly as the service, whole or not at all, and has them answered by the same model.
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

from compact_hf.testing.scripted_model import Asked

_MAX_FILE: Final = 2_000_000_000
_REQUEST_FIELDS: Final = {
    *("contents", "generationConfig", "store", "systemInstruction", "safetySettings", "tools", "toolConfig"),
    *("cachedContent", "labels", "model"),
}
_CODES: Final = {"EXPIRED": (4, "the batch expired"), "FAILED": (13, "internal error"), "CANCELLED": (1, "cancelled")}


@dataclass(slots=True)
class BatchJob:
    """A job as the server has it: what it is called, how it will end, and the lines of its results."""

    name: str
    display_name: str
    ends_as: str
    results: list[dict[str, Any]]
    looked_at: int = 0


class GeminiBatches:
    """The batches and files of a server.

    Args:
        refused (`Callable[[Request], Response | None]`): the error for a wrong key or model.
        understood (`Callable[[dict, dict], Asked]`): reads one request, or raises a ValueError, KeyError or TypeError.
        respond (`Callable[[Asked], Response]`): answers it.

    Attributes, which may be set at any time:
        looks (`int`): at so many looks a job has ended; before, it is pending, then running.
        ends_as (`Callable[[int], str]`): how the job of a number from 0 ends: `SUCCEEDED`, `FAILED`, `EXPIRED` or
            `CANCELLED`. Only the first has results.
        fault (`Callable[[str, int], Response | None]`): called with each call and its number from 0 among its kind
            before it is carried out: a response to send instead, or None. Kinds: `upload` (its start), `chunk`,
            `create`, `created` (after the job was made), `get`, `list`, `download`.
        edit (`Callable[[list[str]], list[str]]`): what becomes of the lines of a file of results.

    Attributes to look at:
        jobs (`list[BatchJob]`): every job that was made, in order.
        files (`dict[str, bytes]`): the uploaded files that are there.
        calls (`Counter[str]`): how often each kind of call came.
    """

    def __init__(
        self,
        *,
        refused: Callable[[Request], Response | None],
        understood: Callable[[dict[str, Any], dict[str, str]], Asked],
        respond: Callable[[Asked], Response],
    ) -> None:
        self.looks = 2
        self.ends_as: Callable[[int], str] = lambda number: "SUCCEEDED"
        self.fault: Callable[[str, int], Response | None] = lambda call, number: None
        self.edit: Callable[[list[str]], list[str]] = lambda lines: lines
        self.jobs: list[BatchJob] = []
        self.files: dict[str, bytes] = {}
        self.calls: Counter[str] = Counter()
        self._refused = refused
        self._understood = understood
        self._respond = respond
        self._uploads: dict[str, tuple[int, bytearray]] = {}
        self._numbers = itertools.count(1)

    def routes(self) -> list[Route]:
        """Return where the calls come in."""
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
        upload_id = request.query_params.get("upload_id")
        if upload_id is not None:
            # The address itself is the leave to write to it: no key.
            try:
                return self._gone_wrong("chunk") or self._chunk(upload_id, request.headers, await request.body())
            except ClientDisconnect:
                return Response(status_code=499)
        if problem := self._refused(request) or self._gone_wrong("upload"):
            return problem
        headers = request.headers
        start = (headers.get("x-goog-upload-protocol"), headers.get("x-goog-upload-command"))
        size = headers.get("x-goog-upload-header-content-length", "")
        if start != ("resumable", "start") or not size.isdecimal() or int(size) > _MAX_FILE:
            return _invalid("expected the start of a resumable upload of at most 2 GB")
        upload_id = f"upload-{next(self._numbers)}"
        self._uploads[upload_id] = (int(size), bytearray())
        where = request.url.include_query_params(upload_id=upload_id, upload_protocol="resumable")
        return Response(headers={"X-Goog-Upload-URL": str(where), "X-Goog-Upload-Status": "active"})

    def _chunk(self, upload_id: str, headers: Any, body: bytes) -> Response:
        if upload_id not in self._uploads:
            return _error(404, "NOT_FOUND", "there is no such upload")
        size, received = self._uploads[upload_id]
        if headers.get("x-goog-upload-offset") != str(len(received)):
            return _invalid(f"expected the offset {len(received)}")
        received += body
        match headers.get("x-goog-upload-command"):
            case "upload":
                return Response(headers={"X-Goog-Upload-Status": "active"})
            case "upload, finalize" if len(received) == size:
                name = f"files/file{next(self._numbers)}"
                self.files[name] = bytes(received)
                del self._uploads[upload_id]
                file = {"name": name, "sizeBytes": str(size), "state": "ACTIVE", "source": "UPLOADED"}
                return JSONResponse({"file": file}, headers={"X-Goog-Upload-Status": "final"})
        return _invalid(f"expected {size} bytes and then the command finalize, got {len(received)}")

    async def _create(self, request: Request) -> Response:
        if problem := self._refused(request) or self._gone_wrong("create"):
            return problem
        try:
            batch = (await request.json())["batch"]
            display_name, file = batch["displayName"], batch["inputConfig"]["fileName"]
        except ClientDisconnect:
            return Response(status_code=499)
        except (ValueError, KeyError, TypeError) as error:
            return _invalid(f"expected batch.displayName and batch.inputConfig.fileName ({error!r})")
        if file not in self.files:
            return _not_yours(file)
        try:
            asked = self._read(self.files[file].decode())
        except ValueError as error:
            return _invalid(str(error))
        number = len(self.jobs)
        results = [_result(key, self._respond(one)) for key, one in asked.items()]
        self.jobs.append(BatchJob(f"batches/batch{number}", display_name, self.ends_as(number), results))
        return self._gone_wrong("created") or JSONResponse(_operation(self.jobs[-1], "PENDING"))

    def _read(self, text: str) -> dict[str, Asked]:
        asked: dict[str, Asked] = {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found = json.loads(line)
                if found.keys() != {"key", "request"} or found["key"] in asked:
                    raise ValueError("expected a key of its own and a request")
                if unknown := found["request"].keys() - _REQUEST_FIELDS:
                    raise ValueError(f"no such field: {sorted(unknown)[0]!r}")
                asked[found["key"]] = self._understood(found["request"], {})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"Error on line {number}: {error}") from error
        if not asked:
            raise ValueError("the file holds no requests")
        return asked

    async def _get(self, request: Request) -> Response:
        if problem := self._refused(request) or self._gone_wrong("get"):
            return problem
        job = self._job(request)
        if job is None:
            return _error(404, "NOT_FOUND", "there is no such batch")
        job.looked_at += 1
        return JSONResponse(_operation(job, self._state(job)))

    async def _list(self, request: Request) -> Response:
        if problem := self._refused(request) or self._gone_wrong("list"):
            return problem
        size, start = (int(request.query_params.get(name) or 0) for name in ("pageSize", "pageToken"))
        newest_first = self.jobs[::-1]
        end = start + (size or 50)
        page: dict[str, Any] = {"operations": [_operation(job, self._state(job)) for job in newest_first[start:end]]}
        if end < len(newest_first):
            page["nextPageToken"] = str(end)
        return JSONResponse(page)

    async def _cancel(self, request: Request) -> Response:
        job = self._job(request)
        if problem := self._refused(request):
            return problem
        if job is None:
            return _error(404, "NOT_FOUND", "there is no such batch")
        job.ends_as, job.looked_at = "CANCELLED", self.looks
        return JSONResponse({})

    async def _download(self, request: Request) -> Response:
        if problem := self._refused(request) or self._gone_wrong("download"):
            return problem
        name = f"files/{request.path_params['file']}"
        if name in self.files:
            return _invalid("only generated files can be downloaded")
        job = next((job for job in self.jobs if _results_file(job) == name), None)
        if job is None or self._state(job) != "SUCCEEDED":
            return _not_yours(name)
        lines = self.edit([json.dumps(result) for result in job.results])
        return Response("".join(f"{line}\n" for line in lines), media_type="application/jsonl")

    async def _delete(self, request: Request) -> Response:
        name = f"files/{request.path_params['file']}"
        if problem := self._refused(request):
            return problem
        return JSONResponse({}) if self.files.pop(name, None) is not None else _not_yours(name)

    def _gone_wrong(self, call: str) -> Response | None:
        number = self.calls[call]
        self.calls[call] += 1
        return self.fault(call, number)

    def _job(self, request: Request) -> BatchJob | None:
        name = f"batches/{request.path_params['batch']}"
        return next((job for job in self.jobs if job.name == name), None)

    def _state(self, job: BatchJob) -> str:
        if job.looked_at >= self.looks:
            return job.ends_as
        return "RUNNING" if job.looked_at > 1 else "PENDING"


def _operation(job: BatchJob, state: str) -> dict[str, Any]:
    count = len(job.results)
    answered = {"PENDING": 0, "RUNNING": count // 2}.get(state, count)
    metadata: dict[str, Any] = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "name": job.name,
        "displayName": job.display_name,
        "state": f"BATCH_STATE_{state}",
        "createTime": "2026-11-22T00:00:00Z",
        "batchStats": {"requestCount": str(count), "successfulRequestCount": str(answered)},
    }
    operation: dict[str, Any] = {"name": job.name, "metadata": metadata}
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
    body = json.loads(bytes(response.body))
    return {"key": key, "response": body} if response.status_code == 200 else {"key": key, "error": body["error"]}


def _invalid(why: str) -> Response:
    return _error(400, "INVALID_ARGUMENT", why)


def _not_yours(file: str) -> Response:
    return _error(403, "PERMISSION_DENIED", f"You do not have permission to access {file}, or it does not exist.")


def _error(code: int, status: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message, "status": status}}, status_code=code)
