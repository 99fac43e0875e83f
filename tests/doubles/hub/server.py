"""A server that speaks the Hub's protocol over loopback, for tests and for trying publishing out without an account.

    with HubServer() as server:
        subprocess.run(["compact", "publish", "release", "org/compact"], env=os.environ | server.environment)

It takes what huggingface_hub and datasets send (repositories, files, LFS, Xet, commits, branches, pull requests, tags)
and answers as the Hub does, each revision with its own files and tags. Everything is kept in memory. The clients read
their settings once, when they are imported, so they run in a process that was started with `environment`. What goes
wrong is decided by its `fault` (http.py has the usual ones).

As a program it serves until Ctrl-C:

    python -m tests.doubles.hub
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from compact_hf.testing.server import LocalServer
from tests.doubles.hub import pull_requests, routes
from tests.doubles.hub.http import TOKEN, HubState, LostResponse, RateLimit, handle_request_error
from tests.doubles.hub.store import RequestError, Store
from tests.doubles.hub.xet import XetStorage


@dataclass(frozen=True, slots=True)
class HubRequest:
    """One request.

    Attributes:
        method (`str`): such as GET.
        path (`str`): decoded, without the query.
        query (`str`): as it came.
        headers (`dict[str, str]`): lower-case names.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)


Fault = Callable[[HubRequest, int], Response | None]
"""Called with each request and its number from 0: a response to send instead of the answer, or None."""


class HubServer(LocalServer):
    """Serve repositories from memory.

    Args:
        all_regular (`bool`, *optional*, defaults to False): let no file go to LFS; by default a file with zero bytes
            at its beginning, or of more than 10 MB, does.
        fault (`Fault`, *optional*): decides which requests go wrong, and how.
        rate_limit (`RateLimit`, *optional*): refuse requests after so many.
        xet_directory (`Path`, *optional*): let clients upload large files to a Xet storage in this directory, not to
            LFS.
        private_by_default (`bool`, *optional*, defaults to False): let new repositories of the organization be private
            unless public ones are asked for.
        git_hash (`str`, *optional*, defaults to `sha1`): `sha256` for repositories with hashes of 64 digits.

    Attributes:
        requests (`list[HubRequest]`): every request, in order.
        bytes_sent (`Counter[str]`): path of a request -> bytes of answers' bodies that were sent for it.
        fault (`Fault`): may be set anew while the server runs.
        store (`Store`): what the server holds.
        environment (`dict[str, str]`): what a client's process needs to talk to this server instead of the Hub.
    """

    def __init__(
        self,
        *,
        all_regular: bool = False,
        fault: Fault = lambda request, number: None,
        rate_limit: RateLimit | None = None,
        xet_directory: Path | None = None,
        private_by_default: bool = False,
        git_hash: str = "sha1",
    ) -> None:
        app = Starlette(
            routes=[*pull_requests.ROUTES, *routes.WRITING_ROUTES, *routes.READING_ROUTES],
            exception_handlers={RequestError: handle_request_error},
            middleware=[Middleware(_RecordingMiddleware, server=self)],
        )
        super().__init__(app)
        self.requests: list[HubRequest] = []
        self.bytes_sent: Counter[str] = Counter()
        self.fault = fault
        self.rate_limit = rate_limit
        self.store = Store(git_hash=git_hash)
        xet = XetStorage(xet_directory) if xet_directory else None
        app.state.hub = HubState(self.store, self.url, all_regular, xet, private_by_default)
        self.environment = {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class _RecordingMiddleware:
    """Notes each request down, and lets the fault answer first."""

    def __init__(self, app: ASGIApp, server: HubServer) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request = HubRequest(scope["method"], scope["path"], scope["query_string"].decode(), headers)
        self._server.requests.append(request)
        response = self._server.fault(request, len(self._server.requests) - 1)
        rate_limit = self._server.rate_limit
        if rate_limit and not rate_limit.use():
            response = rate_limit.refuse()
        if isinstance(response, LostResponse):
            await self._app(scope, receive, _discard)

        async def send_and_count(message: Message) -> None:
            if rate_limit and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(rate_limit.headers)
            await send(message)
            self._server.bytes_sent[request.path] += len(message.get("body", b""))

        await (response or self._app)(scope, receive, send_and_count)


async def _discard(message: Message) -> None:
    """Send nothing."""
