"""A server that speaks Gemini's REST protocol over loopback, for tests, benchmarks and trying things out without a key.

    with GeminiServer() as server:
        generate("PICTURES", "RUN", teacher_url=server.url)     # GEMINI_API_KEY=anything

It reads requests as strictly as the service (key, picture, schema) and answers them like a teacher: it writes a
question for the capabilities that the prompt lists, and as a verifier says for its own questions what they need. It
cannot see: what it writes is only as true as the protocol needs. What goes wrong is decided by its `fault`.

As a program it serves until Ctrl-C:

    python -m compact_hf.testing.gemini --latency 0.3
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import io
import json
import random
import re
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from compact_hf.records import digest
from compact_hf.testing.server import LocalServer

KEY: Final = "test-key"
"""The only key that the server takes, unless told otherwise."""

_PATH: Final = "/{version}/models/{model}:generateContent"
_NEEDS: Final = re.compile(r"^- (\w+): ", re.MULTILINE)
_QUESTION: Final = re.compile(r"^Which .*\?$", re.MULTILINE)
_FILLERS: Final = "amber brisk calm dusty eager faint gentle hollow ivory jolly keen lofty mellow narrow".split()
_WORDS: Final = {
    "color": "marble bucket lantern ribbon kettle".split(),
    "shape": "anchor blanket wheel basket feather".split(),
    "object_recognition": "ladder mirror pillow saddle trumpet".split(),
    "action_recognition": "violin window zipper acorn barrel".split(),
    "text_recognition": "candle dagger engine funnel goblet".split(),
    "spatial_recognition": "hammer island jacket kitten locket".split(),
    "counting": "magnet napkin orchid paddle quiver".split(),
    "spatial_relationship": "rocket sandal tablet teapot turnip".split(),
    "object_interaction": "vessel walnut wagon whistle yogurt".split(),
    "scene_understanding": "zebra bamboo cactus dolphin ember".split(),
}
"""The words by which the double knows its own questions again, also after it was started anew."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the server understood it.

    Attributes:
        role (`str`): `teacher`, `verifier` or `blind` (a verifier without the picture), by the schema asked for.
        prompt (`str`): the text part.
        picture (`bytes`): the picture part, a JPEG; empty for `blind`.
        body (`dict`): the JSON body as it came.
        headers (`dict[str, str]`): lower-case names.
    """

    role: str
    prompt: str
    picture: bytes
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


Fault = Callable[[Asked, int], Response | None]
"""Called with each request and its number from 0: a response to send instead of the answer, or None."""


class GeminiServer(LocalServer):
    """Answer `generateContent` like a model that keeps to the schema.

    Args:
        key (`str`, *optional*): the key that is accepted.
        model (`str`, *optional*): the version that it says it is; requests for `no-such-model` get a 404.
        accept_rate (`float`, *optional*, defaults to 1.0): share, 0 to 1, of questions that it judges to need exactly
            what they were written for; the others need one capability more.
        latency_s (`float`, *optional*, defaults to 0.0): seconds before each answer.
        fault (`Fault`, *optional*): decides which requests go wrong, and how.

    Attributes:
        asked (`list[Asked]`): every request that was understood, in order.
    """

    def __init__(
        self,
        *,
        key: str = KEY,
        model: str = "gemini-3.8-flash-double",
        accept_rate: float = 1.0,
        latency_s: float = 0.0,
        fault: Fault = lambda asked, number: None,
    ) -> None:
        super().__init__(Starlette(routes=[Route(_PATH, self._generate, methods=["POST"])]))
        self.asked: list[Asked] = []
        self._key = key
        self._model = model
        self._accept_rate = accept_rate
        self._latency_s = latency_s
        self._fault = fault

    async def _generate(self, request: Request) -> Response:
        if request.headers.get("x-goog-api-key") != self._key:
            return error_response(
                400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID"
            )
        if request.path_params["model"] == "no-such-model":
            return error_response(404, "NOT_FOUND", "models/no-such-model is not found for API version v1beta")
        try:
            asked = _understood(await request.json(), dict(request.headers))
        except ClientDisconnect:
            return Response(status_code=499)
        except (ValueError, KeyError, TypeError) as error:
            return error_response(400, "INVALID_ARGUMENT", f"cannot read the request: {error}")
        self.asked.append(asked)
        fault = self._fault(asked, len(self.asked) - 1)
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return fault or self.answer(asked)

    def answer(self, asked: Asked) -> Response:
        """Return the answer of a model that does what it is told."""
        match asked.role:
            case "teacher":
                written = self._draft(asked)
            case "verifier":
                written = self._verdict(asked)
            case _:
                written = {"answer": "no idea"}
        return content_response(json.dumps(written), model=self._model, prompt_tokens=258 + len(asked.prompt) // 4)

    def _draft(self, asked: Asked) -> dict[str, Any]:
        needed = _NEEDS.findall(asked.prompt)
        rng = random.Random(digest(asked.picture.hex()[:4096], needed))
        # Words differ from question to question, or they would be dropped as repetitions of each other.
        words = [*rng.sample(_FILLERS, 3), *(rng.choice(_WORDS[name]) for name in needed)]
        question = f"Which {' '.join(words)}?"
        return {"question": question, "answer": _answer(question), "confidence": rng.randint(75, 99)}

    def _verdict(self, asked: Asked) -> dict[str, Any]:
        found = _QUESTION.search(asked.prompt)
        words = found[0].rstrip("?").split() if found else []
        needed = [name for name, known in _WORDS.items() if set(known) & set(words)]
        rng = random.Random(digest("verdict", words))
        if rng.random() >= self._accept_rate:
            needed.append(rng.choice([name for name in _WORDS if name not in needed]))
        return {"capabilities": needed, "answer": _answer(found[0])} if found else {"capabilities": [], "answer": ""}


def _answer(question: str) -> str:
    """Return the one answer that the double gives to a question, whether it writes or judges."""
    return random.Random(digest("answer", question)).choice([word for word in _FILLERS if word not in question])


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


def _understood(body: dict[str, Any], headers: dict[str, str]) -> Asked:
    parts = [part for content in body["contents"] for part in content["parts"]]
    prompt = "".join(part.get("text", "") for part in parts)
    config = body["generationConfig"]
    schema = config.get("responseSchema") or config.get("response_schema") or config.get("responseJsonSchema")
    if not schema:
        raise ValueError("expected a response schema")
    fields = schema["properties"]
    role = "teacher" if "confidence" in fields else "verifier" if "capabilities" in fields else "blind"
    pictures = [data for part in parts if (data := part.get("inlineData") or part.get("inline_data"))]
    if len(pictures) != (role != "blind"):
        raise ValueError(f"expected {'no' if role == 'blind' else 'one'} picture, got {len(pictures)}")
    picture = _jpeg(pictures[0]) if pictures else b""
    return Asked(role, prompt, picture, body, headers)


def _jpeg(blob: dict[str, str]) -> bytes:
    kind = blob.get("mimeType") or blob.get("mime_type")
    if kind != "image/jpeg":
        raise ValueError(f"expected image/jpeg, got {kind}")
    try:
        data = base64.b64decode(blob["data"], altchars=b"-_", validate=True)
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            image.load()
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the picture is not a JPEG: {error}") from error
    return data


def main(arguments: Iterable[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m compact_hf.testing.gemini", description=__doc__.split("\n")[0])
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before each answer")
    parser.add_argument("--accept-rate", type=float, default=1.0, metavar="R", help="share of drafts that pass, 0 to 1")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    with GeminiServer(latency_s=chosen.latency, accept_rate=chosen.accept_rate) as server:
        sys.stderr.write(f"speaking Gemini's protocol with the key {KEY!r} until Ctrl-C\n")
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write(f"answered {len(server.asked)} requests\n")


if __name__ == "__main__":
    main()
