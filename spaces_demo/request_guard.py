"""Refuses requests that the page itself never makes, before they reach Gradio. This is an ASGI middleware.

Gradio only limits the size of each uploaded file. A request may have any length and take any time, a client may send a
URL that the server then fetches (of any size, from the server's network), and some routes write the state of a session
to disk. A call of an unknown function, or with values of a wrong type, would end in a traceback.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from shutil import disk_usage
from tempfile import SpooledTemporaryFile
from typing import Any, Final, NoReturn

from call_check import CallCheck, CallError
from starlette.exceptions import HTTPException
from validation import MAX_BYTES

MAX_JSON_BYTES: Final = 64_000
"""Maximum size of a request other than an upload; many times what the longest question and all choices need."""
MAX_UPLOAD_BYTES: Final = MAX_BYTES + 64_000
"""Maximum size of an upload with all of its files: one image, and the headers of its part."""
JSON_S: Final = 20.0
"""Seconds within which the body of a request has to arrive."""
UPLOAD_S: Final = 120.0
"""Seconds within which an upload has to arrive; the largest image needs a connection of 0.7 Mbit/s."""
MIN_FREE_BYTES: Final = 500_000_000
"""No uploads are accepted while the disk has less room. Gradio deletes images after an hour and a half."""

_REMOTE_FILE_MESSAGE: Final = "this Space does not fetch URLs: upload the image itself"
# `deep_link` writes the inputs of a session to a file, and recordings start a video encoder. The page uses none of
# these routes.
_CLOSED_ROUTES: Final = re.compile(
    r"/(gradio_api/)?(deep_link|process_recording|monitoring|component_server|stream|dev)(/|$)"
)
# What the page and Gradio's clients post. `name` is the function of a call; `run` calls it without the queue.
_POST_ROUTES: Final = re.compile(
    r"/(?:gradio_api/)?(?:(?P<call>queue/join|(?:call|run)/(?P<name>[^/]+))|(?P<upload>upload)|cancel|reset)/?$"
)
# `file=` or `proxy=` in the path of a request, followed by a URL with a scheme.
_REMOTE_URL: Final = re.compile(r"(?:file|proxy)=\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_UNFINISHED_UPLOAD_S: Final = 600.0  # seconds after which a file of an upload that failed is deleted
_CHUNK_BYTES: Final = 65_536

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequestGuard:
    """Passes requests of the page to Gradio, and refuses all others.

    Args:
        app (`App`): Gradio's ASGI app.
        calls (`CallCheck`): checks the calls of the page's functions.
        upload_directory (`Path`): Gradio's directory of uploaded files.
    """

    def __init__(self, app: App, calls: CallCheck, upload_directory: Path) -> None:
        self._app = app
        self._calls = calls
        self._upload_directory = upload_directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the app, or refuse it with an error in JSON."""
        # Start-up and shutdown of the app, and WebSockets.
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                _check_path(scope["path"])
                await self._pass_read(scope, receive, send)
            else:
                with SpooledTemporaryFile(max_size=MAX_JSON_BYTES) as body:
                    await self._pass_write(scope, receive, send, body)
        except _RefusalError as refusal:
            await _send_error(send, refusal.status, refusal.detail)

    async def _pass_read(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except RuntimeError as error:
            # The stream of a session or a call that does not exist: Gradio has already sent "404: Not Found" in it.
            if not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body", "body": b""})

    async def _pass_write(self, scope: Scope, receive: Receive, send: Send, body: SpooledTemporaryFile[bytes]) -> None:
        """Read the whole body into a file and check it, then pass it to the app.

        Raises:
            _RefusalError: the request is not one of the page.
        """
        route = _POST_ROUTES.search(scope["path"])
        if route is None:
            _refuse(404, "not found")
        if route["upload"]:
            self._check_room()
            await _read_body(receive, body, max_bytes=MAX_UPLOAD_BYTES, seconds=UPLOAD_S)
            try:
                return await self._app(scope, _replay_body(body, receive), send)
            except TypeError:
                # Gradio's error for a form whose field `files` is a text.
                _refuse(400, "the upload has no file")
        await _read_body(receive, body, max_bytes=MAX_JSON_BYTES, seconds=JSON_S)
        value = _parse_body(body)
        if _has_remote_url(value):
            _refuse(400, _REMOTE_FILE_MESSAGE)
        if route["call"]:
            try:
                self._calls.check(value, route["name"] or "")
            except CallError as error:
                _refuse(400, str(error))
        return await self._app(scope, _replay_body(body, receive), send)

    def _check_room(self) -> None:
        """Refuse an upload while the disk is nearly full; first delete files of uploads that failed.

        Gradio deletes uploaded files after a while, but not those of an upload that it has refused halfway. They are
        in the directory itself; files of complete uploads are each in a directory of their own.
        """
        directory = self._upload_directory
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if path.is_file() and time.time() - path.stat().st_mtime > _UNFINISHED_UPLOAD_S:
                path.unlink(missing_ok=True)
        if disk_usage(directory).free < MIN_FREE_BYTES:
            _refuse(503, "this Space has no room for images at the moment: try again in an hour")


class _RefusalError(Exception):
    """Raised for a request that is refused.

    Attributes:
        status (`int`): HTTP status of the response.
        detail (`str`): message for the client.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def _refuse(status: int, detail: str) -> NoReturn:
    raise _RefusalError(status, detail)


def _check_path(path: str) -> None:
    """Refuse to read from a closed route, or from a URL in the path."""
    if _CLOSED_ROUTES.search(path):
        _refuse(404, "not found")
    if _REMOTE_URL.search(path):
        _refuse(403, _REMOTE_FILE_MESSAGE)


async def _read_body(receive: Receive, body: SpooledTemporaryFile[bytes], *, max_bytes: int, seconds: float) -> None:
    """Read the complete body into a file, and go to the start of the file.

    Raises:
        _RefusalError: the body is too long, takes too long, or the client has closed the connection.
    """
    try:
        async with asyncio.timeout(seconds):
            is_complete = False
            while not is_complete:
                message = await receive()
                if message["type"] != "http.request":
                    _refuse(400, "the connection was closed")
                body.write(message.get("body", b""))
                if body.tell() > max_bytes:
                    _refuse(413, f"the request is too large; at most {max_bytes:,} bytes are allowed")
                is_complete = not message.get("more_body", False)
    except TimeoutError:
        _refuse(408, f"the request took longer than {seconds:.0f} seconds")
    body.seek(0)


def _parse_body(body: SpooledTemporaryFile[bytes]) -> Any:
    """Return the JSON of a body, and go to the start of the file again.

    Raises:
        _RefusalError: it is not valid JSON in UTF-8.
    """
    try:
        value = json.loads(body.read())
        # Escapes such as "\\ud800" stand for no character, and NaN and 1e400 for no number: they cannot be sent back.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        _refuse(400, "the request is not valid JSON")
    body.seek(0)
    return value


def _replay_body(body: SpooledTemporaryFile[bytes], receive: Receive) -> Receive:
    """Return a `receive` function that first returns the body that was read, then later messages."""
    is_replayed = False

    async def replay() -> Message:
        nonlocal is_replayed
        # Only messages after the body remain, such as the disconnect.
        if is_replayed:
            return await receive()
        chunk = body.read(_CHUNK_BYTES)
        is_replayed = len(chunk) < _CHUNK_BYTES
        return {"type": "http.request", "body": chunk, "more_body": not is_replayed}

    return replay


def _has_remote_url(value: Any) -> bool:
    """Return whether a file in the JSON is given as a URL instead of an upload."""
    # A list instead of recursion, because clients choose the depth of the JSON.
    pending = [value]
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
