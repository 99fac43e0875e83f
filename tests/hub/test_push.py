"""Tests that a directory is published completely or not at all, with the real client and the test server."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Final

import pytest
from starlette.responses import PlainTextResponse, Response

from tests.doubles.hub.http import (
    DroppedConnection,
    LostResponse,
    RateLimit,
    StalledResponse,
    service_unavailable,
    too_many_requests,
)
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import MAIN

from .clients import PUSH, contents, get_repository, revision_files, run, run_source, start, statuses

SHORT_WAITS: Final = "from compact_hf.hub import push as module; module._RETRY_DELAYS_S = (0.1,) * 6\n"


def test_main_and_the_tag_hold_just_the_folder_and_an_earlier_tag_stays(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import os, pathlib, sys
from compact_hf.hub.push import get_remote_state, push
folder = pathlib.Path(sys.argv[1])
told = []
for kind in ("dataset", "model", "space"):
    told.append(push(folder, "org/things", repo_type=kind, message="Release v1", tag="v1").url)
(folder / "data" / "words.txt").unlink()
(folder / "data" / "deep" / "1.bin").write_bytes(b"\\0another")
(folder / "new.txt").write_text("new")
push(folder, "org/things", repo_type="dataset", message="Release v2", tag="v2")
again = push(folder, "org/things", repo_type="dataset", message="Release v2", tag="v2")
states = [get_remote_state("org/things", repo_type="dataset"), get_remote_state("org/no", repo_type="model")]
told += [again.commit, *(state.tags for state in states)]
"""
    first = contents(folder)
    urls = [f"{server.url}/{prefix}org/things/tree/v1" for prefix in ("datasets/", "", "spaces/")]
    results = run_source(server, source, folder, home=tmp_path / "home")
    assert results[:3] == urls
    for kind in ("dataset", "model", "space"):
        assert revision_files(server.store.repository(kind, "org/things"), "v1") == first
    repository = get_repository(server)
    assert revision_files(repository, "main") == revision_files(repository, "v2") == contents(folder) != first
    assert results[3:] == [repository.refs[MAIN], ["v1", "v2"], []]
    assert statuses(repository) == ["merged", "merged"]  # the third call had nothing left to do


def test_a_repository_with_hashes_of_64_digits_is_pushed_to_and_read(folder: Path, tmp_path: Path) -> None:
    source = """
import pathlib, sys
from compact_hf.hub.download import download_snapshot, get_repo_listing
from compact_hf.hub.push import push
from compact_hf.training.checkpoints import pin_revision
folder = pathlib.Path(sys.argv[1])
first = push(folder, "org/things", repo_type="dataset", message="Release v1", tag="v1")
again = push(folder, "org/things", repo_type="dataset", message="Release v1", tag="v1")
(folder / "new.txt").write_text("new")
second = push(folder, "org/things", repo_type="dataset", message="Release v2", tag="v2")
listing = get_repo_listing("org/things", repo_type="dataset", revision=first.commit)
directory = download_snapshot("org/things", repo_type="dataset", revision=first.commit)
told = [first.commit, again.commit, second.commit, listing.commit, sorted(listing.files), directory.name]
told.append(pin_revision("org/things", first.commit))
"""
    before = contents(folder)
    with HubServer(git_hash="sha256") as server:
        first, again, second, listed, paths, directory, pinned = run_source(
            server, source, folder, home=tmp_path / "home"
        )
        assert revision_files(get_repository(server), "v1") == before
        assert revision_files(get_repository(server), "v2") == contents(folder)
    assert first == again == listed == directory == pinned[1] != second
    assert len(first) == len(second) == 64
    assert paths == sorted([".gitattributes", *before])


