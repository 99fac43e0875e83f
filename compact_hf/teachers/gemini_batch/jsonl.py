"""The two files of a Gemini batch: requests are written to one, and answers read from the other, a line each."""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import SourceError
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.gemini_protocol import config_for, read_response
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
