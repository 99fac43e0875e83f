"""Implements the teacher `openai`, for servers with OpenAI's protocol: vLLM, SGLang, llama.cpp, OpenAI itself.

    compact generate IMAGES --out RUN --teacher openai:MODEL --teacher-url http://localhost:8000/v1

A request has a prompt, an image and a pydantic schema; a reply is the model's JSON text, unparsed. Each request is sent
once, with a timeout; the dispatcher retries. The key comes from OPENAI_API_KEY; a private server may need none. Needs
the extra `openai`: this module is imported only when its teacher is opened.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any, Final, TypedDict
from urllib.parse import urlsplit, urlunsplit

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, omit
from pydantic import BaseModel, ValidationError

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.base import Failure, Reply, Request, answer_each
from compact_hf.teachers.failures import get_failure_kind
from compact_hf.teachers.http import clamp_tokens, one_line, parse_retry_after, parse_server_url, read_api_key
from compact_hf.teachers.registry import TeacherSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionContentPartParam
    from openai.types.shared_params import ResponseFormatJSONSchema

SERVICE_URL: Final = "https://api.openai.com/v1"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
# Seconds. Longer than a hosted service needs, because a server on one GPU queues requests.
TIMEOUT_S: Final = 300.0
_NO_KEY: Final = "no-key-needed"  # openai's client requires a key
# Errors with status 400 that are refusals of this image, not mistakes in the request.
_CONTENT_ERRORS: Final = ("content_filter", "content_policy_violation")


class OpenAI:
    """Teacher that asks one model of an OpenAI-compatible server.

    Args:
        model (`str`): name of the model, as the server lists it at `/v1/models`.
        url (`str`, *optional*): URL of the server, with or without `/v1`; defaults to OPENAI_BASE_URL, or else to
            OpenAI.
        timeout_s (`float`, *optional*, defaults to 300): timeout of a request in seconds.
        max_text_tokens (`int`, *optional*): ask for free text of at most this number of tokens, decoded greedily,
            instead of JSON of the request's schema. The limit and greedy decoding are not requested from OpenAI itself,
            whose current models do not accept these settings.

    Raises:
        UsageError: no model is named, OpenAI would be asked without a key, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    is_batch = False
    source_type: str | None = None

    def __init__(
        self, model: str, *, url: str | None = None, timeout_s: float = TIMEOUT_S, max_text_tokens: int | None = None
    ) -> None:
        if not model:
            raise UsageError("the teacher openai needs the name of a model: give --teacher openai:MODEL")
        url = url or os.environ.get("OPENAI_BASE_URL") or SERVICE_URL
        self._server = parse_server_url(url)
        self._key = read_api_key([KEY_VARIABLE]) or _NO_KEY
        is_service = f".{urlsplit(url).hostname}".endswith(".openai.com")
        if self._key == _NO_KEY and is_service:
            raise UsageError(
                f"the teacher openai needs a key and found none: set {KEY_VARIABLE} in the environment, or name a "
                "server of your own with --teacher-url, such as http://localhost:8000/v1"
            )
        self.name = f"openai:{model}"
        self._model = model
        self._url = _with_version(url)
        self._timeout_s = timeout_s
        self._is_free_text = max_text_tokens is not None
        self._sampling: _Sampling = {}
        if max_text_tokens is not None and not is_service:
            # `max_tokens` is the older name of this setting, which every server supports.
            self._sampling = {"temperature": 0.0, "max_tokens": max_text_tokens}
        self._client: AsyncOpenAI | None = None

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
        self._client = self._client or AsyncOpenAI(
            api_key=self._key, base_url=self._url, timeout=self._timeout_s, max_retries=0
        )
        async for item in answer_each(requests, self._answer):
            yield item

    async def flush(self) -> None:
        """Do nothing, because requests are never held back."""

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _answer(self, request: Request) -> Reply | Failure:
        """Send one request and return its result; every error but a permanent refusal becomes a `Failure`."""
        try:
            body = await self._send(request)
        except APIStatusError as error:
            answer = self._translate_error(request, error)
        except (TimeoutError, APITimeoutError):
            answer = Failure(request.key, f"{self._server} gave no answer within {self._timeout_s:g} s")
        except APIConnectionError as error:
            cause = error.__cause__ or error
            reason = one_line(str(cause)) or type(cause).__name__
            answer = Failure(request.key, f"the connection to {self._server} failed ({reason})")
        else:
            return _parse_reply(request, body, self._model, allow_truncated=self._is_free_text)
        # Raised outside of `except`, so that the traceback does not include the original error, which may quote the
        # key.
        if isinstance(answer, TeacherError):
            raise answer
        return answer

    async def _send(self, request: Request) -> bytes:
        """Send a request and return the raw body of the response; openai's own parser would accept any JSON."""
        if self._client is None:
            raise TeacherError(f"the teacher {self.name} was closed")
        content: list[ChatCompletionContentPartParam] = [{"type": "text", "text": request.prompt}]
        if request.encoded_image is not None:
            url = f"data:image/jpeg;base64,{await request.encoded_image.base64()}"
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        # The timeout of httpx applies between two bytes, so it never ends a response that arrives byte by byte.
        async with asyncio.timeout(self._timeout_s):
            # Departure from the paper, as for Gemini: no temperature for drafts and verdicts.
            response = await self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": content}],
                response_format=omit if self._is_free_text else _response_format(request.schema),
                store=False,
                **self._sampling,
            )
        return response.content

    def _translate_error(self, request: Request, error: APIStatusError) -> Reply | Failure | TeacherError:
        """Return an error status as a refusal of the image, a failure of the request, or a permanent error."""
        code = error.status_code
        message = one_line(_error_message(error).replace(self._key, "<key>"))
        if code == 401:
            # Without the server's message: OpenAI quotes the first and last characters of the key.
            return TeacherError(
                f"{self.name} at {self._server} needs a valid key ({code}): "
                f"set {KEY_VARIABLE} and run the same command again"
            )
        if code == 403:
            return TeacherError(
                f"this key gives no access to {self.name} at {self._server} ({code}: {message}): "
                f"set another {KEY_VARIABLE} or name another model"
            )
        if code == 404:
            return TeacherError(
                f"{self.name} was not found at {self._server} ({code}: {message}): name a model that the server lists "
                "at /v1/models with --teacher openai:MODEL, and check --teacher-url"
            )
        if error.code == "insufficient_quota":
            # Also a 429, but waiting does not help.
            return TeacherError(
                f"{self.name}: the account has no credit left ({code}: {message}): add credit and run the same command "
                "again to resume"
            )
        if error.code in _CONTENT_ERRORS:
            return Reply(request.key, text="", model=self.name, refused=f"{error.code}: {message}")
        return Failure(
            request.key,
            f"{code} {message}",
            get_failure_kind(code),
            retry_after=parse_retry_after(error.response.headers.get("retry-after", "")),
        )


