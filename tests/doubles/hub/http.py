"""What all routes of the Hub's double share: its paths, who may do what, refusals, and connections that break off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.doubles.hub.store import Refusal, Repository, Store


class _Revision(StringConvertor):
    """A branch, a tag or a hash, or a reference with slashes: refs/pr/1."""

    regex = r"refs/[a-z]+/[^/]+|[^/]+"


class _Kind(StringConvertor):
    regex = "models|datasets|spaces"


register_url_convertor("revision", _Revision())
register_url_convertor("kind", _Kind())

API: Final = "/api/{kind:kind}/{namespace}/{name}"
"""What is asked about a repository starts so."""
PAGES: Final = ("/{kind:kind}/{namespace}/{name}", "/{namespace}/{name}")
"""What belongs to its page (files, LFS) starts so: models have no prefix."""


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


TOKEN: Final = "hf_test"
"""The token that may read and write."""
READ_TOKEN: Final = "hf_test_read"
"""The token that may only read."""
USER: Final = "tester"
ORGANIZATION: Final = "org"

_KINDS: Final = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(slots=True)
class State:
    """What the routes share.

    Attributes:
        url (`str`): of the server, for the addresses that it gives out.
        all_regular (`bool`): whether no file goes to LFS.
    """

    store: Store
    url: str
    all_regular: bool


def state_of(request: Request) -> State:
    state: State = request.app.state.hub
    return state


def repository_of(request: Request, *, writing: bool = False) -> Repository:
    """Return the repository that the path names.

    Raises:
        Refusal: it is not there, is private and the token missing, or the token may not write to it.
    """
    path = request.path_params
    name = f"{path['namespace']}/{path['name']}"
    role = role_of(request)
    try:
        found = state_of(request).store.repository(_KINDS[path.get("kind", "models")], name)
    except Refusal as refusal:
        # Those without a token are not told whether a repository is missing or private.
        raise refusal if role else Refusal(401, str(refusal), code="RepoNotFound") from None
    if found.private and not role:
        raise Refusal(401, "Repository not found", code="RepoNotFound")
    if writing:
        require_write(request, path["namespace"])
    return found


def role_of(request: Request) -> str:
    """Return `write`, `read`, or an empty string without a token; refuse a token that is not known."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if given and given not in (TOKEN, READ_TOKEN):
        raise Refusal(401, "Invalid credentials in Authorization header")
    return {TOKEN: "write", READ_TOKEN: "read"}.get(given, "")


def require_write(request: Request, namespace: str) -> None:
    role = role_of(request)
    if not role:
        raise Refusal(401, "Invalid username or password.")
    if role != "write" or namespace not in (USER, ORGANIZATION):
        raise Refusal(403, f"You don't have the rights to write under the namespace {namespace!r}")


async def refused(_: Request, refusal: Exception) -> Response:
    """Answer a `Refusal` in the form that the client reads."""
    assert isinstance(refusal, Refusal)
    headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
    return JSONResponse({"error": str(refusal)}, status_code=refusal.status, headers=headers)
