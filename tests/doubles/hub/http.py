"""What all routes of the Hub's double share: its paths, who may do what, refusals, and connections that break off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.doubles.hub.store import Repository, RequestError, Store


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
USER: Final = "tester"
ORGANIZATION: Final = "org"

_KINDS: Final = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(slots=True)
class HubState:
    """What the routes share.

    Attributes:
        url (`str`): of the server, for the addresses that it gives out.
        all_regular (`bool`): whether no file goes to LFS.
    """

    store: Store
    url: str
    all_regular: bool


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
    """Return `write`, `read`, or an empty string without a token; refuse a token that is not known."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and token not in (TOKEN, READ_TOKEN):
        raise RequestError(401, "Invalid credentials in Authorization header")
    return {TOKEN: "write", READ_TOKEN: "read"}.get(token, "")


def check_write_access(request: Request, namespace: str) -> None:
    role = get_role(request)
    if not role:
        raise RequestError(401, "Invalid username or password.")
    if role != "write" or namespace not in (USER, ORGANIZATION):
        raise RequestError(403, f"You don't have the rights to write under the namespace {namespace!r}")


async def handle_request_error(_: Request, error: Exception) -> Response:
    """Answer a `RequestError` in the form that the client reads."""
    assert isinstance(error, RequestError)
    headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
    return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)
