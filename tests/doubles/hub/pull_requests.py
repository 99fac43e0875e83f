"""The Hub's routes for pull requests: list, open, look at, publish or close, merge."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.hub.http import API_PATH, DISCUSSION_SCOPE, USER, check_write_access, get_repository
from tests.doubles.hub.store import MAIN, PullRequest, Repository, RequestError

_DISCUSSIONS: Final = f"{API_PATH}/discussions"
_UNMERGED: Final = ("draft", "open")


async def _list(request: Request) -> Response:
    repository = _get_repository(request)
    params = request.query_params
    status = params.get("status", "all")
    status_groups = {"all": ("draft", "open", "closed", "merged"), "open": _UNMERGED, "closed": ("closed", "merged")}
    discussions = [
        _to_json(repository, pull)
        for pull in reversed(repository.pull_requests)
        if pull.status in status_groups[status] and params.get("author", pull.author) == pull.author
    ]
    discussions = [] if params.get("type") == "discussion" else discussions
    return JSONResponse({"discussions": discussions, "count": len(discussions), "start": 0})


async def _open(request: Request) -> Response:
    repository = _get_repository(request)
    check_write_access(request, USER, scope=DISCUSSION_SCOPE)  # whoever has an account may propose a change
    body = await request.json()
    if not body["pullRequest"]:
        raise RequestError(400, "only pull requests can be opened here")
    pull = repository.open_pull_request(body["title"], body["description"], author=USER, draft=True)
    return JSONResponse({"num": pull.number, "pullRequest": True})


async def _details(request: Request) -> Response:
    repository = _get_repository(request)
    pull = repository.get_pull_request(request.path_params["number"])
    changes = {"base": MAIN, **({"mergeCommitId": pull.merge_commit} if pull.merge_commit else {})}
    return JSONResponse(
        {**_to_json(repository, pull), "events": [], "changes": changes, "filesWithConflicts": [], "diff": ""}
    )


async def _change_status(request: Request) -> Response:
    pull = _get_repository(request, needs_write=True).get_pull_request(request.path_params["number"])
    if pull.status == "merged":
        raise RequestError(400, "Cannot change the status of a merged pull request")
    pull.status = (await request.json())["status"]
    change = {"id": f"{pull.number:024x}", "type": "status-change", "createdAt": pull.created}
    return JSONResponse({"newStatus": {**change, "author": {"name": USER}, "data": {"status": pull.status}}})


async def _merge(request: Request) -> Response:
    _get_repository(request, needs_write=True).merge(request.path_params["number"], author=USER)
    return JSONResponse({})


def _get_repository(request: Request, *, needs_write: bool = False) -> Repository:
    """Return the repository, and refuse if its discussions, which pull requests belong to, are switched off."""
    repository = get_repository(request, needs_write=needs_write)
    if needs_write:
        check_write_access(request, request.path_params["namespace"], scope=DISCUSSION_SCOPE)
    if repository.discussions_disabled:
        raise RequestError(403, "Discussions are disabled for this repo")
    return repository


def _to_json(repository: Repository, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "status": pull.status,
        "author": {"name": pull.author},
        "createdAt": pull.created,
        "isPullRequest": True,
        "repo": {"name": repository.name, "type": repository.kind},
    }


ROUTES: Final = [
    Route(_DISCUSSIONS, _list),
    Route(_DISCUSSIONS, _open, methods=["POST"]),
    Route(_DISCUSSIONS + "/{number:int}", _details),
    Route(_DISCUSSIONS + "/{number:int}/status", _change_status, methods=["POST"]),
    Route(_DISCUSSIONS + "/{number:int}/merge", _merge, methods=["POST"]),
]
