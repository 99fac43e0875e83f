"""A folder gets to the Hub in one piece, whatever happens on the way. The real client talks to the double."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from starlette.responses import PlainTextResponse, Response

from compact_hf.testing.hub.access import READ_TOKEN
from compact_hf.testing.hub.faults import Cut, Lost, Stalled, too_many, unavailable
from compact_hf.testing.hub.server import Asked, HubServer
from compact_hf.testing.hub.store import MAIN, Repository

from .clients import run, start, told

PUSH: Final = """
import sys
from compact_hf.hub.push import push
pushed = push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1", tag="v1")
told = [pushed.commit, pushed.tag, pushed.url]
"""
SHORT_WAITS: Final = "from compact_hf.hub import push as module; module._WAITS_S = (0.1,) * 6\n"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files for LFS and two others, in folders."""
    folder = tmp_path / "folder"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nThings.\n")
    (folder / "data" / "words.txt").write_text("some words")
    for number in range(3):
        (folder / "data" / "deep" / f"{number}.bin").write_bytes(bytes([0, number]) * 5000)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def at(repository: Repository, revision: str) -> dict[str, bytes]:
    """What a revision holds, without what the Hub puts there itself."""
    files = repository.at(revision).files
    return {path: file.data for path, file in files.items() if path != ".gitattributes"}


def things(server: HubServer) -> Repository:
    return server.store.repository("dataset", "org/things")


def statuses(repository: Repository) -> list[str]:
    return [pull.status for pull in repository.pulls]


