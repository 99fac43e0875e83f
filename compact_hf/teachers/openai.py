"""Implements the teacher `openai`, for servers with OpenAI's protocol: vLLM, SGLang, llama.cpp, OpenAI itself.

    compact generate IMAGES --out RUN --teacher openai:MODEL --teacher-url http://localhost:8000/v1

A request has a prompt, an image and a pydantic schema; a reply is the model's JSON text, unparsed. Each request is sent
once, with a timeout; the dispatcher retries. The key comes from OPENAI_API_KEY; a private server may need none.

openai's own client is not used: it follows redirects to any address with the image, and reads responses of any size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError

from compact_hf.errors import UsageError
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
from compact_hf.teachers.reader import is_complete_json
from compact_hf.teachers.registry import TeacherSettings

SERVICE_URL: Final = "https://api.openai.com/v1"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
# Seconds. Longer than a hosted service needs, because a server on one GPU queues requests.
TIMEOUT_S: Final = 300.0
# Headers that name who pays, for keys of several organizations, and their variables; sent to OpenAI itself only.
_ACCOUNT_VARIABLES: Final = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
_NO_KEY: Final = "no-key-needed"  # some private servers accept any key, but require one
# A server that validates strictly may know no `store`; it then stores nothing either.
_UNKNOWN_FIELD_CODES: Final = (400, 422)


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
        self._is_free_text = max_text_tokens is not None
        self._sends_store = True
        self._service = Service(self.name, self._server, KEY_VARIABLE)
        self._sampling: dict[str, Any] = {}
        if max_text_tokens is not None and not is_service:
            # `max_tokens` is the older name of this setting, which every server supports.
            self._sampling = {"temperature": 0.0, "max_tokens": max_text_tokens}
        headers = {"content-type": "application/json", "user-agent": f"compact_hf/{version('compact_hf')}"}
        # A user name and password in the URL are sent as Basic authorization, and there can be only one.
        if "@" not in urlsplit(url).netloc:
            headers["authorization"] = f"Bearer {self._key}"
        if is_service:
            headers |= {
                name: value for name, variable in _ACCOUNT_VARIABLES.items() if (value := read_api_key([variable]))
            }
        self._connections = Connections(_completions_url(url), headers, timeout_s, server=self._server)

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
        sends_store = self._sends_store
        body = await self._build_body(request, sends_store=sends_store)
        try:
            response = await self._connections.post(body)
        except NoResponseError as error:
            billed = make_lost_reply(request.key) if error.is_billed else None
            return Failure(request.key, str(error), billed=billed)
        if response.status in _UNKNOWN_FIELD_CODES and sends_store and b"store" in response.body:
            # Sent again at once, and never with this field again.
            self._sends_store = False
            return await self._answer(request)
        if response.status == 200:
            return self._read_completion(request, response)
        return self._translate_error(request, response.status, response, _parse_body(response.body))

    async def _build_body(self, request: Request, *, sends_store: bool) -> bytes:
        """Return the body of a request to `/v1/chat/completions`."""
        content: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
        if request.encoded_image is not None:
            url = f"data:image/jpeg;base64,{await request.encoded_image.base64()}"
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        # Departure from the paper, as for Gemini: no temperature for drafts and verdicts.
        settings: dict[str, Any] = dict(self._sampling)
        if sends_store:
            settings["store"] = False
        if not self._is_free_text:
            settings["response_format"] = _response_format(request.schema)
        messages = [{"role": "user", "content": content}]
        return json.dumps({"model": self._model, "messages": messages, **dict(sorted(settings.items()))}).encode()

    def _translate_error(self, request: Request, status: int, response: HttpResponse, body: Any) -> Reply | Failure:
        """Return what an error means that a response reports by its status, or by its body with the status 200."""
        codes, text = _describe_error(body)
        error = ServiceError(
            status,
            describe_body(text or response.reason or "no message", self._key),
            one_line(codes),
            retry_after=parse_retry_after(response.headers.get("retry-after", "")),
        )
        return translate_error(error, request.key, self._service)

    def _read_completion(self, request: Request, response: HttpResponse) -> Reply | Failure:
        """Return a response with status 200 as a reply, a refusal or a failure."""
        body = _parse_body(response.body)
        if isinstance(body, str) and is_html(body):
            return Failure(request.key, f"the reply of {self._server} is {describe_body(body, self._key)}")
        if (error := _find_error(body)) is not None:
            return self._translate_error(request, _error_status(error), response, error)
        try:
            completion = _Completion.model_validate(body)
        except ValidationError as invalid:
            kind = invalid.errors(include_url=False, include_input=False, include_context=False)[0]["type"]
            # A reply was made, and probably billed, although it was damaged on its way.
            unreadable = make_lost_reply(request.key)
            return Failure(request.key, f"the reply is not OpenAI's JSON ({kind})", billed=unreadable)
        choice = completion.choices[0] if completion.choices else _Choice(message=_Message())
        usage = completion.usage or _Usage()
        reply = Reply(
            request.key,
            text=_read_text(choice.message, is_free_text=self._is_free_text),
            model=f"openai:{_strip_directories(one_line(completion.model or self._model))}",
            input_tokens=clamp_tokens(usage.prompt_tokens),
            output_tokens=clamp_tokens(usage.completion_tokens),
            has_usage=usage.prompt_tokens is not None,
        )
        if choice.message.refusal:
            return replace(reply, text="", refused=f"refused: {one_line(choice.message.refusal)}")
        finish = one_line(choice.finish_reason or "")
        return judge_reply(reply, "" if finish == "stop" else finish, is_free_text=self._is_free_text)


def _completions_url(url: str) -> str:
    """Return the URL of chat completions at a server, whose URL may omit the path `/v1`."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") or "/v1"
    return urlunsplit(parts._replace(path=f"{path}/chat/completions", fragment=""))


def _parse_body(body: bytes) -> Any:
    """Return the JSON of a response, or its text if it is not JSON."""
    text = body.decode(errors="replace").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _find_error(body: Any) -> Any | None:
    """Return the error in a response with status 200, in the body itself or in its first choice; None if there is none.

    OpenRouter and other gateways report errors of the servers behind them in this way.
    """
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return body.get("error") or (first.get("error") if isinstance(first, dict) else None) or None


def _error_status(error: Any) -> int:
    """Return the HTTP status that an error in a body names, or 200 if it names none."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def _describe_error(body: Any) -> tuple[str, str]:
    """Return the codes and the message of an error in OpenAI's JSON format, another server's, or plain text."""
    codes: list[str] = []
    for name in ("error", "message", "detail"):
        if isinstance(body, dict):
            codes += [value for field in ("code", "type") if isinstance(value := body.get(field), str)]
            body = body.get(name, body)
    return " ".join(codes), "" if body is None else str(body)


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


def _response_format(schema: type[BaseModel]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": schema.__name__, "schema": strict_schema(schema), "strict": True},
    }


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    # Two names of servers for the text before the answer, in which some models also write the answer.
    reasoning_content: str | None = None
    reasoning: str | None = None


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


def _read_text(message: _Message, *, is_free_text: bool) -> str:
    """Return the text of a message; if it is empty, the text before the answer counts if it is the requested JSON."""
    content = message.content or ""
    if not isinstance(content, str):
        content = "".join(part.text or "" for part in content if part.type == "text")
    if content or is_free_text:
        return content
    return next(
        (text for text in (message.reasoning_content, message.reasoning) if text and is_complete_json(text)), ""
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