def test_main_changes_at_the_merge_and_nowhere_else(server: HubServer, folder: Path, tmp_path: Path) -> None:
    main_history: list[tuple[str, str]] = []  # the state of main at each request

    def note(request: HubRequest, number: int) -> None:
        if server.store.has("dataset", "org/things"):
            main_history.append((request.path, get_repository(server).refs[MAIN]))

    server.fault = note
    run_source(server, PUSH, folder, home=tmp_path / "home")
    before = [path for path, sha in main_history if sha == main_history[0][1]]
    after = [path for path, sha in main_history if sha != main_history[0][1]]
    assert before[-1].endswith("/discussions/1/merge")
    assert [path for path, _ in main_history] == before + after
    assert len([path for path in before if path.startswith("/lfs/")]) == 3


def test_a_killed_upload_goes_on_in_its_own_pull_request(server: HubServer, folder: Path, tmp_path: Path) -> None:
    stalled = threading.Event()

    def stall(request: HubRequest, number: int) -> Response | None:
        if request.path.startswith("/api/datasets/org/things/commit/"):
            stalled.set()
            return StalledResponse()
        return None

    server.fault = stall
    process = start(server, PUSH, folder, home=tmp_path / "home")
    assert stalled.wait(60)
    process.kill()
    process.communicate()
    repository = get_repository(server)
    assert (revision_files(repository, "main"), statuses(repository)) == ({}, ["draft"])

    server.fault = lambda request, number: None
    run_source(server, PUSH, folder, home=tmp_path / "home")
    assert revision_files(repository, "main") == revision_files(repository, "v1") == contents(folder)
    assert statuses(repository) == ["merged"]
    # Files that were uploaded before the kill are not uploaded again.
    assert len([entry for entry in server.requests if entry.method == "PUT"]) == 3


def test_a_large_upload_in_several_commits_is_not_seen_before_its_end(tmp_path: Path) -> None:
    """Covers the client's pipelined upload: Xet is enabled but not used, and the files do not fit in one commit."""
    directory = tmp_path / "folder"
    directory.mkdir()
    for number in range(300):
        (directory / f"{number}.txt").write_text(str(number))
    second = threading.Event()

    def stall(request: HubRequest, number: int) -> Response | None:
        if (
            "/commit/refs/pr/1" in request.path
            and revision_files(get_repository(server), "refs/pr/1")
            and not second.is_set()
        ):
            second.set()
            return StalledResponse()
        return None

    with HubServer(all_regular=True, fault=stall) as server:
        process = start(server, PUSH, directory, home=tmp_path / "home", HF_HUB_DISABLE_XET="0")
        assert second.wait(60)
        process.kill()
        process.communicate()
        repository = get_repository(server)
        assert revision_files(repository, "main") == {}
        assert 0 < len(revision_files(repository, "refs/pr/1")) < 300
        run_source(server, PUSH, directory, home=tmp_path / "home", HF_HUB_DISABLE_XET="0")
        assert revision_files(repository, "v1") == revision_files(repository, "main") == contents(directory)
        assert statuses(repository) == ["merged"]
        assert not [entry for entry in server.requests if entry.path.startswith("/lfs/")]


@pytest.mark.parametrize("options", [{}, {"pull_request": False}])
def test_broken_connections_and_lost_answers_leave_no_second_upload_and_the_whole_folder(
    server: HubServer, folder: Path, tmp_path: Path, options: dict[str, bool]
) -> None:
    broken: set[str] = set()
    steps = {
        "/api/repos/create": LostResponse(),
        "/lfs/": DroppedConnection(),
        "/tag/": LostResponse(),
        **(
            {"/branch/": LostResponse(), "/commit/compact-publish-v1": LostResponse(), "/commit/main": LostResponse()}
            if options
            else {"/discussions": LostResponse(), "/commit/": LostResponse(), "/merge": LostResponse()}
        ),
    }

    def fail_once(request: HubRequest, number: int) -> Response | None:
        for step, fault in steps.items():
            is_match = step in request.path if step.endswith("/") else request.path.endswith(step)
            if is_match and request.method in ("POST", "PUT") and step not in broken:
                broken.add(step)
                return fault
        return None

    server.fault = fail_once
    source = PUSH.replace('tag="v1"', f'tag="v1", **{options}')
    run_source(server, SHORT_WAITS + source, folder, home=tmp_path / "home")
    assert broken == set(steps)
    repository = get_repository(server)
    assert revision_files(repository, "v1") == revision_files(repository, "main") == contents(folder)
    assert statuses(repository) == ([] if options else ["merged"])
    assert len(list(repository.history("main"))) == 2


