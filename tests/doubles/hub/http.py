"""What all routes of the Hub's double share: its paths, who may do what, refusals, and connections that break off."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.doubles.hub.store import Repository, RequestError, Store
from tests.doubles.hub.xet import XetStorage


class _Revision(StringConvertor):
    """A branch, a tag or a hash, or a reference with slashes: refs/pr/1."""

    regex = r"refs/[a-z]+/[^/]+|[^/]+"


class _Kind(StringConvertor):
    regex = "models|datasets|spaces"


register_url_convertor("revision", _Revision())
register_url_convertor("kind", _Kind())

API_PATH: Final = "/api/{kind:kind}/{namespace}/{name}"
"""What is asked about a repository starts so."""
PAGE_PATHS: Final = ("/{kind:kind}/{namespace}/{name}", "/{namespace}/{name}")
"""What belongs to its page (files, LFS) starts so: models have no prefix."""


@dataclass(slots=True)
class RateLimit:
    """The requests that the Hub allows in a window, with the headers that it sends with every response.

    A window ends `window_s` after its requests are used up, so that tests do not depend on the speed of the machine.

    Attributes:
        limit (`int`): requests in one window.
        window_s (`int`): length of a window in seconds.
        used (`int`): requests in the current window.
    """

    limit: int
    window_s: int
    used: int = 0
    _end: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit": f'"api";r={self.limit - self.used};t={self.window_s}',
            "RateLimit-Policy": f'"fixed window";"api";q={self.limit};w={self.window_s}',
        }

    def use(self) -> bool:
        """Count a request; return False if none is left in the window."""
        if self.used == self.limit:
            if time.monotonic() < self._end:
                return False
            self.used = 0
        self.used += 1
        self._end = time.monotonic() + self.window_s
        return True

    def refuse(self) -> Response:
        return JSONResponse({"error": "We had to rate limit you"}, 429, headers=self.headers)


def too_many_requests(*, retry_after_s: int = 1) -> Response:
    """Return a 429 that says when to come again."""
    return JSONResponse({"error": "Too Many Requests"}, 429, headers={"Retry-After": str(retry_after_s)})


def service_unavailable(status: int = 503) -> Response:
    """Return a 5xx."""
    return JSONResponse({"error": "Service Unavailable"}, status)


class DroppedConnection(Response):
    """Begin an answer and close the connection, in the middle of the request where it has a body.

    Args:
        after_bytes (`int`, *optional*, defaults to 0): so much of the body is read first, if it has so much.
    """

    def __init__(self, *, after_bytes: int = 0) -> None:
        super().__init__()
        self._after_bytes = after_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bytes_read, has_more = 0, True
        while has_more and bytes_read < self._after_bytes:
            message = await receive()
            bytes_read, has_more = bytes_read + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})


class LostResponse(DroppedConnection):
    """Do what was asked, and close the connection instead of answering."""


class StalledResponse(Response):
    """Read the request and never answer, until the client goes away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


TOKEN: Final = "hf_test"
"""The token that may read and write."""
READ_TOKEN: Final = "hf_test_read"
"""The token that may only read."""
REPO_TOKEN: Final = "hf_test_repo"
"""A fine-grained token that may read and write, but not open discussions."""
REPO_SCOPE: Final = "repo.write"
DISCUSSION_SCOPE: Final = "discussion.write"
_SCOPES: Final = {
    TOKEN: ("write", {REPO_SCOPE, DISCUSSION_SCOPE}),
    READ_TOKEN: ("read", set[str]()),
    REPO_TOKEN: ("fineGrained", {REPO_SCOPE}),
}
"""Role and permissions of each token."""
USER: Final = "tester"
ORGANIZATION: Final = "org"

_KINDS: Final = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(slots=True)
class HubState:
    """What the routes share.

    Attributes:
        url (`str`): of the server, for the addresses that it gives out.
        all_regular (`bool`): whether no file goes to LFS.
        xet (`XetStorage`, *optional*): where large files are if they do not go to LFS.
        private_by_default (`bool`): whether new repositories of the organization are private.
    """

    store: Store
    url: str
    all_regular: bool
    xet: XetStorage | None
    private_by_default: bool


def get_state(request: Request) -> HubState:
    state: HubState = request.app.state.hub
    return state


def get_repository(request: Request, *, needs_write: bool = False) -> Repository:
    """Return the repository that the path names.

    Raises:
        RequestError: it is not there, is private and the token missing, or the token may not write to it.
    """
    path_params = request.path_params
    name = f"{path_params['namespace']}/{path_params['name']}"
    role = get_role(request)
    try:
        repository = get_state(request).store.repository(_KINDS[path_params.get("kind", "models")], name)
    except RequestError as error:
        # Those without a token are not told whether a repository is missing or private.
        raise error if role else RequestError(401, str(error), code="RepoNotFound") from None
    if repository.private and not role:
        raise RequestError(401, "Repository not found", code="RepoNotFound")
    if needs_write:
        check_write_access(request, path_params["namespace"])
    return repository


def get_role(request: Request) -> str:
    """Return the role of the token, an empty string without a token; refuse a token that is not known."""
    return _get_access(request)[0]


def check_write_access(request: Request, namespace: str, *, scope: str = REPO_SCOPE) -> None:
    """Refuse a token without this permission, or for another namespace."""
    role, scopes = _get_access(request)
    if not role:
        raise RequestError(401, "Invalid username or password.")
    if namespace not in (USER, ORGANIZATION):
        raise RequestError(403, f"You don't have the rights to write under the namespace {namespace!r}")
    if scope not in scopes:
        raise RequestError(403, "This token does not have the required permissions")


def _get_access(request: Request) -> tuple[str, set[str]]:
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and token not in _SCOPES:
        raise RequestError(401, "Invalid credentials in Authorization header")
    return _SCOPES.get(token, ("", set()))


async def handle_request_error(_: Request, error: Exception) -> Response:
    """Answer a `RequestError` in the form that the client reads."""
    assert isinstance(error, RequestError)
    headers = {"X-Error-Message": str(error), "X-Error-Code": error.code, "X-Repo-Commit": error.commit}
    headers = {name: value for name, value in headers.items() if value}
    return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)
