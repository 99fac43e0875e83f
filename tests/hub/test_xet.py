"""Tests publishing and reading with Xet, to a storage in a local directory, and what is said if the Hub has none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from starlette.responses import JSONResponse, Response

from tests.doubles.hub.server import HubRequest, HubServer

from .clients import contents, get_repository, revision_files, run_source

PUSH: Final = """
import sys
from compact_hf.errors import HubError
from compact_hf.hub.download import download_snapshot
from compact_hf.hub.push import push

def publish(name, **options):
    return push(sys.argv[1], name, repo_type="dataset", message="Release v1", tag="v1", **options)
"""
FAIL: Final = """
told, progress = [], []
for name in sys.argv[2:]:
    try:
        publish(name, on_progress=progress.append)
    except HubError as error:
        told.append([type(error).__name__, str(error)])
told.append([line for line in progress if "retrying" in line])
"""
HINT: Final = "set HF_HUB_DISABLE_XET=1 to do without it"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(xet_directory=tmp_path / "storage") as server:
        yield server


@pytest.mark.parametrize("pull_request", [True, False])
def test_large_files_go_to_xet_and_come_back(
    server: HubServer, folder: Path, tmp_path: Path, pull_request: bool
) -> None:
    source = f"""
told = publish("org/things", pull_request={pull_request}).commit
told = str(download_snapshot("org/things", repo_type="dataset", revision="v1"))
"""
    snapshot = Path(run_source(server, PUSH + source, folder, home=tmp_path / "home"))
    repository = get_repository(server)
    assert revision_files(repository, "v1") == revision_files(repository, "main") == contents(folder)
    assert {path: data for path, data in contents(snapshot).items() if path != ".gitattributes"} == contents(folder)
    files = repository.get_commit("v1").files
    assert {path for path, file in files.items() if file.xet_hash} == {f"data/deep/{number}.bin" for number in range(3)}
    routes = {route for request in server.requests for route in re.findall(r"xet-\w+-token", request.path)}
    assert routes == {"xet-write-token", "xet-read-token"}
    assert not [request for request in server.requests if "lfs" in request.path]


def test_a_hub_that_gives_no_token_for_xet_refuses_at_once(server: HubServer, folder: Path, tmp_path: Path) -> None:
    statuses = (401, 403, 404, 405, 501)

    def refuse(request: HubRequest, number: int) -> Response | None:
        status = next((status for status in statuses if f"/hub{status}/xet-write-token/" in request.path), None)
        return JSONResponse({"error": "no"}, status) if status else None

    server.fault = refuse
    names = [f"org/hub{status}" for status in statuses]
    *errors, retries = run_source(server, PUSH + FAIL, folder, *names, home=tmp_path / "home")
    starts = [
        "the Xet storage of org/hub401 rejected the token (401 of ",
        "the token may not use the Xet storage of org/hub403 (403 of ",
        *(f"the Hub has no Xet storage for org/hub{status} ({status} of " for status in (404, 405, 501)),
    ]
    assert len(errors) == len(starts)
    for (kind, message), start in zip(errors, starts, strict=True):
        assert kind == "HubError"
        assert message.startswith(f"{start}{server.url}/api/datasets/org/hub"), message
        assert message.endswith(HINT), message
    assert retries == []


def test_a_storage_that_is_busy_or_not_there_was_retried_enough(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    def answer(request: HubRequest, number: int) -> Response | None:
        if "/org/busy/xet-" in request.path:
            return JSONResponse({"error": "busy"}, 503)
        if "/org/nowhere/xet-" in request.path:
            return JSONResponse({"casUrl": "http://127.0.0.1:9", "accessToken": "xet_test", "exp": 1 << 40})
        return None

    server.fault = answer
    names = ["org/busy", "org/nowhere"]
    options = {"home": tmp_path / "home", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "0"}
    busy, nowhere, retries = run_source(server, PUSH + FAIL, folder, *names, **options)
    for (kind, message), name in zip((busy, nowhere), names, strict=True):
        assert kind == "HubUnavailableError"
        assert message.startswith(f"the Xet storage of {name} cannot be reached ("), message
        assert f"): try again later, or {HINT}" in message
    assert "503 of " in busy[1]
    assert "http://127.0.0.1:9" in nowhere[1]
    assert retries == []


def test_a_download_without_a_token_for_xet_names_the_way_without_it(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
publish("org/things")
told = []
for number in range(3):
    try:
        download_snapshot("org/things", repo_type="dataset", files=[f"data/deep/{number}.bin"])
    except HubError as error:
        told.append(str(error))
"""
    replies = iter([JSONResponse({}), *(JSONResponse({"error": "no"}, status) for status in (403, 404))])
    server.fault = lambda request, number: next(replies, None) if "/xet-read-token/" in request.path else None
    errors = run_source(server, PUSH + source, folder, home=tmp_path / "home")
    commit = get_repository(server).get_commit("main").sha
    url = f"{server.url}/api/datasets/org/things/xet-read-token/{commit}"
    assert errors == [
        f"the Hub gives no token for the Xet storage of org/things: {HINT}",
        f"the token may not use the Xet storage of org/things (403 of {url}): use one with access to the repository, "
        f"or {HINT}",
        f"the Hub has no Xet storage for org/things (404 of {url}): {HINT}",
    ]
