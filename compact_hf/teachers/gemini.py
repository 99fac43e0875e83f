"""Gemini as teacher or verifier: one request, one reply.

The key comes from GEMINI_API_KEY or GOOGLE_API_KEY. A request has a prompt, an image and a pydantic schema; a reply is
the model's JSON text, unparsed. One attempt a request, always with a time-out; the dispatcher retries. Requests are
written in gemini_request.py; replies and errors are read as google-genai's own types.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.base import Failure, Reply, Request, answer_each
from compact_hf.teachers.gemini_request import build_body
from compact_hf.teachers.http import (
    Connections,
    HttpResponse,
    UnreachableError,
    clamp_tokens,
    one_line,
    parse_retry_after,
    parse_server_url,
    read_api_key,
)
from compact_hf.teachers.registry import GEMINI_MODEL, TeacherSettings

if TYPE_CHECKING:
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentResponse

_OVERLOAD_CODES: Final = (429, 503)
_AUTH_CODES: Final = (401, 403)


def translate_api_error(key: str, error: APIError, *, teacher: str, secret: str) -> Failure | TeacherError:
    """Say what an error of the service means: a failure of the request `key`, or the end of all asking.

    `teacher` is the name under which it is spoken of; `secret`, the API key, is cut out of what the service says.
    """
    message = one_line(str(error.message or error.status or "no message").replace(secret, "<key>"))
    if error.code in _AUTH_CODES or "API_KEY_INVALID" in str(error.details):
        return TeacherError(
            f"{teacher} refuses the key ({error.code}: {message}); set a valid GEMINI_API_KEY and run the same command"
        )
    if error.code == 404:
        name = teacher.partition(":")[0]
        return TeacherError(
            f"{teacher} is not there ({error.code}: {message}); name a model that exists with --teacher {name}:MODEL, "
            "and check --teacher-url where one is given"
        )
    return Failure(
        key,
        f"{error.code} {message}",
        is_overloaded=error.code in _OVERLOAD_CODES,
        retry_after=retry_delay(error),
        is_retryable=error.code >= 500 or error.code in (408, 429),
    )


def retry_delay(error: APIError) -> float | None:
    """Return the seconds that the server asks to wait, or None: the SDK itself ignores them.

    They stand in `google.rpc.RetryInfo` in the error's body; proxies only send the header `Retry-After`.
    """
    body = error.details
    for name in ("error", "details"):
        body = body.get(name) if isinstance(body, Mapping) else None
    for detail in body if isinstance(body, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
            if match:
                return float(match[1])
    return parse_retry_after(getattr(error.response, "headers", {}).get("retry-after", ""))


def read_response(key: str, response: GenerateContentResponse, model: str) -> Reply | Failure:
    """Turn a response into a reply. A blocked prompt, a blocked answer and an unfinished one are refusals."""
    usage = response.usage_metadata
    if not (response.candidates or response.prompt_feedback or usage):
        # JSON, but of somebody else: not to be kept as an answer.
        return Failure(key, "the reply holds nothing that Gemini's replies hold")
    input_tokens = clamp_tokens(usage.prompt_token_count) if usage else 0
    output_tokens = (
        clamp_tokens(usage.candidates_token_count) + clamp_tokens(usage.thoughts_token_count) if usage else 0
    )
    text, refused = "", ""
    if not response.candidates:
        feedback = response.prompt_feedback
        reason = feedback.block_reason if feedback else None
        refused = f"prompt blocked: {reason.value}" if reason else "no candidates"
    else:
        candidate = response.candidates[0]
        finish = candidate.finish_reason.value if candidate.finish_reason else "missing"
        parts = (candidate.content.parts or []) if candidate.content else []
        text = "".join(part.text for part in parts if part.text and not part.thought)
        if finish != "STOP":
            text, refused = "", f"finish reason {finish}"
        elif not text:
            refused = "empty answer"
    return Reply(
        key,
        # JSON may spell halves of surrogate pairs, which are no text and cannot be written down.
        text=text.encode(errors="replace").decode(),
        refused=refused,
        model=f"gemini:{one_line(response.model_version or model)}",
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _raise_for_status(response: HttpResponse) -> None:
    """Raise google-genai's `APIError` for a response whose status is not 200."""
    from google.genai.errors import APIError

    if response.status == 200:
        return
    try:
        details = json.loads(response.body)
    except ValueError:
        details = {"message": response.body.decode(errors="replace"), "status": response.reason}
    raise APIError(response.status, details, response)  # only the headers of the response are read


