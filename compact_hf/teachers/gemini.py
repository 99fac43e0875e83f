"""Implements the teacher `gemini`, which asks Google's Gemini API one request at a time.

The key comes from GEMINI_API_KEY or GOOGLE_API_KEY. A request has a prompt, an image and a pydantic schema; a reply is
the model's JSON text, unparsed. Each request is sent once, with a timeout; the dispatcher retries. Requests are built
in gemini_request.py; replies and errors are parsed with google-genai's types.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import UsageError
from compact_hf.parsing import parse_json
from compact_hf.teachers.base import Failure, Reply, Request, answer_each
from compact_hf.teachers.failures import (
    Service,
    ServiceError,
    describe_body,
    is_html,
    judge_reply,
    make_lost_reply,
    translate_error,
)
from compact_hf.teachers.gemini_request import build_body
from compact_hf.teachers.http import (
    Connections,
    HttpResponse,
    NoResponseError,
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

KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


def translate_api_error(key: str, error: APIError, *, service: Service, secret: str) -> Reply | Failure:
    """Return the meaning of an error of the service for its request and for the run.

    Args:
        key (`str`): key of the request.
        error (`APIError`): the error, as google-genai reports it.
        service (`Service`): the model and the server.
        secret (`str`): the API key, which is removed from the service's message.
    """
    details = list(_iter_details(error))
    violations = [
        item for detail in details for item in _as_list(detail.get("violations")) if isinstance(item, Mapping)
    ]
    reasons = [detail.get("reason") for detail in details]
    quotas = [item.get("quotaId") for item in violations]
    links = [_as_dict(detail.get("metadata")).get("activationUrl") for detail in details]
    codes = [str(word) for word in (error.status, *reasons, *quotas) if word]
    return translate_error(
        ServiceError(
            error.code,
            describe_body(str(error.message or error.status or "no message"), secret),
            " ".join(codes),
            retry_after=retry_delay(error),
            quota=next((_describe_quota(item) for item in violations if "PerDay" in str(item.get("quotaId"))), ""),
            link=next((one_line(link) for link in links if isinstance(link, str)), ""),
        ),
        key,
        service,
    )


def _describe_quota(violation: Mapping[str, Any]) -> str:
    """Return a violated quota of `google.rpc.QuotaFailure` in words, such as `250 requests`; empty without a value."""
    value = one_line(str(violation.get("quotaValue") or ""))
    unit = "tokens" if "Token" in str(violation.get("quotaId")) else "requests"
    return value and f"{value} {unit}"


def _iter_details(error: APIError) -> Iterator[Mapping[str, Any]]:
    """Yield the `google.rpc` messages in the body of an error."""
    body = error.details
    for name in ("error", "details"):
        body = body.get(name) if isinstance(body, Mapping) else None
    yield from (detail for detail in _as_list(body) if isinstance(detail, Mapping))


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def retry_delay(error: APIError) -> float | None:
    """Return the delay in seconds that the server asks for, or None; google-genai ignores it.

    The service sends it as `google.rpc.RetryInfo` in the body; proxies send only the header `Retry-After`.

    Args:
        error (`APIError`): the error.
    """
    for detail in _iter_details(error):
        if str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
            if match:
                return float(match[1])
    return parse_retry_after(getattr(error.response, "headers", {}).get("retry-after", ""))


def read_response(key: str, response: GenerateContentResponse, model: str) -> Reply | Failure:
    """Return a response as a reply. A blocked prompt, a blocked answer and an unfinished answer are refusals.

    Args:
        key (`str`): key of the request.
        response (`GenerateContentResponse`): the response.
        model (`str`): name of the model, used if the response does not name one.

    Returns:
        The reply, or a failure if the response is empty or not one of Gemini.
    """
    usage = response.usage_metadata
    if not (response.candidates or response.prompt_feedback or usage):
        # Valid JSON, but from another service, such as a proxy: do not journal it as a reply.
        return Failure(key, "the reply does not look like a Gemini response")
    feedback = response.prompt_feedback
    block = feedback.block_reason if feedback else None
    candidate = response.candidates[0] if response.candidates else None
    parts = (candidate.content.parts or []) if candidate and candidate.content else []
    reply = Reply(
        key,
        # JSON may contain lone surrogates, which cannot be encoded as UTF-8.
        text="".join(part.text for part in parts if part.text and not part.thought).encode(errors="replace").decode(),
        model=f"gemini:{one_line(response.model_version or model)}",
        input_tokens=clamp_tokens(usage.prompt_token_count) if usage else 0,
        output_tokens=clamp_tokens(usage.candidates_token_count) + clamp_tokens(usage.thoughts_token_count)
        if usage
        else 0,
        has_usage=usage is not None and usage.prompt_token_count is not None,
    )
    if block is not None and candidate is None:
        return replace(reply, text="", refused=f"prompt blocked: {block.value}")
    finish = candidate.finish_reason.value if candidate and candidate.finish_reason else ""
    return judge_reply(reply, "" if finish == "STOP" else finish)


def _raise_for_status(response: HttpResponse) -> None:
    """Raise google-genai's `APIError` for a response whose status is not 200."""
    from google.genai.errors import APIError

    if response.status == 200:
        return
    try:
        details = parse_json(response.body)
    except ValueError:
        details = {"message": response.body.decode(errors="replace"), "status": response.reason}
    raise APIError(response.status, details, response)  # only the headers of the response are read


