"""What is kept out before Gradio sees it: an ASGI middleware, which refuses requests that no visitor's page makes.

Gradio bounds uploaded files, and nothing else: a request's JSON may be of any length, a client may name an address for
the server to fetch (of any size, over the server's network), and some routes write what a session holds to the disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

MAX_JSON_BYTES: Final = 64_000
"""Bytes of a request that is no upload: the longest question and every choice fit many times."""

_REMOTE_FILE_MESSAGE: Final = "this Space fetches no addresses; upload the picture itself"
# `deep_link` writes a session's inputs to a file, recordings start a video encoder; the page uses none of the rest.
_CLOSED_ROUTES: Final = re.compile(
    r"/(gradio_api/)?(deep_link|process_recording|monitoring|component_server|stream)(/|$)"
)
_REMOTE_URL: Final = re.compile(r"(?:file|proxy)=\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_UPLOAD_ROUTE: Final = re.compile(r"/upload/?$")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequestGuard:
    """Pass on what the page itself may ask for.

    Args:
        app (`App`): Gradio's.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or refuse it with a line of JSON."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        if _CLOSED_ROUTES.search(path):
            return await _send_error(send, 404, "there is nothing here")
        if _REMOTE_URL.search(path):
            return await _send_error(send, 403, _REMOTE_FILE_MESSAGE)
        if scope["method"] not in ("POST", "PUT", "PATCH") or _UPLOAD_ROUTE.search(path):
            return await self._app(scope, receive, send)
        body = await _read_body(receive)
        if body is None:
            return await _send_error(send, 413, f"a request has at most {MAX_JSON_BYTES:,} bytes")
        if _has_remote_url(body):
            return await _send_error(send, 400, _REMOTE_FILE_MESSAGE)
        return await self._app(scope, _replay_body(body, receive), send)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, None as soon as it is too long."""
    body = b""
    while len(body) <= MAX_JSON_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body if len(body) <= MAX_JSON_BYTES else None
    return None


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then whatever follows it."""
    is_replayed = False

    async def replay() -> Message:
        nonlocal is_replayed
        if is_replayed:
            return await receive()
        is_replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _has_remote_url(body: bytes) -> bool:
    """Return whether a file in the JSON lies at an address instead of in the uploads."""
    try:
        pending: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # Gradio says what is wrong with it
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and re.match(r"\s*[a-z][a-z0-9+.-]*:/", path, re.IGNORECASE):
                return True
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False


async def _send_error(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
