"""What goes wrong at the Hub's double, when its `fault` says so: responses to send instead of the answer."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send


def too_many(*, retry_after_s: int = 1) -> Response:
    """Return a 429 that says when to come again."""
    return JSONResponse({"error": "Too Many Requests"}, 429, headers={"Retry-After": str(retry_after_s)})


def unavailable(status: int = 503) -> Response:
    """Return a 5xx."""
    return JSONResponse({"error": "Service Unavailable"}, status)


class Cut(Response):
    """Begin an answer and close the connection, in the middle of the request where it has a body.

    Args:
        after_bytes (`int`, *optional*, defaults to 0): so much of the body is read first, if it has so much.
    """

    def __init__(self, *, after_bytes: int = 0) -> None:
        super().__init__()
        self._after_bytes = after_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, more = 0, True
        while more and read < self._after_bytes:
            message = await receive()
            read, more = read + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})


class Lost(Cut):
    """Do what was asked, and close the connection instead of answering."""


class Stalled(Response):
    """Read the request and never answer, until the client goes away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
