"""Tests publishing to Hubs and repositories without pull requests, and with tokens that may not open them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from starlette.responses import HTMLResponse, JSONResponse, Response

from tests.doubles.hub.http import REPO_TOKEN, StalledResponse
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import MAIN, Repository

from .clients import COMPACT, contents, get_repository, revision_files, run, run_source, start
from .test_space import METRIC, published_files

PUSH_TO_EACH: Final = """
import os, sys
from compact_hf.errors import HubError
from compact_hf.hub.push import push
told, progress = {}, []
for name in sys.argv[2:]:
    try:
        push(sys.argv[1], name, repo_type="dataset", message="Release v1", tag="v1", on_progress=progress.append)
    except HubError as error:
        told[name] = str(error)
told["retries"] = [line for line in progress if "retrying" in line]
"""
PUSH: Final = """
import sys
from compact_hf.hub.push import push
pushed = push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1", tag="v1", pull_request=False)
told = pushed.commit
"""


def count_requests(server: HubServer, part: str) -> int:
    return len([request for request in server.requests if part in request.path])


def branches(repository: Repository) -> list[str]:
    return [ref for ref in repository.refs if ref.startswith("refs/heads/")]


def test_a_hub_without_pull_requests_is_said_at_once_and_no_empty_repository_stays(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    refusals = {
        "org/not_implemented": lambda: JSONResponse({"error": "no discussions here"}, 501),
        "org/not_found": lambda: JSONResponse({"detail": "Not Found"}, 404),
        "org/not_allowed": lambda: JSONResponse({"detail": "Method Not Allowed"}, 405),
        "org/page": lambda: HTMLResponse("<!doctype html><title>A hub</title>"),
        "org/other_json": lambda: JSONResponse({}),
    }

    def refuse(request: HubRequest, number: int) -> Response | None:
        name = next((name for name in refusals if f"{name}/discussions" in request.path), None)
        return refusals[name]() if name else None

    server.fault = refuse
    switched_off = server.store.create("dataset", "org/switched_off", private=False, author="tester")
    switched_off.discussions_disabled = True
    names = [*refusals, "org/switched_off"]
    results = run_source(server, PUSH_TO_EACH, folder, *names, home=tmp_path / "home")
    assert results.pop("retries") == []
    for name, message in results.items():
        assert message.startswith(f"{name} cannot have pull requests ("), message
        assert message.endswith("): add --no-pr, which uploads to a branch and commits to main"), message
    reasons = ["501: no discussions", "404: ", "405: ", "no list", "no list", "403: Discussions are disabled"]
    assert list(results) == names
    assert all(reason in message for reason, message in zip(reasons, results.values(), strict=True)), results
    assert not any(server.store.has("dataset", name) for name in refusals)
    assert list(switched_off.refs) == [MAIN]
    assert count_requests(server, "/api/repos/create") == len(refusals)


def test_each_step_that_a_token_may_not_take_is_named_with_its_permission(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    refused = iter(["/api/repos/create", "/discussions", "/commit/refs", "/merge", "/tag/"])
    current = [next(refused)]

    def refuse(request: HubRequest, number: int) -> Response | None:
        if current and current[0] in request.path and request.method == "POST":
            current[:] = [step for step in [next(refused, None)] if step]
            return JSONResponse({"error": "no"}, 403)
        return None

    server.fault = refuse
    results = run_source(
        server,
        """
import sys
from compact_hf.errors import HubError
from compact_hf.hub.push import push
told = []
while True:
    try:
        push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1", tag="v1")
        break
    except HubError as error:
        told.append(str(error))
