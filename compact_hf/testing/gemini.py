"""A server that speaks Gemini's REST protocol over loopback, for tests, benchmarks and trying things out without a key.

    with GeminiServer() as server:
        generate("PICTURES", "RUN", teacher_url=server.url)     # GEMINI_API_KEY=test-key

It reads requests as strictly as the service (key, image, schema) and answers them like a teacher that cannot see
(testing/scripted_model.py). What goes wrong is decided by its `fault`.

As a program it serves until Ctrl-C:

    python -m compact_hf.testing.gemini --latency 0.3
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from compact_hf.records import digest
from compact_hf.testing.gemini_batch import GeminiBatches
from compact_hf.testing.scripted_model import (
    KEY,
    Fault,
    ModelRequest,
    ModelServer,
    make_model_request,
    serve_until_ctrl_c,
)

_URL_SAFE: Final = str.maketrans("-_", "+/")
_PATH: Final = "/{version}/models/{model}:generateContent"


class GeminiServer(ModelServer):
    """Answer `generateContent`, one by one and in batches, like a model that keeps to the schema.

    Args:
        key (`str`, *optional*): the key that is accepted.
        model (`str`, *optional*): the version that it says it is; requests for `no-such-model` get a 404.
        accept_rate, latency_s, fault, record_requests (*optional*): as for `ModelServer`; by default nothing goes
            wrong.

    Attributes:
        batches (`GeminiBatches`): its batches and files, and what goes wrong with them.
    """

    def __init__(
        self,
        *,
        key: str = KEY,
        model: str = "gemini-3.8-flash-double",
        accept_rate: float = 1.0,
        latency_s: float = 0.0,
        fault: Fault = lambda request, number: None,
        record_requests: bool = True,
    ) -> None:
        self.batches = GeminiBatches(
            check_request=self._check_request, parse_request=_parse_request, respond=self.respond
        )
        routes = [Route(_PATH, self._generate, methods=["POST"]), *self.batches.routes()]
        super().__init__(
            routes, accept_rate=accept_rate, latency_s=latency_s, fault=fault, record_requests=record_requests
        )
        self._key = key
        self._model = model

    async def _generate(self, request: Request) -> Response:
        return self._check_request(request) or await self.serve(request, _parse_request)

    def _check_request(self, request: Request) -> Response | None:
        if request.headers.get("x-goog-api-key") != self._key:
            return error_response(
                400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID"
            )
        if request.path_params.get("model") == "no-such-model":
            return error_response(404, "NOT_FOUND", "models/no-such-model is not found for API version v1beta")
        return None

    def answer(self, model_request: ModelRequest) -> Response:
        """See `ModelServer.answer`."""
        text = json.dumps(self.make_reply(model_request))
        return content_response(text, model=self._model, prompt_tokens=258 + len(model_request.prompt) // 4)

    def bad_request(self, message: str) -> Response:
        """See `ModelServer.bad_request`."""
        return error_response(400, "INVALID_ARGUMENT", message)


def content_response(
    text: str | None, *, model: str = "gemini-double", finish: str = "STOP", prompt_tokens: int = 300
) -> Response:
    """Return a `generateContent` answer; `text` None is an answer without content, as after SAFETY."""
    candidate: dict[str, Any] = {"finishReason": finish, "index": 0}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    return JSONResponse(
        {
            "candidates": [candidate],
            "modelVersion": model,
            "responseId": digest(text, length=16),
            "usageMetadata": {
                "promptTokenCount": prompt_tokens,
                "candidatesTokenCount": len(text or "") // 4,
                "thoughtsTokenCount": 20,
                "totalTokenCount": prompt_tokens + len(text or "") // 4 + 20,
            },
        }
    )


def blocked_response(reason: str = "SAFETY") -> Response:
    """Return the answer to a prompt that was blocked: no candidates at all."""
    return JSONResponse({"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 300}})


def error_response(
    code: int, status: str, message: str, *, reason: str | None = None, retry_delay_s: float | None = None
) -> Response:
    """Return an error as the service words it, with RetryInfo and a Retry-After header where a delay is given."""
    details: list[dict[str, Any]] = []
    headers: dict[str, str] = {}
    if reason is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
    if retry_delay_s is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_delay_s:g}s"})
        headers["Retry-After"] = f"{retry_delay_s:.0f}"
    body = {"error": {"code": code, "message": message, "status": status, "details": details}}
    return JSONResponse(body, status_code=code, headers=headers)


def _parse_request(body: dict[str, Any], headers: dict[str, str]) -> ModelRequest:
    parts = [part for content in body["contents"] for part in content["parts"]]
    prompt = "".join(part.get("text", "") for part in parts)
    config = body["generationConfig"]
    schema = config.get("responseSchema") or config.get("response_schema") or config.get("responseJsonSchema")
    if not schema:
        raise ValueError("expected a response schema")
    blobs = [data for part in parts if (data := part.get("inlineData") or part.get("inline_data"))]
    return make_model_request(prompt, schema, [_decode_image(blob) for blob in blobs], body, headers)


def _decode_image(blob: dict[str, str]) -> bytes:
    mime_type = blob.get("mimeType") or blob.get("mime_type")
    if mime_type != "image/jpeg":
        raise ValueError(f"expected image/jpeg, got {mime_type}")
    # Either alphabet, as the service takes it.
    return base64.b64decode(blob["data"].translate(_URL_SAFE), validate=True)


def main(argv: Iterable[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    serve_until_ctrl_c("compact_hf.testing.gemini", "Speaks Gemini's protocol.", GeminiServer, argv)


if __name__ == "__main__":
    main()
