"""Serves Gemini's REST protocol on the loopback interface, for tests, benchmarks and experiments without a key.

    with GeminiServer() as server:
        generate("IMAGES", "RUN", teacher_url=server.url)     # GEMINI_API_KEY=test-key

The server checks requests as strictly as the real service (key, image, schema). A scripted model that ignores the
content of images answers them (scripted_model.py). Errors are simulated by the argument `fault`.

As a command it serves until Ctrl-C:

    python -m compact_hf.testing.gemini --latency 0.3
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
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

# URL-safe alphabet of base64 -> standard alphabet, for the two characters that differ.
_URL_SAFE: Final = str.maketrans("-_", "+/")
_PATH: Final = "/{version}/models/{model}:generateContent"


class GeminiServer(ModelServer):
    """Answers `generateContent` requests, single ones and batches, like a model that follows the requested schema.

    Args:
        key (`str`, *optional*, defaults to `test-key`): the accepted API key.
        model (`str`, *optional*, defaults to `gemini-3.8-flash-double`): the model version in responses. Requests for
            the model `no-such-model` get a 404.
        accept_rate (`float`, *optional*, defaults to 1.0): as for `ModelServer`.
        latency_s (`float`, *optional*, defaults to 0.0): as for `ModelServer`.
        fault (`Fault`, *optional*): as for `ModelServer`; by default all requests are answered.
        record_requests (`bool`, *optional*, defaults to True): as for `ModelServer`.

    Attributes:
        batches (`GeminiBatches`): batch jobs and files, with their simulated errors.
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
        """Return the error of the service for a wrong key or an unknown model, else None."""
        # The service answers a wrong key with 400, not with 401.
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
        # 258 tokens for the image, Gemini's count per tile. Text has about 4 characters per token.
        return content_response(text, model=self._model, prompt_tokens=258 + len(model_request.prompt) // 4)

    def bad_request(self, message: str) -> Response:
        """See `ModelServer.bad_request`."""
        return error_response(400, "INVALID_ARGUMENT", message)


def content_response(
    text: str | None, *, model: str = "gemini-double", finish: str = "STOP", prompt_tokens: int = 300
) -> Response:
    """Return a `generateContent` response.

    Args:
        text (`str`, *optional*): the text of the model; None for a response without content, as after the finish reason
            SAFETY.
        model (`str`, *optional*, defaults to `gemini-double`): the model version.
        finish (`str`, *optional*, defaults to `STOP`): the finish reason.
        prompt_tokens (`int`, *optional*, defaults to 300): number of input tokens.
    """
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
    """Return the response to a blocked prompt, which has no candidates."""
    return JSONResponse({"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 300}})


def error_response(
    code: int,
    status: str,
    message: str,
    *,
    reason: str | None = None,
    metadata: Mapping[str, str] | None = None,
    quota: tuple[str, int] | None = None,
    retry_delay_s: float | None = None,
) -> Response:
    """Return an error in the format of the service.

    Args:
        code (`int`): HTTP status code.
        status (`str`): status of the service, such as `INVALID_ARGUMENT`.
        message (`str`): the error message.
        reason (`str`, *optional*): reason in an `ErrorInfo`.
        metadata (`Mapping[str, str]`, *optional*): further values of the `ErrorInfo`.
        quota (`tuple[str, int]`, *optional*): id and value of a violated quota, sent as `QuotaFailure`.
        retry_delay_s (`float`, *optional*): seconds to wait, sent as `RetryInfo` and as a Retry-After header.
    """
    details: list[dict[str, Any]] = []
    headers: dict[str, str] = {}
    if reason is not None:
        info = {"reason": reason, "domain": "googleapis.com", "metadata": dict(metadata or {})}
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info})
    if quota is not None:
        violation = {"quotaId": quota[0], "quotaValue": str(quota[1])}
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if retry_delay_s is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_delay_s:g}s"})
        # HTTP only allows whole seconds here; RetryInfo may have fractions.
        headers["Retry-After"] = f"{retry_delay_s:.0f}"
    body = {"error": {"code": code, "message": message, "status": status, "details": details}}
    return JSONResponse(body, status_code=code, headers=headers)


def _parse_request(body: dict[str, Any], headers: dict[str, str]) -> ModelRequest:
    """Return the prompt, schema and image of a request; ValueError, KeyError or TypeError if it is invalid."""
    parts = [part for content in body["contents"] for part in content["parts"]]
    prompt = "".join(part.get("text", "") for part in parts)
    config = body["generationConfig"]
    # SDKs write keys in camelCase or snake_case, so both are accepted, here and in `_decode_image`.
    schema = config.get("responseSchema") or config.get("response_schema") or config.get("responseJsonSchema")
    if not schema:
        raise ValueError("expected a response schema")
    blobs = [data for part in parts if (data := part.get("inlineData") or part.get("inline_data"))]
    return make_model_request(prompt, schema, [_decode_image(blob) for blob in blobs], body, headers)


def _decode_image(blob: dict[str, str]) -> bytes:
    mime_type = blob.get("mimeType") or blob.get("mime_type")
    if mime_type != "image/jpeg":
        raise ValueError(f"expected image/jpeg, got {mime_type}")
    # The service accepts the standard and the URL-safe alphabet of base64.
    return base64.b64decode(blob["data"].translate(_URL_SAFE), validate=True)


def main(argv: Iterable[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    serve_until_ctrl_c("compact_hf.testing.gemini", "Serves Gemini's protocol.", GeminiServer, argv)


if __name__ == "__main__":
    main()
