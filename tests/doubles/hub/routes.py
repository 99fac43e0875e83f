"""Routes of the Hub's double: what is read and written over HTTP, as the Hub answers it."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.hub.card_rules import find_problems
from tests.doubles.hub.http import (
    API_PATH,
    ORGANIZATION,
    PAGE_PATHS,
    USER,
    check_write_access,
    get_repository,
    get_role,
    get_state,
)
from tests.doubles.hub.store import Commit, File, Repository, RequestError

_PAGE_SIZE: Final = 50
"""Entries on one page of a listing; the client follows the Link header to the next."""
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


async def _whoami(request: Request) -> Response:
    role = get_role(request)
    if not role:
        raise RequestError(401, "Invalid username or password.")
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    orgs = [{"type": "org", "name": ORGANIZATION, "roleInOrg": role}]
    return JSONResponse({"type": "user", "name": USER, "fullname": USER, "orgs": orgs, "auth": access})


async def _info(request: Request) -> Response:
    repository = get_repository(request)
    commit = repository.get_commit(request.path_params.get("revision", "main"))
    siblings = [
        {"rfilename": path, **({"size": len(file.data), "blobId": file.oid} if "blobs" in request.query_params else {})}
        for path, file in sorted(commit.files.items())
    ]
    info: dict[str, Any] = {
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
    return JSONResponse(info)


async def _tree(request: Request) -> Response:
    commit = get_repository(request).get_commit(request.path_params["revision"])
    directory = request.path_params.get("path", "").strip("/")
    recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
    entries = list(_iter_entries(commit, directory, recursive=recursive))
    if directory and not entries:
        raise RequestError(404, f"{directory} does not exist on {commit.sha}", code="EntryNotFound")
    return _page_response(request, entries)


async def _paths_info(request: Request) -> Response:
    commit = get_repository(request).get_commit(request.path_params["revision"])
    paths = [path.strip("/") for path in parse_qs((await request.body()).decode()).get("paths", [])]
    entries = [entry for entry in _iter_entries(commit, "", recursive=True) if entry["path"] in paths]
    return JSONResponse(entries)


async def _commits(request: Request) -> Response:
    history = get_repository(request).history(request.path_params["revision"])
    entries = [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.created,
        }
        for commit in history
    ]
    return _page_response(request, entries)


async def _refs(request: Request) -> Response:
    refs = get_repository(request).refs.items()

    def list_refs(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in refs
            if ref.startswith(prefix)
        ]

    kinds = {"branches": "refs/heads/", "converts": "refs/convert/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
    return JSONResponse({kind: list_refs(prefix) for kind, prefix in kinds.items()})


async def _file(request: Request) -> Response:
    """Answer HEAD and GET, whole or a range, with the tags of the revision that was asked for."""
    commit = get_repository(request).get_commit(request.path_params["revision"])
    file = commit.files.get(request.path_params["path"])
    if file is None:
        message = f"{request.path_params['path']} is not in {commit.sha}"
        raise RequestError(404, message, code="EntryNotFound", commit=commit.sha)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
    if file.xet_hash:
        kind, name = request.path_params.get("kind", "models"), "{namespace}/{name}".format(**request.path_params)
        token_url = f"{get_state(request).url}/api/{kind}/{name}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{token_url}>; rel="xet-auth"'}
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(len(file.data))})
    if not (range_header := request.headers.get("range")):
        return Response(file.data, headers=headers, media_type="application/octet-stream")
    start, end = _parse_range(range_header, len(file.data))
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(file.data)}"
    return Response(file.data[start:end], 206, headers=headers, media_type="application/octet-stream")


def _parse_range(range_header: str, size: int) -> tuple[int, int]:
    match = _RANGE.fullmatch(range_header)
    if not match or not any(match.groups()):
        raise RequestError(416, f"cannot read the range {range_header!r}")
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise RequestError(416, f"the range {range_header!r} lies outside of {size} bytes")
    return start, end


def _iter_entries(commit: Commit, directory: str, *, recursive: bool) -> Iterator[dict[str, Any]]:
    """Yield the files below a folder, and the folders, each once, in order."""
    prefix = f"{directory}/" if directory else ""
    seen: set[str] = set()
    for path, file in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        path_parts = path.removeprefix(prefix).split("/")
        depths = range(1, len(path_parts)) if recursive else range(1, min(2, len(path_parts)))
        for depth in depths:
            if (name := prefix + "/".join(path_parts[:depth])) not in seen:
                seen.add(name)
                oid = sha1(f"{commit.sha} {name}".encode()).hexdigest()
                yield {"type": "directory", "oid": oid, "size": 0, "path": name}
        if recursive or len(path_parts) == 1:
            yield _file_entry(path, file)


def _file_entry(path: str, file: File) -> dict[str, Any]:
    size = len(file.data)
    lfs = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 134}} if file.lfs else {}
    xet = {"xetHash": file.xet_hash} if file.xet_hash else {}
    return {"type": "file", "oid": file.oid, "size": size, "path": path, **lfs, **xet}


def _page_response(request: Request, entries: Sequence[Any]) -> Response:
    start = int(request.query_params.get("cursor", 0))
    headers = {}
    if len(entries) > start + _PAGE_SIZE:
        query = urlencode({**request.query_params, "cursor": start + _PAGE_SIZE})
        path = request.scope["raw_path"].decode()
        headers["Link"] = f'<{get_state(request).url}{path}?{query}>; rel="next"'
    return JSONResponse(entries[start : start + _PAGE_SIZE], headers=headers)


READING_ROUTES: Final = [
    Route("/api/whoami-v2", _whoami),
    Route(API_PATH, _info),
    Route(API_PATH + "/revision/{revision:revision}", _info),
    Route(API_PATH + "/tree/{revision:revision}", _tree),
    Route(API_PATH + "/tree/{revision:revision}/{path:path}", _tree),
    Route(API_PATH + "/paths-info/{revision:revision}", _paths_info, methods=["POST"]),
    Route(API_PATH + "/commits/{revision:revision}", _commits),
    Route(API_PATH + "/refs", _refs),
    *(Route(page + "/resolve/{revision:revision}/{path:path}", _file) for page in PAGE_PATHS),
]


_LFS: Final = ".git/info/lfs"
_REGULAR_BYTES: Final = 10_000_000
"""Larger files go to LFS, whatever is in them."""


async def _create(request: Request) -> Response:
    body = await request.json()
    namespace, kind = body.get("organization") or USER, body.get("type") or "model"
    check_write_access(request, namespace)
    name = f"{namespace}/{body['name']}"
    is_private_default = get_state(request).private_by_default and namespace == ORGANIZATION
    private = body.get("visibility", "private" if is_private_default else "public") == "private"
    repo = {"url": _page_url(request, kind, name), "name": name}
    if get_state(request).store.has(kind, name):  # the client reads the address here too
        return JSONResponse({"error": "You already created this repo", **repo}, 409)
    get_state(request).store.create(kind, name, private=private, author=USER)
    return JSONResponse(repo)


async def _validate_yaml(request: Request) -> Response:
    body = await request.json()
    errors = [{"message": problem} for problem in find_problems(body["content"], body.get("repoType") or "model")]
    return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)


async def _preupload(request: Request) -> Response:
    commit = get_repository(request, needs_write=True).get_commit(request.path_params["revision"])
    body = await request.json()
    uploads = []
    for file in body["files"]:
        mode = "regular" if get_state(request).all_regular else _upload_mode(file)
        existing = commit.files.get(file["path"])
        oid = None if existing is None else existing.sha256 if mode == "lfs" else existing.oid
        uploads.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return JSONResponse({"files": uploads, "commitOid": commit.sha})


def _upload_mode(file: dict[str, Any]) -> str:
    sample = base64.b64decode(file["sample"])
    return "lfs" if b"\0" in sample or file["size"] > _REGULAR_BYTES else "regular"


async def _lfs_batch(request: Request) -> Response:
    repository = get_repository(request, needs_write=True)
    state = get_state(request)
    objects = []
    for lfs_object in (await request.json())["objects"]:
        upload = {"href": f"{state.url}/lfs/{lfs_object['oid']}"}
        verify = {"href": f"{state.url}{request.url.path.removesuffix('/objects/batch')}/verify"}
        is_new = lfs_object["oid"] not in state.store.objects
        objects.append({**lfs_object, **({"actions": {"upload": upload, "verify": verify}} if is_new else {})})
    return JSONResponse({"transfer": "basic", "objects": objects, "repository": repository.name})


async def _lfs_put(request: Request) -> Response:
    data = await request.body()
    oid = request.path_params["oid"]
    if File.from_bytes(data, lfs=True).sha256 != oid:
        raise RequestError(400, f"the content is not that of {oid}")
    get_state(request).store.objects[oid] = data
    return Response(headers={"ETag": f'"{oid}"'})


async def _lfs_verify(request: Request) -> Response:
    get_repository(request, needs_write=True)
    lfs_object = await request.json()
    if len(get_state(request).store.objects.get(lfs_object["oid"], b"")) != lfs_object["size"]:
        raise RequestError(404, f"{lfs_object['oid']} was not uploaded")
    return JSONResponse({})


async def _commit(request: Request) -> Response:
    repository = get_repository(request, needs_write=True)
    lines = [json.loads(line) for line in (await request.body()).splitlines()]
    header, operations = lines[0]["value"], lines[1:]
    revision = request.path_params["revision"]
    parent = repository.get_commit(revision)
    if not parent.sha.startswith(header.get("parentCommit", parent.sha)):  # shortened hashes count
        raise RequestError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(parent.files)
    for operation in operations:
        _apply_operation(request, repository, operation["key"], operation["value"], files)
    pull = None
    if "create_pr" in request.query_params:
        pull = repository.open_pull_request(header["summary"], header.get("description", ""), author=USER, draft=False)
    ref = pull.ref if pull else _writable_ref(repository, revision)
    commit = repository.add_commit(
        ref, files, title=header["summary"], message=header.get("description", ""), author=USER
    )
    page_url = _page_url(request, repository.kind, repository.name)
    answer = {"success": True, "commitOid": commit.sha, "commitUrl": f"{page_url}/commit/{commit.sha}"}
    return JSONResponse({**answer, **({"pullRequestUrl": f"{page_url}/discussions/{pull.number}"} if pull else {})})


def _writable_ref(repository: Repository, revision: str) -> str:
    """Return the reference that a commit to this revision moves: a branch or an unfinished pull request."""
    if revision in repository.refs and revision.startswith("refs/pr/"):
        if repository.get_pull_request(int(revision.rpartition("/")[2])).status in ("draft", "open"):
            return revision
    elif f"refs/heads/{revision}" in repository.refs:
        return f"refs/heads/{revision}"
    raise RequestError(400, f"{revision} cannot be committed to")


def _apply_operation(
    request: Request, repository: Repository, key: str, value: dict[str, Any], files: dict[str, File]
) -> None:
    """Carry out one line of a commit on `files`."""
    path = value["path"]
    hashing = {"git_hash": repository.git_hash}
    match key:
        case "file":
            data = base64.b64decode(value["content"])
            if path == "README.md" and (problems := find_problems(data.decode(), repository.kind)):
                raise RequestError(400, f"Invalid metadata in README.md: {'; '.join(problems)}")
            files[path] = File.from_bytes(data, lfs=False, **hashing)
        case "lfsFile":
            state = get_state(request)
            xet_hash, content = state.xet.read(value["oid"]) if state.xet else ("", None)
            content = state.store.objects.get(value["oid"]) if content is None else content
            if content is None:
                raise RequestError(400, f"the LFS object {value['oid']} of {path} was not uploaded")
            files[path] = File.from_bytes(content, lfs=True, xet_hash=xet_hash, **hashing)
        case "deletedFile" if path in files:
            del files[path]
        case "deletedFolder" if children := [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            for name in children:
                del files[name]
        case "deletedFile" | "deletedFolder":
            raise RequestError(404, f"A file with this name doesn't exist: {path}", code="EntryNotFound")
        case _:
            raise RequestError(400, f"unknown operation {key}")


async def _delete(request: Request) -> Response:
    body = await request.json()
    namespace, kind = body.get("organization") or USER, body.get("type") or "model"
    check_write_access(request, namespace)
    get_state(request).store.delete(kind, f"{namespace}/{body['name']}")
    return JSONResponse({})


async def _xet_token(request: Request) -> Response:
    """Give the address of the storage and a token for it, both as hf_xet (JSON) and the client (headers) read them."""
    get_repository(request, needs_write=request.path_params["access"] == "write")
    state = get_state(request)
    if state.xet is None:
        raise RequestError(404, "Not found")
    expiration = int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": state.xet.url,
        "X-Xet-Access-Token": "xet_test",
        "X-Xet-Token-Expiration": str(expiration),
    }
    body = {"casUrl": state.xet.url, "accessToken": "xet_test", "exp": expiration}
    return JSONResponse(body, headers=headers)


async def _branch(request: Request) -> Response:
    repository, branch = get_repository(request, needs_write=True), request.path_params["branch"]
    if request.method == "DELETE":
        repository.delete_branch(branch)
    else:
        repository.add_branch(branch, (await request.json()).get("startingPoint", "main"))
    return JSONResponse({})


async def _tag(request: Request) -> Response:
    repository = get_repository(request, needs_write=True)
    if request.method == "DELETE":
        repository.delete_tag(request.path_params["revision"])
    else:
        repository.add_tag((await request.json())["tag"], request.path_params["revision"])
    return JSONResponse({})


def _page_url(request: Request, kind: str, name: str) -> str:
    prefix = "" if kind == "model" else f"{kind}s/"
    return f"{get_state(request).url}/{prefix}{name}"


WRITING_ROUTES: Final = [
    Route("/api/repos/create", _create, methods=["POST"]),
    Route("/api/repos/delete", _delete, methods=["DELETE"]),
    Route("/api/validate-yaml", _validate_yaml, methods=["POST"]),
    Route(API_PATH + "/preupload/{revision:revision}", _preupload, methods=["POST"]),
    Route(API_PATH + "/commit/{revision:revision}", _commit, methods=["POST"]),
    Route(API_PATH + "/xet-{access}-token/{revision:revision}", _xet_token),
    Route(API_PATH + "/branch/{branch}", _branch, methods=["POST", "DELETE"]),
    Route(API_PATH + "/tag/{revision:revision}", _tag, methods=["POST", "DELETE"]),
    Route("/lfs/{oid}", _lfs_put, methods=["PUT"]),
    *(Route(f"{page}{_LFS}/objects/batch", _lfs_batch, methods=["POST"]) for page in PAGE_PATHS),
    *(Route(f"{page}{_LFS}/verify", _lfs_verify, methods=["POST"]) for page in PAGE_PATHS),
]