""",
        folder,
        home=tmp_path / "home",
    )
    advice = "org/things (403: no): use one with write access, or with the permission"
    assert results == [
        f"the token may not create {advice} repo.write",
        f"the token may not open pull requests in {advice} discussion.write, or add --no-pr",
        f"the token may not upload to {advice} repo.write",
        f"the token may not merge pull requests in {advice} repo.write and discussion.write",
        f"the token may not set tags in {advice} repo.write",
    ]
    assert revision_files(get_repository(server), "v1") == contents(folder)


def test_the_upload_goes_to_a_branch_and_then_in_one_commit_to_main(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import pathlib, sys
from compact_hf.hub.push import push
folder, told = pathlib.Path(sys.argv[1]), []

def publish(version, kind):
    options = {"repo_type": kind, "message": f"Release {version}", "tag": version, "pull_request": False}
    told.append(push(folder, "org/things", **options).commit)

for kind in ("dataset", "model", "space"):
    publish("v1", kind)
(folder / "data" / "words.txt").unlink()
(folder / "data" / "deep" / "1.bin").write_bytes(b"\\0another")
(folder / "new.txt").write_text("new")
publish("v2", "dataset")
publish("v2", "dataset")
"""
    first = contents(folder)
    # A token that may not open pull requests is enough.
    results = run_source(server, source, folder, home=tmp_path / "home", HF_TOKEN=REPO_TOKEN)
    for kind in ("dataset", "model", "space"):
        repository = server.store.repository(kind, "org/things")
        assert revision_files(repository, "v1") == first
        assert branches(repository) == [MAIN]
    repository = get_repository(server)
    assert revision_files(repository, "v2") == revision_files(repository, "main") == contents(folder) != first
    history = [commit.sha for commit in repository.history("main")]
    assert results[-2:] == [history[0]] * 2
    assert [results[0], len(history)] == [history[1], 3]
    assert [commit.title for commit in repository.history("main")] == ["Release v2", "Release v1", "initial commit"]
    assert count_requests(server, "/discussions") == 0


def test_a_killed_upload_to_a_branch_goes_on_in_it_and_main_waits(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    stalled = threading.Event()

    def stall(request: HubRequest, number: int) -> Response | None:
        if request.path.endswith("/commit/main"):
            stalled.set()
            return StalledResponse()
        return None

    server.fault = stall
    process = start(server, PUSH, folder, home=tmp_path / "home")
    assert stalled.wait(60)
    process.kill()
    process.communicate()
    repository = get_repository(server)
    assert revision_files(repository, "main") == {}
    assert revision_files(repository, "compact-publish-v1") == contents(folder)

    server.fault = lambda request, number: None
    run_source(server, PUSH, folder, home=tmp_path / "home")
    assert revision_files(repository, "v1") == revision_files(repository, "main") == contents(folder)
    assert branches(repository) == [MAIN]
    assert count_requests(server, "/lfs/") == count_requests(server, "/info/lfs/") + 3, "a file was sent twice"


def test_a_main_that_moves_before_or_at_the_commit_is_not_mixed_with_the_folder(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
from compact_hf.errors import HubError
from compact_hf.hub.push import push
told = []

def move(commit):
    add = CommitOperationAdd("theirs.txt", b"theirs")
    HfApi().create_commit("org/things", [add], commit_message="theirs", repo_type="dataset")

for check in (move, lambda commit: None):
    try:
        push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1", pull_request=False, check=check)
    except HubError as error:
        told.append(str(error))
"""

    def intrude(request: HubRequest, number: int) -> None:
        if request.path.endswith("/commit/main"):
            repository = get_repository(server)
            if "theirs.txt" in (files := repository.get_commit("main").files):
                repository.add_commit(MAIN, files, title="theirs again", message="", author="tester")

    server.fault = intrude
    errors = run_source(server, source, folder, home=tmp_path / "home")
    assert "was changed in the meantime and nothing was merged" in errors[0]
    assert "org/things was changed in the meantime (412: " in errors[1]
    assert revision_files(get_repository(server), "main") == {"theirs.txt": b"theirs"}


def test_a_commit_to_main_of_which_the_hub_leaves_a_file_out_gets_no_tag(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    def leave_out(request: HubRequest, number: int) -> None:
        if request.path.endswith("/revision/main") and "words" in str(get_repository(server).get_commit("main").files):
            repository = get_repository(server)
            files = {path: file for path, file in repository.get_commit("main").files.items() if "words" not in path}
            repository.add_commit(MAIN, files, title="left out", message="", author="tester")

    server.fault = leave_out
    process = run(server, PUSH, folder, home=tmp_path / "home")
    line = process.stderr.splitlines()[-1]
    assert "no tag was set (data/words.txt is not what was uploaded): run the command again" in line
    assert "refs/tags/v1" not in get_repository(server).refs


def test_a_space_is_published_without_pull_requests_by_the_command(server: HubServer, tmp_path: Path) -> None:
    server.fault = lambda request, number: Response(status_code=501) if "/discussions" in request.path else None
    refused = run(server, COMPACT, "publish", str(METRIC), "org/metric", home=tmp_path / "home")
    assert (refused.returncode, server.store.has("space", "org/metric")) == (1, False)
    assert "org/metric cannot have pull requests (501: " in refused.stderr.splitlines()[-1]
    process = run(server, COMPACT, "publish", str(METRIC), "org/metric", "--no-pr", home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    assert revision_files(server.store.repository("space", "org/metric"), "main") == published_files(METRIC)
