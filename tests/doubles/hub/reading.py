"""The Hub's routes that read: repository facts, trees, history, references, and the files themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.hub.access import ORGANIZATION, USER, repository_of, role_of, state_of
from tests.doubles.hub.paths import API, PAGES
from tests.doubles.hub.store import Commit, File, Refusal

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


ROUTES: Final = [
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
