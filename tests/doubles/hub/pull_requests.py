"""The Hub's routes for pull requests: list, open, look at, publish or close, merge."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.hub.http import API, USER, repository_of, require_write
from tests.doubles.hub.store import MAIN, PullRequest, Refusal, Repository

_DISCUSSIONS: Final = f"{API}/discussions"
_UNFINISHED: Final = ("draft", "open")


async def _list(request: Request) -> Response:
    repository = repository_of(request)
    asked = request.query_params
    status = asked.get("status", "all")
    of_status = {"all": ("draft", "open", "closed", "merged"), "open": _UNFINISHED, "closed": ("closed", "merged")}
    found = [
        _listed(repository, pull)
        for pull in reversed(repository.pulls)
        if pull.status in of_status[status] and asked.get("author", pull.author) == pull.author
    ]
    found = [] if asked.get("type") == "discussion" else found
    return JSONResponse({"discussions": found, "count": len(found), "start": 0})


async def _open(request: Request) -> Response:
    repository = repository_of(request)
    require_write(request, USER)  # whoever has an account may propose a change
    body = await request.json()
    if not body["pullRequest"]:
        raise Refusal(400, "only pull requests can be opened here")
    pull = repository.open(body["title"], body["description"], author=USER, draft=True)
    return JSONResponse({"num": pull.number, "pullRequest": True})


async def _details(request: Request) -> Response:
    repository = repository_of(request)
    pull = repository.pull(request.path_params["number"])
    changes = {"base": MAIN, **({"mergeCommitId": pull.merged_as} if pull.merged_as else {})}
    return JSONResponse(
        {**_listed(repository, pull), "events": [], "changes": changes, "filesWithConflicts": [], "diff": ""}
    )


async def _status(request: Request) -> Response:
    pull = repository_of(request, writing=True).pull(request.path_params["number"])
    if pull.status == "merged":
        raise Refusal(400, "Cannot change the status of a merged pull request")
    pull.status = (await request.json())["status"]
    change = {"id": f"{pull.number:024x}", "type": "status-change", "createdAt": pull.created}
    return JSONResponse({"newStatus": {**change, "author": {"name": USER}, "data": {"status": pull.status}}})


async def _merge(request: Request) -> Response:
    repository_of(request, writing=True).merge(request.path_params["number"], author=USER)
    return JSONResponse({})


def _listed(repository: Repository, pull: PullRequest) -> dict[str, Any]:
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
    Route(_DISCUSSIONS + "/{number:int}/status", _status, methods=["POST"]),
    Route(_DISCUSSIONS + "/{number:int}/merge", _merge, methods=["POST"]),
]