def parse_response(body: bytes) -> GenerateContentResponse:
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
        unknown_fields = [detail["loc"] for detail in error.errors() if detail["type"] == "extra_forbidden"]
    # Python's own reader is slower, and takes halves of surrogate pairs.
    data = json.loads(body)
    for *parents, name in unknown_fields:
        node: Any = data
        for key in parents:
            node = node[key]
        del node[name]
    return GenerateContentResponse.model_validate(data)


# The paper's model, gemini-2.0-flash, was shut down on 2026-06-01: a marked departure. Never a `-latest` alias, so that
# a run asks one model from its first request to its last.
KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
TIMEOUT_S: Final = 120.0
_SERVICE_URL: Final = "https://generativelanguage.googleapis.com"
_API_VERSION: Final = "v1beta"


class Gemini:
    """Ask one Gemini model.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): the model's name, without `models/`.
        url (`str`, *optional*): another server that speaks Gemini's REST protocol.
        timeout_s (`float`, *optional*, defaults to 120): for one request, in seconds.
        key (`str`, *optional*): instead of the environment's, where a server asks on behalf of who gave it.

    Raises:
        UsageError: no usable key given or in the environment, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    is_batch = False
    source_type: str | None = None

    def __init__(
        self, model: str = GEMINI_MODEL, *, url: str | None = None, timeout_s: float = TIMEOUT_S, key: str = ""
    ) -> None:
        self._key = key or read_api_key(KEY_VARIABLES)
        if not self._key:
            raise UsageError(
                "the teacher gemini needs a key and found none: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the "
                "environment, or try without one: compact generate scenes:200 --out RUN"
            )
        self._server = "the Gemini API" if url is None else parse_server_url(url)
        self.name = f"gemini:{model}"
        self._model = model
        self._timeout_s = timeout_s
        path = model if "/" in model else f"models/{model}"
        headers = {
            "content-type": "application/json",
            "x-goog-api-key": self._key,
            "user-agent": f"compact_hf/{version('compact_hf')}",
        }
        # Import the client and build its response model now: this takes a second, which would block the event loop
        # when the first reply arrives.
        parse_response(b"{}")
        address = f"{(url or _SERVICE_URL).rstrip('/')}/{_API_VERSION}/{path}:generateContent"
        self._connections = Connections(address, headers, timeout_s)

    async def prepare(self, request: Request) -> None:
        """See `Teacher.prepare`: the image is encoded."""
        if request.encoded_image is not None:
            await request.encoded_image.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        async for item in answer_each(requests, self._answer):
            yield item

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def _answer(self, request: Request) -> Reply | Failure:
        from google.genai.errors import APIError

        body = await build_body(request)
        try:
            response = await self._connections.post(body)
            _raise_for_status(response)
            answer = parse_response(response.body)
        except APIError as error:
            failure = translate_api_error(request.key, error, teacher=self.name, secret=self._key)
        except TimeoutError:
            failure = Failure(request.key, f"{self._server} gave no answer within {self._timeout_s:g} s")
        except UnreachableError as error:
            failure = Failure(request.key, f"{self._server} cannot be reached ({error})")
        except aiohttp.ClientError as error:
            failure = Failure(request.key, f"the connection to {self._server} broke off ({type(error).__name__})")
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # A truncated or a foreign body; the client's reading of errors ends in any of these.
            failure = Failure(request.key, f"the reply of {self._server} is not Gemini's JSON ({type(error).__name__})")
        else:
            return read_response(request.key, answer, self._model)
        # Raised out here, where no traceback shows the error behind it, which may quote the key.
        if isinstance(failure, TeacherError):
            raise failure
        return failure


def open_gemini(model: str, settings: TeacherSettings) -> Gemini:
    """Return the teacher `gemini`; see `teachers.registry.Backend`."""
    return Gemini(model, url=settings.url)
