"""Serves OpenAI's protocol on the loopback interface, for tests, benchmarks and experiments without a model.

    with OpenAIServer() as server:
        generate("IMAGES", "RUN", teacher="openai:double", teacher_url=server.url)     # OPENAI_API_KEY=test-key

The server checks requests as strictly as the real service (key, fields, image, strict schema). A scripted model that
ignores the content of images answers them (scripted_model.py). Errors are simulated by the argument `fault`.

As a command it serves until Ctrl-C:

    python -m compact_hf.testing.openai --latency 0.3
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from compact_hf.records import digest
from compact_hf.testing.scripted_model import (
    KEY,
    Fault,
    ModelRequest,
    ModelServer,
    make_model_request,
    make_text_reply,
    serve_until_ctrl_c,
)

# The fields that requests of teachers may have. Sampling settings are not among them, because current models of OpenAI
# refuse them.
_REQUEST_FIELDS: Final = {"model", "messages", "response_format", "store", "max_completion_tokens", "reasoning_effort"}
# Further fields of requests for free text, which self-hosted servers such as vLLM accept.
_SAMPLING_FIELDS: Final = {"temperature", "max_tokens"}
_DATA_URL_PREFIX: Final = "data:image/jpeg;base64,"


class OpenAIServer(ModelServer):
    """Answers `/v1/chat/completions` like a model that follows the requested schema, and lists it at `/v1/models`.

    Args:
        key (`str | None`, *optional*, defaults to `test-key`): the accepted API key; None accepts all keys, as
            self-hosted servers do.
        model (`str`, *optional*, defaults to `double-2026-11-21`): the model in responses. Requests for the model
            `no-such-model` get a 404.
        accept_rate (`float`, *optional*, defaults to 1.0): as for `ModelServer`.
        latency_s (`float`, *optional*, defaults to 0.0): as for `ModelServer`.
        fault (`Fault`, *optional*): as for `ModelServer`; by default all requests are answered.
        record_requests (`bool`, *optional*, defaults to True): as for `ModelServer`.
    """

    def __init__(
        self,
        *,
        key: str | None = KEY,
        model: str = "double-2026-11-21",
        accept_rate: float = 1.0,
        latency_s: float = 0.0,
        fault: Fault = lambda request, number: None,
        record_requests: bool = True,
    ) -> None:
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
        ]
        super().__init__(
            routes, accept_rate=accept_rate, latency_s=latency_s, fault=fault, record_requests=record_requests
        )
        self._key = key
        self._model = model

    async def _complete(self, request: Request) -> Response:
        return self._check_key(request) or await self.serve(request, _parse_request)

    async def _models(self, request: Request) -> Response:
        entry = {"id": self._model, "object": "model", "created": 0, "owned_by": "compact_hf"}
        return self._check_key(request) or JSONResponse({"object": "list", "data": [entry]})

    def _check_key(self, request: Request) -> Response | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # With the key None any key is accepted, but the request must have one.
        if scheme == "Bearer" and key and self._key in (None, key):
            return None
        # Like the service, which quotes the first and last characters of the key.
        return error_response(401, f"Incorrect API key provided: {key[:4]}***{key[-4:]}.", code="invalid_api_key")

    def answer(self, model_request: ModelRequest) -> Response:
        """See `ModelServer.answer`."""
        if model_request.body["model"] == "no-such-model":
            return error_response(404, "The model `no-such-model` does not exist.", code="model_not_found")
        text = (
            make_text_reply(model_request)
            if model_request.role == "free"
            else json.dumps(self.make_reply(model_request))
        )
        # 765 tokens for the image: OpenAI counts 85 + 4 tiles x 170 at 1024 x 1024. Text has about 4 characters per
        # token.
        return content_response(text, model=self._model, prompt_tokens=765 + len(model_request.prompt) // 4)

    def bad_request(self, message: str) -> Response:
        """See `ModelServer.bad_request`."""
        return error_response(400, message)


def content_response(
    text: str | None,
    *,
    model: str = "double",
    finish: str | None = "stop",
    refusal: str | None = None,
    prompt_tokens: int = 800,
) -> Response:
    """Return a chat completion.

    Args:
        text (`str`, *optional*): the text of the model; None for a response without content, as with a refusal.
        model (`str`, *optional*, defaults to `double`): the model.
        finish (`str`, *optional*, defaults to `stop`): the finish reason; None for servers that send none.
        refusal (`str`, *optional*): the text of a refusal.
        prompt_tokens (`int`, *optional*, defaults to 800): number of input tokens.
    """
    completion_tokens = len(text or "") // 4 + 20
    return JSONResponse(
        {
            "id": f"chatcmpl-{digest(text, length=16)}",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": refusal},
                    "finish_reason": finish,
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }
    )


def error_response(
    status: int, message: str, *, code: str | None = None, retry_after_s: float | None = None
) -> Response:
    """Return an error in the format of the service.

    Args:
        status (`int`): HTTP status code.
        message (`str`): the error message.
        code (`str`, *optional*): error code of the service, such as `model_not_found`.
        retry_after_s (`float`, *optional*): seconds to wait, sent as a Retry-After header.
    """
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
    return JSONResponse(body, status_code=status, headers=headers)


def _parse_request(body: dict[str, Any], headers: dict[str, str]) -> ModelRequest:
    """Return the prompt, schema and image of a request; ValueError, KeyError or TypeError if it is invalid."""
    is_free = "response_format" not in body
    if unknown := body.keys() - _REQUEST_FIELDS - (_SAMPLING_FIELDS if is_free else set()):
        raise ValueError(f"unrecognized request arguments: {', '.join(sorted(unknown))}")
    (message,) = body["messages"]
    if message["role"] != "user" or not isinstance(body["model"], str):
        raise ValueError("expected a model and a user message")
    parts = message["content"]
    prompt = "".join(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    if len(urls) + sum(part["type"] == "text" for part in parts) != len(parts):
        raise ValueError("expected parts of the types text and image_url")
    schema = None if is_free else _read_schema(body["response_format"])
    return make_model_request(prompt, schema, [_decode_image(url) for url in urls], body, headers)


def _read_schema(response_format: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a response format after checking the rules of the service for strict schemas."""
    json_schema = response_format["json_schema"]
    if response_format["type"] != "json_schema" or json_schema["strict"] is not True:
        raise ValueError("expected a response format of the type json_schema, strict")
    # The service limits the name to these characters; without re.ASCII, \w would also match letters such as é.
    if not re.fullmatch(r"[\w-]{1,64}", json_schema["name"], re.ASCII):
        raise ValueError(f"expected a name of letters, digits, _ and -, got {json_schema['name']!r}")
    for part in _iter_objects(json_schema["schema"]):
        if part.get("additionalProperties") is not False or set(part["required"]) != set(part["properties"]):
            raise ValueError("a strict schema requires all its properties and allows no others")
    schema: dict[str, Any] = json_schema["schema"]
    return schema


def _iter_objects(part: Any) -> Iterator[dict[str, Any]]:
    """Yield all schemas of type object in a schema, nested ones included."""
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _iter_objects(inner)


def _decode_image(url: str) -> bytes:
    if not url.startswith(_DATA_URL_PREFIX):
        raise ValueError(f"expected a data URL of image/jpeg in base64, got {url[:30]!r}")
    # By default b64decode skips invalid characters, and a corrupt image would be accepted.
    return base64.b64decode(url.removeprefix(_DATA_URL_PREFIX), validate=True)


def main(argv: Iterable[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    serve_until_ctrl_c("compact_hf.testing.openai", "Serves OpenAI's protocol.", OpenAIServer, argv)


if __name__ == "__main__":
    main()