def parse_response(body: bytes) -> GenerateContentResponse:
    """Parse the body of a response as google-genai's type, ignoring fields that the installed version does not know.

    Args:
        body (`bytes`): JSON of a response.

    Raises:
        pydantic.ValidationError: the body is not a response of Gemini.
        ValueError: the body is not JSON.
        RecursionError: the JSON is nested too deeply.
    """
    from google.genai.types import GenerateContentResponse
    from pydantic import ValidationError

    try:
        with warnings.catch_warnings():
            # google-genai warns about finish reasons that it does not know; the reject reports them already.
            warnings.simplefilter("ignore", UserWarning)
            return GenerateContentResponse.model_validate_json(body)
    except ValidationError as error:
        unknown_fields = [detail["loc"] for detail in error.errors() if detail["type"] == "extra_forbidden"]
    # Slow path for unknown fields. Python's parser is slower than pydantic's, and also accepts lone surrogates.
    data = json.loads(body)
    for *parents, name in unknown_fields:
        node: Any = data
        for key in parents:
            node = node[key]
        del node[name]
    return GenerateContentResponse.model_validate(data)


# Departure from the paper: its model, gemini-2.0-flash, was shut down on 2026-06-01. The default is never a `-latest`
# alias, so that a run uses the same model from its first request to its last.
TIMEOUT_S: Final = 120.0
_SERVICE_URL: Final = "https://generativelanguage.googleapis.com"
_API_VERSION: Final = "v1beta"


class Gemini:
    """Teacher that asks one Gemini model.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): name of the model, without `models/`.
        url (`str`, *optional*): URL of another server that speaks Gemini's REST protocol.
        timeout_s (`float`, *optional*, defaults to 120): timeout of a request in seconds.
        key (`str`, *optional*): API key; defaults to the one in the environment. Pass it if a server asks on behalf of
            a visitor who entered a key.

    Raises:
        UsageError: no usable key is given or in the environment, or `url` is not the address of a server.
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
                "environment, or try a run that needs no key: compact generate scenes:200 --out RUN"
            )
        self._server = "the Gemini API" if url is None else parse_server_url(url)
        self.name = f"gemini:{model}"
        self._model = model
        self._service = Service(self.name, self._server, KEY_VARIABLES[0])
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
        self._connections = Connections(address, headers, timeout_s, server=self._server)

    async def prepare(self, request: Request) -> None:
        """Encode the image; see `Teacher.prepare`.

        Args:
            request (`Request`): a request that will be sent soon.
        """
        if request.encoded_image is not None:
            await request.encoded_image.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield one `Reply` or `Failure` per request; see `Teacher.ask`.

        Args:
            requests (`AsyncIterator[Request]`): the requests.
        """
        async for item in answer_each(requests, self._answer):
            yield item

    async def flush(self) -> None:
        """Do nothing, because requests are never held back."""

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def _answer(self, request: Request) -> Reply | Failure:
        """Send one request and return its result; every error but a permanent refusal becomes a `Failure`."""
        from google.genai.errors import APIError

        body = await build_body(request)
        try:
            response = await self._connections.post(body)
        except NoResponseError as error:
            billed = make_lost_reply(request.key) if error.is_billed else None
            return Failure(request.key, str(error), billed=billed)
        try:
            _raise_for_status(response)
            answer = parse_response(response.body)
        except APIError as error:
            return translate_api_error(request.key, error, service=self._service, secret=self._key)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # A truncated or foreign body: google-genai's parser of errors may raise any of these.
            return self._read_other(request, response, error)
        return read_response(request.key, answer, self._model)

    def _read_other(self, request: Request, response: HttpResponse, error: Exception) -> Failure:
        """Return a response that is not Gemini's JSON as a failure."""
        text = response.body.decode(errors="replace")
        if is_html(text):
            return Failure(request.key, f"the reply of {self._server} is {describe_body(text, self._key)}")
        # A reply was made, and probably billed, although it was damaged on its way.
        unreadable = make_lost_reply(request.key)
        message = f"the reply of {self._server} is not Gemini's JSON ({type(error).__name__})"
        return Failure(request.key, message, billed=unreadable if response.status == 200 else None)


def open_gemini(model: str, settings: TeacherSettings) -> Gemini:
    """Return the teacher `gemini`; see `opener` of `teachers.registry.Backend`.

    Args:
        model (`str`): name of the model.
        settings (`TeacherSettings`): its `url` is used.
    """
    return Gemini(model, url=settings.url)
