"""Any server that speaks OpenAI's protocol as teacher or verifier: vLLM, SGLang, llama.cpp's server, OpenAI itself.

In: requests with a prompt, an image and a pydantic schema. Out: the model's JSON text, unparsed. One attempt a
request, always with a time-out; the engine retries. The key comes from OPENAI_API_KEY; one's own server needs none.
The extra `openai` stands among the imports: this file is imported only where its teacher is opened.
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
from compact_hf.teachers.http import clamp_tokens, one_line, parse_retry_after, parse_server_url, read_api_key
from compact_hf.teachers.registry import TeacherSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionContentPartParam
    from openai.types.shared_params import ResponseFormatJSONSchema

SERVICE_URL: Final = "https://api.openai.com/v1"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
# Longer than a service takes: a server on one GPU lets requests wait until it has room for them.
TIMEOUT_S: Final = 300.0
_NO_KEY: Final = "no-key-needed"  # the SDK insists on one
_OVERLOAD_CODES: Final = (429, 503)
# Errors 400 that are the model's answer to this image, not a mistake in the request.
_CONTENT_ERRORS: Final = ("content_filter", "content_policy_violation")


class OpenAI:
    """Ask one model behind an OpenAI-compatible server.

    Args:
        model (`str`): the model's name, as the server lists it at `/v1/models`.
        url (`str`, *optional*, defaults to OPENAI_BASE_URL, else OpenAI itself): the server; `/v1` may be left out.
        timeout_s (`float`, *optional*, defaults to 300): for one request, in seconds.
        max_text_tokens (`int`, *optional*): have it answer in free text of at most so many tokens, instead of in JSON
            of the request's schema, and greedily; OpenAI itself takes neither setting with its current models, and is
            left to its own.

    Raises:
        UsageError: no model is named, OpenAI is to be asked without a key, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    is_batch = False
    source_type: str | None = None

    def __init__(
        self, model: str, *, url: str | None = None, timeout_s: float = TIMEOUT_S, max_text_tokens: int | None = None
    ) -> None:
        if not model:
            raise UsageError("the teacher openai needs the name of a model: --teacher openai:MODEL")
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
            # `max_tokens`, which is the older name: every server knows it.
            self._sampling = {"temperature": 0.0, "max_tokens": max_text_tokens}
        self._client: AsyncOpenAI | None = None

    async def prepare(self, request: Request) -> None:
        """See `Teacher.prepare`: the image is encoded."""
        if request.encoded_image is not None:
            await request.encoded_image.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        self._client = self._client or AsyncOpenAI(
            api_key=self._key, base_url=self._url, timeout=self._timeout_s, max_retries=0
        )
        async for item in answer_each(requests, self._answer):
            yield item

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _answer(self, request: Request) -> Reply | Failure:
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
        # Raised out here, where no traceback shows the error behind it, which may quote the key.
        if isinstance(answer, TeacherError):
            raise answer
        return answer

    async def _send(self, request: Request) -> bytes:
        """Return the body of the server's answer. The SDK's own reading of it would let anything pass as a reply."""
        if self._client is None:
            raise TeacherError(f"the teacher {self.name} was closed")
        content: list[ChatCompletionContentPartParam] = [{"type": "text", "text": request.prompt}]
        if request.encoded_image is not None:
            url = f"data:image/jpeg;base64,{await request.encoded_image.base64()}"
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        # httpx counts its time-out from one byte to the next; a server that drips would be waited for without end.
        async with asyncio.timeout(self._timeout_s):
            # No temperature of drafts and verdicts: a departure that RECIPE names, the same as for Gemini.
            response = await self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": content}],
                response_format=omit if self._is_free_text else _response_format(request.schema),
                store=False,
                **self._sampling,
            )
        return response.content

    def _translate_error(self, request: Request, error: APIStatusError) -> Reply | Failure | TeacherError:
        code = error.status_code
        message = one_line(_error_message(error).replace(self._key, "<key>"))
        if code == 401:
            # What the server says is left out: OpenAI quotes the key's first and last letters.
            return TeacherError(
                f"{self.name} at {self._server} wants a valid key ({code}); set {KEY_VARIABLE} and run the same command"
            )
        if code == 403:
            return TeacherError(
                f"{self.name} at {self._server} may not be asked with this key ({code}: {message}); "
                f"set another {KEY_VARIABLE} or name another model"
            )
        if code == 404:
            return TeacherError(
                f"{self.name} is not at {self._server} ({code}: {message}); name a model that the server lists at "
                "/v1/models with --teacher openai:MODEL, and check --teacher-url"
            )
        if error.code == "insufficient_quota":
            # A 429 too, but one that no waiting mends.
            return TeacherError(f"{self.name}: the account is used up ({code}: {message}); top it up, then go on")
        if error.code in _CONTENT_ERRORS:
            return Reply(request.key, text="", model=self.name, refused=f"{error.code}: {message}")
        return Failure(
            request.key,
            f"{code} {message}",
            is_overloaded=code in _OVERLOAD_CODES,
            retry_after=parse_retry_after(error.response.headers.get("retry-after", "")),
            is_retryable=code >= 500 or code in (408, 409, 429),
        )


def _with_version(url: str) -> str:
    """Return an address whose path is the protocol's usual one where it has none."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1"))


def _error_message(error: APIStatusError) -> str:
    """Return what the server says: in OpenAI's envelope, in an older or a foreign one, or as plain text."""
    body = error.body
    for name in ("error", "message", "detail"):
        if isinstance(body, dict):
            body = body.get(name, body)
    return str(body or "no message")


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema in the strict form that OpenAI demands: every field required, no others."""

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
    """Turn a response's body into a reply. A refusal, a filtered answer and an unfinished one are refusals, but for
    free text that was cut."""
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
    """Return a model's name as it may be published: local servers tend to name the file that they read it from."""
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if re.match(r"[/\\~.]|[A-Za-z]:[/\\]", model) else model


def open_openai(model: str, settings: TeacherSettings) -> OpenAI:
    """Return the teacher `openai`; see `teachers.registry.Backend`."""
    return OpenAI(model, url=settings.url)
