"""The Hub's routes that write: creating, uploading, committing, tagging."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.hub.access import USER, repository_of, require_write, state_of
from tests.doubles.hub.paths import API, PAGES
from tests.doubles.hub.store import File, Refusal, Repository

_LFS: Final = ".git/info/lfs"
_REGULAR_BYTES: Final = 10_000_000
"""Larger files go to LFS, whatever is in them."""


async def _create(request: Request) -> Response:
    body = await request.json()
    namespace, kind = body.get("organization") or USER, body.get("type") or "model"
    require_write(request, namespace)
    name = f"{namespace}/{body['name']}"
    private = body.get("visibility") == "private"
    answer = {"url": _page_of(request, kind, name), "name": name}
    if state_of(request).store.has(kind, name):  # the client reads the address here too
        return JSONResponse({"error": "You already created this repo", **answer}, 409)
    state_of(request).store.create(kind, name, private=private, author=USER)
    return JSONResponse(answer)


async def _validate_yaml(request: Request) -> Response:
    content = (await request.json())["content"]
    problem = ""
    if content.startswith("---\n"):
        try:
            header = yaml.safe_load(content[4:].split("\n---", 1)[0])
            problem = "" if isinstance(header, dict) else "the header is not a mapping"
        except yaml.YAMLError as error:
            problem = str(error)
    errors = [{"message": problem}] if problem else []
    return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if problem else 200)


async def _preupload(request: Request) -> Response:
    commit = repository_of(request, writing=True).at(request.path_params["revision"])
    body = await request.json()
    answers = []
    for asked in body["files"]:
        mode = "regular" if state_of(request).all_regular else _upload_mode(asked)
        there = commit.files.get(asked["path"])
        oid = None if there is None else there.sha256 if mode == "lfs" else there.oid
        answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return JSONResponse({"files": answers, "commitOid": commit.sha})


def _upload_mode(asked: dict[str, Any]) -> str:
    sample = base64.b64decode(asked["sample"])
    return "lfs" if b"\0" in sample or asked["size"] > _REGULAR_BYTES else "regular"


async def _lfs_batch(request: Request) -> Response:
    repository = repository_of(request, writing=True)
    state = state_of(request)
    objects = []
    for asked in (await request.json())["objects"]:
        upload = {"href": f"{state.url}/lfs/{asked['oid']}"}
        verify = {"href": f"{state.url}{request.url.path.removesuffix('/objects/batch')}/verify"}
        new = asked["oid"] not in state.store.objects
        objects.append({**asked, **({"actions": {"upload": upload, "verify": verify}} if new else {})})
    return JSONResponse({"transfer": "basic", "objects": objects, "repository": repository.name})


async def _lfs_put(request: Request) -> Response:
    data = await request.body()
    oid = request.path_params["oid"]
    if File.of(data, lfs=True).sha256 != oid:
        raise Refusal(400, f"the content is not that of {oid}")
    state_of(request).store.objects[oid] = data
    return Response(headers={"ETag": f'"{oid}"'})


async def _lfs_verify(request: Request) -> Response:
    repository_of(request, writing=True)
    asked = await request.json()
    if len(state_of(request).store.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Refusal(404, f"{asked['oid']} was not uploaded")
    return JSONResponse({})


async def _commit(request: Request) -> Response:
    repository = repository_of(request, writing=True)
    lines = [json.loads(line) for line in (await request.body()).splitlines()]
    header, operations = lines[0]["value"], lines[1:]
    revision = request.path_params["revision"]
    parent = repository.at(revision)
    if header.get("parentCommit", parent.sha) != parent.sha:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(parent.files)
    for operation in operations:
        _apply(request, operation["key"], operation["value"], files)
    pull = None
    if "create_pr" in request.query_params:
        pull = repository.open(header["summary"], header.get("description", ""), author=USER, draft=False)
    ref = pull.ref if pull else _writable(repository, revision)
    commit = repository.add(ref, files, title=header["summary"], message=header.get("description", ""), author=USER)
    page = _page_of(request, repository.kind, repository.name)
    answer = {"success": True, "commitOid": commit.sha, "commitUrl": f"{page}/commit/{commit.sha}"}
    return JSONResponse({**answer, **({"pullRequestUrl": f"{page}/discussions/{pull.number}"} if pull else {})})


def _writable(repository: Repository, revision: str) -> str:
    """Return the reference that a commit to this revision moves: a branch or an unfinished pull request."""
    if revision in repository.refs and revision.startswith("refs/pr/"):
        if repository.pull(int(revision.rpartition("/")[2])).status in ("draft", "open"):
            return revision
    elif f"refs/heads/{revision}" in repository.refs:
        return f"refs/heads/{revision}"
    raise Refusal(400, f"{revision} cannot be committed to")


def _apply(request: Request, key: str, value: dict[str, Any], files: dict[str, File]) -> None:
    """Carry out one line of a commit on `files`."""
    path = value["path"]
    match key:
        case "file":
            files[path] = File.of(base64.b64decode(value["content"]), lfs=False)
        case "lfsFile":
            data = state_of(request).store.objects.get(value["oid"])
            if data is None:
                raise Refusal(400, f"the LFS object {value['oid']} of {path} was not uploaded")
            files[path] = File.of(data, lfs=True)
        case "deletedFile" if path in files:
            del files[path]
        case "deletedFolder" if inside := [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            for name in inside:
                del files[name]
        case "deletedFile" | "deletedFolder":
            raise Refusal(404, f"A file with this name doesn't exist: {path}", code="EntryNotFound")
        case _:
            raise Refusal(400, f"unknown operation {key}")


async def _tag(request: Request) -> Response:
    repository = repository_of(request, writing=True)
    if request.method == "DELETE":
        repository.untag(request.path_params["revision"])
    else:
        repository.tag((await request.json())["tag"], request.path_params["revision"])
    return JSONResponse({})


def _page_of(request: Request, kind: str, name: str) -> str:
    prefix = "" if kind == "model" else f"{kind}s/"
    return f"{state_of(request).url}/{prefix}{name}"


ROUTES: Final = [
    Route("/api/repos/create", _create, methods=["POST"]),
    Route("/api/validate-yaml", _validate_yaml, methods=["POST"]),
    Route(API + "/preupload/{revision:revision}", _preupload, methods=["POST"]),
    Route(API + "/commit/{revision:revision}", _commit, methods=["POST"]),
    Route(API + "/tag/{revision:revision}", _tag, methods=["POST", "DELETE"]),
    Route("/lfs/{oid}", _lfs_put, methods=["PUT"]),
    *(Route(f"{page}{_LFS}/objects/batch", _lfs_batch, methods=["POST"]) for page in PAGES),
    *(Route(f"{page}{_LFS}/verify", _lfs_verify, methods=["POST"]) for page in PAGES),
]
