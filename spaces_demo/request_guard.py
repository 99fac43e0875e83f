"""Refuses requests that the page itself never makes, before they reach Gradio. This is an ASGI middleware.

Gradio only limits the size of uploaded files. The JSON of a request may have any length, a client may send a URL that
the server then fetches (of any size, from the server's network), and some routes write the state of a session to disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

MAX_JSON_BYTES: Final = 64_000
"""Maximum size of a request other than an upload; many times what the longest question and all choices need."""

_REMOTE_FILE_MESSAGE: Final = "this Space does not fetch URLs: upload the image itself"
# `deep_link` writes the inputs of a session to a file, and recordings start a video encoder. The page uses none of
# these routes.
_CLOSED_ROUTES: Final = re.compile(
    r"/(gradio_api/)?(deep_link|process_recording|monitoring|component_server|stream)(/|$)"
)
# `file=` or `proxy=` in the path of a request, followed by a URL with a scheme.
_REMOTE_URL: Final = re.compile(r"(?:file|proxy)=\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_UPLOAD_ROUTE: Final = re.compile(r"/upload/?$")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequestGuard:
    """Passes requests of the page to Gradio, and refuses all others.

    Args:
        app (`App`): Gradio's ASGI app.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the app, or refuse it with an error in JSON."""
        # Start-up and shutdown of the app, and WebSockets.
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        if _CLOSED_ROUTES.search(path):
            return await _send_error(send, 404, "not found")
        if _REMOTE_URL.search(path):
            return await _send_error(send, 403, _REMOTE_FILE_MESSAGE)
        # No body, or an upload, whose size Gradio limits.
        if scope["method"] not in ("POST", "PUT", "PATCH") or _UPLOAD_ROUTE.search(path):
            return await self._app(scope, receive, send)
        body = await _read_body(receive)
        if body is None:
            return await _send_error(
                send, 413, f"the request is too large; at most {MAX_JSON_BYTES:,} bytes are allowed"
            )
        if _has_remote_url(body):
            return await _send_error(send, 400, _REMOTE_FILE_MESSAGE)
        return await self._app(scope, _replay_body(body, receive), send)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the complete body, or None as soon as it is longer than `MAX_JSON_BYTES`."""
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
    """Return a `receive` function that first returns the body that was read, then later messages."""
    is_replayed = False

    async def replay() -> Message:
        nonlocal is_replayed
        # Only messages after the body remain, such as the disconnect.
        if is_replayed:
            return await receive()
        is_replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _has_remote_url(body: bytes) -> bool:
    """Return whether a file in the JSON is given as a URL instead of an upload."""
    try:
        # A list instead of recursion, because clients choose the depth of the JSON.
        pending: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # invalid JSON is reported by Gradio
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            # Gradio's form of a file is an object with a path.
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