def test_an_upload_that_is_cut_in_its_middle_is_sent_again_and_the_others_are_not(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    large = folder / "data" / "large.bin"
    large.write_bytes(b"\0" * 20_000_000)
    cuts = [DroppedConnection(after_bytes=5_000_000), DroppedConnection(after_bytes=5_000_000)]

    def cut(request: HubRequest, number: int) -> Response | None:
        is_large = request.method == "PUT" and request.headers["content-length"] == str(large.stat().st_size)
        return cuts.pop() if is_large and cuts else None

    server.fault = cut
    run_source(server, SHORT_WAITS + PUSH, folder, home=tmp_path / "home")
    assert cuts == []
    assert (
        revision_files(get_repository(server), "v1")
        == revision_files(get_repository(server), "main")
        == contents(folder)
    )
    assert statuses(get_repository(server)) == ["merged"]
    sizes = [request.headers["content-length"] for request in server.requests if request.method == "PUT"]
    assert (sizes.count("20000000"), len(sizes)) == (3, 6)


@pytest.mark.slow
def test_bursts_of_429_and_5xx_are_waited_out(server: HubServer, folder: Path, tmp_path: Path) -> None:
    def burst(request: HubRequest, number: int) -> Response | None:
        if number < 2:
            return too_many_requests(retry_after_s=1)
        if 8 <= number < 10:
            return service_unavailable()
        return PlainTextResponse("<html>Bad Gateway", 502) if number == 14 else None

    server.fault = burst
    source = SHORT_WAITS + PUSH.replace('tag="v1"', 'tag="v1", on_progress=lambda line: print(line, file=sys.stderr)')
    process = run(server, source, folder, home=tmp_path / "home")
    assert process.returncode == 0, process.stderr
    assert re.search(r"the Hub is busy or failing \(429: .*\); retrying in 1 s\n", process.stderr)
    assert revision_files(get_repository(server), "v1") == contents(folder)
    assert statuses(get_repository(server)) == ["merged"]


def test_a_rate_limit_is_waited_out_for_as_long_as_its_headers_say(folder: Path, tmp_path: Path) -> None:
    source = SHORT_WAITS + PUSH.replace('tag="v1"', 'tag="v1", on_progress=lambda line: print(line, file=sys.stderr)')
    with HubServer(rate_limit=RateLimit(limit=25, window_s=1)) as server:
        process = run(server, source, folder, home=tmp_path / "home")
        assert process.returncode == 0, process.stderr
        waits = [line for line in process.stderr.splitlines() if "25 requests in 1 s are allowed" in line]
        reason = "the rate limit of the Hub is reached (429; 25 requests in 1 s are allowed): it allows more in 1 s"
        assert waits
        assert set(waits) == {f"{reason}; retrying in 2 s"}
        assert revision_files(get_repository(server), "v1") == contents(folder)


def test_a_limit_of_an_hour_ends_the_push_at_once(server: HubServer, folder: Path, tmp_path: Path) -> None:
    hour = RateLimit(limit=100, window_s=3600, used=100)
    server.fault = lambda request, number: hour.refuse() if request.method == "POST" else None
    process = run(server, PUSH, folder, home=tmp_path / "home")
    assert process.stderr.splitlines()[-1].endswith("it allows more in 3600 s: run the same command to resume")
    assert len([request for request in server.requests if request.method == "POST"]) == 1
