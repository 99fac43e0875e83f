"""Routes of the Hub's double: what is read and written over HTTP, as the Hub answers it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.hub.http import API, ORGANIZATION, PAGES, USER, repository_of, require_write, role_of, state_of
from tests.doubles.hub.store import Commit, File, Refusal, Repository

_PAGE: Final = 50
"""Entries on one page of a listing; the client follows the Link header to the next."""
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


async def _whoami(request: Request) -> Response:
    role = role_of(request)
    if not role:
        raise Refusal(401, "Invalid username or password.")
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    orgs = [{"type": "org", "name": ORGANIZATION, "roleInOrg": role}]
    return JSONResponse({"type": "user", "name": USER, "fullname": USER, "orgs": orgs, "auth": access})


async def _info(request: Request) -> Response:
    repository = repository_of(request)
    commit = repository.at(request.path_params.get("revision", "main"))
    siblings = [
        {"rfilename": path, **({"size": len(file.data), "blobId": file.oid} if "blobs" in request.query_params else {})}
        for path, file in sorted(commit.files.items())
    ]
    facts: dict[str, Any] = {
        "_id": sha1(repository.name.encode()).hexdigest()[:24],
        "id": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit.sha,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": repository.created,
        "lastModified": commit.created,
        "siblings": siblings,
    }
    return JSONResponse(facts)


async def _tree(request: Request) -> Response:
    commit = repository_of(request).at(request.path_params["revision"])
    folder = request.path_params.get("path", "").strip("/")
    recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
    entries = list(_entries(commit, folder, recursive=recursive))
    if folder and not entries:
        raise Refusal(404, f"{folder} does not exist on {commit.sha}", code="EntryNotFound")
    return _page(request, entries)


async def _paths_info(request: Request) -> Response:
    commit = repository_of(request).at(request.path_params["revision"])
    paths = [path.strip("/") for path in parse_qs((await request.body()).decode()).get("paths", [])]
    found = [entry for entry in _entries(commit, "", recursive=True) if entry["path"] in paths]
    return JSONResponse(found)


async def _commits(request: Request) -> Response:
    history = repository_of(request).history(request.path_params["revision"])
    listed = [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.created,
        }
        for commit in history
    ]
    return _page(request, listed)


async def _refs(request: Request) -> Response:
    refs = repository_of(request).refs.items()

    def listed(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in refs
            if ref.startswith(prefix)
        ]

    kinds = {"branches": "refs/heads/", "converts": "refs/convert/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
    return JSONResponse({kind: listed(prefix) for kind, prefix in kinds.items()})


async def _file(request: Request) -> Response:
    """Answer HEAD and GET, whole or a range, with the tags of the revision that was asked for."""
    commit = repository_of(request).at(request.path_params["revision"])
    file = commit.files.get(request.path_params["path"])
    if file is None:
        raise Refusal(404, f"{request.path_params['path']} is not in {commit.sha}", code="EntryNotFound")
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(len(file.data))})
    if not (asked := request.headers.get("range")):
        return Response(file.data, headers=headers, media_type="application/octet-stream")
    start, end = _range(asked, len(file.data))
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(file.data)}"
    return Response(file.data[start:end], 206, headers=headers, media_type="application/octet-stream")


def _range(asked: str, size: int) -> tuple[int, int]:
    match = _RANGE.fullmatch(asked)
    if not match or not any(match.groups()):
        raise Refusal(416, f"cannot read the range {asked!r}")
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise Refusal(416, f"the range {asked!r} lies outside of {size} bytes")
    return start, end


def _entries(commit: Commit, folder: str, *, recursive: bool) -> Iterator[dict[str, Any]]:
    """Yield the files below a folder, and the folders, each once, in order."""
    prefix = f"{folder}/" if folder else ""
    seen: set[str] = set()
    for path, file in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        inner = path.removeprefix(prefix).split("/")
        depths = range(1, len(inner)) if recursive else range(1, min(2, len(inner)))
        for depth in depths:
            if (name := prefix + "/".join(inner[:depth])) not in seen:
                seen.add(name)
                oid = sha1(f"{commit.sha} {name}".encode()).hexdigest()
                yield {"type": "directory", "oid": oid, "size": 0, "path": name}
        if recursive or len(inner) == 1:
            yield _entry(path, file)


def _entry(path: str, file: File) -> dict[str, Any]:
    size = len(file.data)
    lfs = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 134}} if file.lfs else {}
    return {"type": "file", "oid": file.oid, "size": size, "path": path, **lfs}


def _page(request: Request, listed: Sequence[Any]) -> Response:
    start = int(request.query_params.get("cursor", 0))
    headers = {}
    if len(listed) > start + _PAGE:
        query = urlencode({**request.query_params, "cursor": start + _PAGE})
        path = request.scope["raw_path"].decode()
        headers["Link"] = f'<{state_of(request).url}{path}?{query}>; rel="next"'
    return JSONResponse(listed[start : start + _PAGE], headers=headers)


READING_ROUTES: Final = [
    Route("/api/whoami-v2", _whoami),
    Route(API, _info),
    Route(API + "/revision/{revision:revision}", _info),
    Route(API + "/tree/{revision:revision}", _tree),
    Route(API + "/tree/{revision:revision}/{path:path}", _tree),
    Route(API + "/paths-info/{revision:revision}", _paths_info, methods=["POST"]),
    Route(API + "/commits/{revision:revision}", _commits),
    Route(API + "/refs", _refs),
    *(Route(page + "/resolve/{revision:revision}/{path:path}", _file) for page in PAGES),
]


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


WRITING_ROUTES: Final = [
    Route("/api/repos/create", _create, methods=["POST"]),
    Route("/api/validate-yaml", _validate_yaml, methods=["POST"]),
    Route(API + "/preupload/{revision:revision}", _preupload, methods=["POST"]),
    Route(API + "/commit/{revision:revision}", _commit, methods=["POST"]),
    Route(API + "/tag/{revision:revision}", _tag, methods=["POST", "DELETE"]),
    Route("/lfs/{oid}", _lfs_put, methods=["PUT"]),
    *(Route(f"{page}{_LFS}/objects/batch", _lfs_batch, methods=["POST"]) for page in PAGES),
    *(Route(f"{page}{_LFS}/verify", _lfs_verify, methods=["POST"]) for page in PAGES),
]