def test_main_and_the_tag_hold_just_the_folder_and_an_earlier_tag_stays(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import os, pathlib, sys
from compact_hf.hub.push import push, standing
folder = pathlib.Path(sys.argv[1])
told = []
for kind in ("dataset", "model", "space"):
    told.append(push(folder, "org/things", repo_type=kind, message="Release v1", tag="v1").url)
(folder / "data" / "words.txt").unlink()
(folder / "data" / "deep" / "1.bin").write_bytes(b"\\0another")
(folder / "new.txt").write_text("new")
push(folder, "org/things", repo_type="dataset", message="Release v2", tag="v2")
again = push(folder, "org/things", repo_type="dataset", message="Release v2", tag="v2")
told += [again.commit, standing("org/things", repo_type="dataset").tags, standing("org/no", repo_type="model").tags]
"""
    first = contents(folder)
    urls = [f"{server.url}/{prefix}org/things/tree/v1" for prefix in ("datasets/", "", "spaces/")]
    repository_told = told(server, source, folder, home=tmp_path / "home")
    assert repository_told[:3] == urls
    for kind in ("dataset", "model", "space"):
        assert at(server.store.repository(kind, "org/things"), "v1") == first
    repository = things(server)
    assert at(repository, "main") == at(repository, "v2") == contents(folder) != first
    assert repository_told[3:] == [repository.refs[MAIN], ["v1", "v2"], []]
    assert statuses(repository) == ["merged", "merged"]  # the third call found nothing left to do


def test_main_changes_at_the_merge_and_nowhere_else(server: HubServer, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []  # main as each request found it

    def note(asked: Asked, number: int) -> None:
        if server.store.has("dataset", "org/things"):
            seen.append((asked.path, things(server).refs[MAIN]))

    server.fault = note
    told(server, PUSH, folder, home=tmp_path / "home")
    before = [path for path, sha in seen if sha == seen[0][1]]
    after = [path for path, sha in seen if sha != seen[0][1]]
    assert before[-1].endswith("/discussions/1/merge")
    assert [path for path, _ in seen] == before + after
    assert len([path for path in before if path.startswith("/lfs/")]) == 3


def test_a_killed_upload_goes_on_in_its_own_pull_request(server: HubServer, folder: Path, tmp_path: Path) -> None:
    stalled = threading.Event()

    def stall(asked: Asked, number: int) -> Response | None:
        if asked.path.startswith("/api/datasets/org/things/commit/"):
            stalled.set()
            return Stalled()
        return None

    server.fault = stall
    process = start(server, PUSH, folder, home=tmp_path / "home")
    assert stalled.wait(60)
    process.kill()
    process.communicate()
    repository = things(server)
    assert (at(repository, "main"), statuses(repository)) == ({}, ["draft"])

    server.fault = lambda asked, number: None
    told(server, PUSH, folder, home=tmp_path / "home")
    assert at(repository, "main") == at(repository, "v1") == contents(folder)
    assert statuses(repository) == ["merged"]
    # What had arrived before the kill was not sent again.
    assert len([one for one in server.asked if one.method == "PUT"]) == 3


def test_a_large_upload_in_several_commits_is_not_seen_before_its_end(tmp_path: Path) -> None:
    """The client's pipelined path: Xet on, no file for it, more files than it puts into one commit."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}.txt").write_text(str(number))
    second = threading.Event()

    def stall(asked: Asked, number: int) -> Response | None:
        if "/commit/refs/pr/1" in asked.path and at(things(server), "refs/pr/1") and not second.is_set():
            second.set()
            return Stalled()
        return None

    with HubServer(all_regular=True, fault=stall) as server:
        process = start(server, PUSH, folder, home=tmp_path / "home", HF_HUB_DISABLE_XET="0")
        assert second.wait(60)
        process.kill()
        process.communicate()
        repository = things(server)
        assert at(repository, "main") == {}
        assert 0 < len(at(repository, "refs/pr/1")) < 300
        told(server, PUSH, folder, home=tmp_path / "home", HF_HUB_DISABLE_XET="0")
        assert at(repository, "v1") == at(repository, "main") == contents(folder)
        assert statuses(repository) == ["merged"]
        assert not [one for one in server.asked if one.path.startswith("/lfs/")]


def test_broken_connections_and_lost_answers_leave_one_pull_request_and_the_whole_folder(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    broken: set[str] = set()
    steps = {
        "/api/repos/create": Lost(),
        "/discussions": Lost(),
        "/lfs/": Cut(),
        "/commit/": Lost(),
        "/merge": Lost(),
        "/tag/": Lost(),
    }

    def once(asked: Asked, number: int) -> Response | None:
        for step, fault in steps.items():
            there = step in asked.path if step.endswith("/") else asked.path.endswith(step)
            if there and asked.method in ("POST", "PUT") and step not in broken:
                broken.add(step)
                return fault
        return None

    server.fault = once
    told(server, SHORT_WAITS + PUSH, folder, home=tmp_path / "home")
    assert broken == set(steps)
    repository = things(server)
    assert at(repository, "v1") == at(repository, "main") == contents(folder)
    assert statuses(repository) == ["merged"]


def test_bursts_of_429_and_5xx_are_waited_out(server: HubServer, folder: Path, tmp_path: Path) -> None:
    def burst(asked: Asked, number: int) -> Response | None:
        if number < 2:
            return too_many(retry_after_s=1)
        if 8 <= number < 10:
            return unavailable()
        return PlainTextResponse("<html>Bad Gateway", 502) if number == 14 else None

    server.fault = burst
    source = SHORT_WAITS + PUSH.replace('tag="v1"', 'tag="v1", on_progress=lambda line: print(line, file=sys.stderr)')
    done = run(server, source, folder, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert re.search(r"the Hub is busy or failing \(429: .*\); trying again in 1 s\n", done.stderr)
    assert at(things(server), "v1") == contents(folder)
    assert statuses(things(server)) == ["merged"]


def test_a_hub_that_keeps_failing_or_is_not_there_is_one_clear_line(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import sys
from compact_hf.errors import HubUnavailableError
from compact_hf.hub import push as module
module._WAITS_S = ()
try:
    module.push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1")
except HubUnavailableError as error:
    told = str(error)
"""
    server.fault = lambda asked, number: unavailable()
    assert told(server, source, folder, home=tmp_path / "home").startswith("the Hub is busy or failing (503: ")
    nowhere = told(server, source, folder, home=tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert nowhere.startswith("the Hub cannot be reached (")
    offline = source.replace("HubUnavailableError", "HubError")
    assert "HF_HUB_OFFLINE is set" in told(server, offline, folder, home=tmp_path / "home", HF_HUB_OFFLINE="1")


def test_what_the_hub_refuses_is_one_clear_line_and_changes_nothing(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import os, pathlib, sys
from compact_hf.errors import CompactError
from compact_hf.hub.push import push
folder, empty = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
empty.mkdir()
told = {}

def refused(case, folder=folder, name="org/things", token=os.environ["HF_TOKEN"], **options):
    os.environ["HF_TOKEN"] = token
    try:
        push(folder, name, repo_type="dataset", message="Release v1", **options)
    except CompactError as error:
        told[case] = [type(error).__name__, str(error)]

right = os.environ["HF_TOKEN"]
refused("no token", token="")
refused("unknown token", token="hf_wrong")
refused("may only read", token=sys.argv[3])
refused("another's namespace", name="someone/things", token=right)
refused("bad characters", name="org/thi ngs")
refused("no namespace", name="things")
refused("no folder", folder=empty / "nowhere")
refused("no files", folder=empty)
(empty / "README.md").write_text("---\\na: [\\n---\\n")
refused("bad header", folder=empty)
push(folder, "org/things", repo_type="dataset", message="Release v1", tag="v1")
refused("public", private=True)
(folder / "data" / "words.txt").write_text("other words")
refused("tag taken", tag="v1")
"""
    before = contents(folder)
    got = told(server, source, folder, tmp_path / "empty", READ_TOKEN, home=tmp_path / "home")
    expected = {
        "no token": ("HubError", "set HF_TOKEN"),
        "unknown token": ("HubError", "does not take the token"),
        "may only read": ("HubError", "may not write to org/things"),
        "another's namespace": ("HubError", "may not write to someone/things"),
        "bad characters": ("UsageError", "'org/thi ngs' is not a repository's name"),
        "no namespace": ("UsageError", "give namespace/name"),
        "no folder": ("UsageError", "is not a folder"),
        "no files": ("UsageError", "holds no files"),
        "bad header": ("HubError", "Invalid metadata in README.md"),
        "public": ("HubError", "is public"),
        "tag taken": ("HubError", "data/words.txt has 10 bytes, should have 11"),
    }
    assert got.keys() == expected.keys()
    for case, (kind, part) in expected.items():
        assert got[case][0] == kind, got[case]
        assert part in got[case][1], got[case]
        assert "\n" not in got[case][1]
        assert "hf_" not in got[case][1], "a token must not be shown"
    assert at(things(server), "main") == at(things(server), "v1") == before


def test_a_main_that_moves_meanwhile_is_not_mixed_with_the_folder(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
from compact_hf.errors import HubError
from compact_hf.hub.push import push

def move(commit):
    add = CommitOperationAdd("theirs.txt", b"theirs")
    HfApi().create_commit("org/things", [add], commit_message="theirs", repo_type="dataset")

try:
    push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1", tag="v1", check=move)
except HubError as error:
    told = str(error)
"""
    assert "was changed in the meantime; nothing was merged" in told(server, source, folder, home=tmp_path / "home")
    repository = things(server)
    assert at(repository, "main") == {"theirs.txt": b"theirs"}
    told(server, PUSH, folder, home=tmp_path / "home")
    assert at(repository, "main") == at(repository, "v1") == contents(folder)
    assert statuses(repository) == ["closed", "merged"]


def test_two_who_upload_into_one_pull_request_do_not_mix_their_files(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    def intrude(asked: Asked, number: int) -> None:
        if "/commit/refs/pr/1" in asked.path:
            theirs = things(server).at("main").files[".gitattributes"]
            things(server).add("refs/pr/1", {"theirs.txt": theirs}, title="theirs", message="", author="tester")

    server.fault = intrude
    done = run(server, PUSH, folder, home=tmp_path / "home")
    line = done.stderr.splitlines()[-1]
    assert "org/things was changed by someone else (412: " in line
    assert at(things(server), "main") == {}
    server.fault = lambda asked, number: None
    told(server, PUSH, folder, home=tmp_path / "home")
    assert at(things(server), "v1") == at(things(server), "main") == contents(folder)
    assert statuses(things(server)) == ["merged"]


def test_pull_requests_of_others_or_for_something_else_are_left_alone(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    repository = server.store.create("dataset", "org/things", private=False, author="tester")
    repository.open("Release v1", "", author="someone", draft=False)
    repository.open("Release v0", "", author="tester", draft=True)
    told(server, PUSH, folder, home=tmp_path / "home")
    assert statuses(repository) == ["open", "draft", "merged"]
    assert at(repository, "refs/pr/1") == at(repository, "refs/pr/2") == {}


def test_a_commit_to_main_during_the_merge_gets_no_tag(server: HubServer, folder: Path, tmp_path: Path) -> None:
    def intrude(asked: Asked, number: int) -> None:
        if asked.path.endswith("/merge"):
            files = dict(things(server).at("main").files)
            things(server).add(
                MAIN, {**files, "theirs.txt": files[".gitattributes"]}, title="theirs", message="", author="tester"
            )

    server.fault = intrude
    done = run(server, PUSH, folder, home=tmp_path / "home")
    assert "was changed while merging; no tag was set" in done.stderr.splitlines()[-1]
    assert "refs/tags/v1" not in things(server).refs
    server.fault = lambda asked, number: None
    told(server, PUSH, folder, home=tmp_path / "home")
    assert at(things(server), "v1") == at(things(server), "main") == contents(folder)
