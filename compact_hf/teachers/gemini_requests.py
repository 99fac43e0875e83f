"""What google-genai would send, at a fraction of its cost: its own request, recorded once and filled in each time.

For every request the client copies the picture several times and converts settings and schema anew, which takes more
time than all the rest. Here it writes one request of a kind, into thin air and with placeholders for picture and
prompt; address, headers, settings and schema are as the client wants them. Every further one is that one, filled in.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any, Final

import httpx

from compact_hf.errors import TeacherError
from compact_hf.teachers.base import Request
from compact_hf.teachers.gemini_protocol import config_for

if TYPE_CHECKING:
    from google.genai.types import GenerateContentResponse

_PROMPT: Final = "here stands the prompt"
_PICTURE: Final = b"here stands the picture"
_DROPPED: Final = ("content-length", "transfer-encoding")


class Requests:
    """Writes requests to one model.

    Args:
        model (`str`): without `models/`.
        key (`str`): the API key.
        url (`str | None`): another server than Google's.
        timeout_s (`float`): for each step of a request, in seconds.
    """

    def __init__(self, model: str, *, key: str, url: str | None, timeout_s: float) -> None:
        from google.genai import Client
        from google.genai.types import HttpOptions

        self._model = model
        self._timeout_s = timeout_s
        self._recorder = _Recorder()
        options = HttpOptions(
            base_url=url,
            httpx_async_client=httpx.AsyncClient(transport=self._recorder),
            # Never used; the client would make one of its own, which fails where a proxy is odd.
            httpx_client=httpx.Client(trust_env=False),
        )
        self._client = Client(api_key=key, vertexai=False, http_options=options)
        self._recorded: dict[tuple[type, bool], tuple[httpx.Request, list[bytes]]] = {}
        self._recording = asyncio.Lock()

    async def written(self, request: Request) -> httpx.Request:
        """Return the HTTP request that asks what `request` says.

        Raises:
            SourceError: its picture cannot be read any more.
            TeacherError: this google-genai writes requests in a way that is not understood here.
        """
        kind = request.schema, request.exposure is not None
        async with self._recording:
            if kind not in self._recorded:
                self._recorded[kind] = await self._record(request)
        recorded, parts = self._recorded[kind]
        filled = [json.dumps(request.prompt)[1:-1].encode()]
        if request.exposure is not None:
            filled.insert(0, (await request.exposure.base64()).encode())
        body = b"".join([parts[0], *(piece for pair in zip(filled, parts[1:], strict=True) for piece in pair)])
        timeout = httpx.Timeout(self._timeout_s).as_dict()
        return httpx.Request(
            recorded.method, recorded.url, headers=recorded.headers, content=body, extensions={"timeout": timeout}
        )

    async def _record(self, request: Request) -> tuple[httpx.Request, list[bytes]]:
        """Return the client's own request of this kind, and its body cut at picture and prompt."""
        from google.genai.types import Content, Part

        parts = [Part.from_text(text=_PROMPT)]
        if request.exposure is not None:
            parts.insert(0, Part.from_bytes(data=_PICTURE, mime_type="image/jpeg"))
        await self._client.aio.models.generate_content(
            model=self._model, contents=Content(role="user", parts=parts), config=config_for(request)
        )
        recorded = self._recorder.requests.pop()
        rest, cut = recorded.content, []
        for placeholder in ([urlsafe_b64encode(_PICTURE)] if request.exposure else []) + [_PROMPT.encode()]:
            before, found, rest = rest.partition(placeholder)
            if not found:
                raise TeacherError("this google-genai writes requests in another way; install the version before it")
            cut.append(before)
        for name in _DROPPED:
            recorded.headers.pop(name, None)
        return recorded, [*cut, rest]


class _Recorder(httpx.AsyncBaseTransport):
    """Keeps the requests that it should send, and answers nothing."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        return httpx.Response(200, json={})


def read(body: bytes) -> GenerateContentResponse:
    """Return a response's body as the client's own type; what that type does not know yet is passed over.

    Raises:
        pydantic.ValidationError: it is not Gemini's JSON.
        ValueError: it is no JSON.
        RecursionError: it is nested without end.
    """
    from google.genai.types import GenerateContentResponse
    from pydantic import ValidationError

    try:
        with warnings.catch_warnings():
            # Of a finish reason that is newer than the client it warns on stderr; the reject says it.
            warnings.simplefilter("ignore", UserWarning)
            return GenerateContentResponse.model_validate_json(body)
    except ValidationError as error:
        unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
    # Python's own reader is slower, and takes halves of surrogate pairs.
    data = json.loads(body)
    for *way, name in unknown:
        holder: Any = data
        for step in way:
            holder = holder[step]
        del holder[name]
    return GenerateContentResponse.model_validate(data)