def _with_version(url: str) -> str:
    """Return a server's URL with the path `/v1` added if it has no path."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1"))


def _error_message(error: APIStatusError) -> str:
    """Return the server's error message from OpenAI's JSON format, another server's JSON format, or plain text."""
    body = error.body
    for name in ("error", "message", "detail"):
        if isinstance(body, dict):
            body = body.get(name, body)
    return str(body or "no message")


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a JSON schema in the strict form that OpenAI requires: all fields required, no additional fields.

    Args:
        model (`type[pydantic.BaseModel]`): class that describes the reply.
    """

    def strict(node: Any) -> Any:
        if isinstance(node, list):
            return [strict(item) for item in node]
        if not isinstance(node, dict):
            return node
        result = {name: strict(value) for name, value in node.items()}
        if result.get("type") == "object":
            result |= {"additionalProperties": False, "required": list(result.get("properties", {}))}
        return result

    schema: dict[str, Any] = strict(model.model_json_schema())
    return schema


def _response_format(schema: type[BaseModel]) -> ResponseFormatJSONSchema:
    return {
        "type": "json_schema",
        "json_schema": {"name": schema.__name__, "schema": strict_schema(schema), "strict": True},
    }


class _Sampling(TypedDict, total=False):
    temperature: float
    max_tokens: int


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None  # thinking included


class _Completion(BaseModel):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


def _parse_reply(request: Request, body: bytes, model: str, *, allow_truncated: bool) -> Reply | Failure:
    """Return the body of a response as a reply; refused, filtered and unfinished answers become refusals.

    With `allow_truncated`, an answer that reached the limit on tokens is not a refusal.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        kind = error.errors(include_url=False, include_input=False, include_context=False)[0]["type"]
        return Failure(request.key, f"the reply is not OpenAI's JSON ({kind})")
    usage = completion.usage or _Usage()
    text, refused = "", ""
    if not completion.choices:
        refused = "no choices"
    else:
        choice = completion.choices[0]
        if choice.message.refusal:
            refused = f"refused: {one_line(choice.message.refusal)}"
        elif choice.finish_reason != "stop" and not (allow_truncated and choice.finish_reason == "length"):
            refused = f"finish reason {one_line(choice.finish_reason or 'missing')}"
        elif not choice.message.content:
            refused = "empty answer"
        else:
            text = choice.message.content
    return Reply(
        request.key,
        text=text,
        refused=refused,
        model=f"openai:{_strip_directories(one_line(completion.model or model))}",
        input_tokens=clamp_tokens(usage.prompt_tokens),
        output_tokens=clamp_tokens(usage.completion_tokens),
    )


def _strip_directories(model: str) -> str:
    """Return a model's name for publication, without directories: local servers may return the path of its file."""
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if re.match(r"[/\\~.]|[A-Za-z]:[/\\]", model) else model


def open_openai(model: str, settings: TeacherSettings) -> OpenAI:
    """Return the teacher `openai`; see `opener` of `teachers.registry.Backend`.

    Args:
        model (`str`): name of the model.
        settings (`TeacherSettings`): its `url` is used.
    """
    return OpenAI(model, url=settings.url)
