"""Tests that a failing push gives one clear line, and that changes of others are never mixed with the directory."""

from __future__ import annotations

from pathlib import Path

from tests.doubles.hub.http import READ_TOKEN, service_unavailable
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import MAIN

from .clients import PUSH, contents, get_repository, revision_files, run, run_source, statuses


def test_a_hub_that_keeps_failing_or_is_not_there_is_one_clear_line(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    source = """
import sys
from compact_hf.errors import HubUnavailableError
from compact_hf.hub import push as module
module._RETRY_DELAYS_S = ()
try:
    module.push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1")
except HubUnavailableError as error:
    told = str(error)
"""
    server.fault = lambda request, number: service_unavailable()
    failing = run_source(server, source, folder, home=tmp_path / "home")
    assert failing.startswith("the Hub is busy or failing (503: ")
    nowhere = run_source(server, source, folder, home=tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert nowhere.startswith("the Hub cannot be reached (")
    assert failing.endswith("): run the same command to resume")
    assert nowhere.endswith("): run the same command to resume")
    offline = source.replace("HubUnavailableError", "HubError")
    assert "HF_HUB_OFFLINE is set" in run_source(server, offline, folder, home=tmp_path / "home", HF_HUB_OFFLINE="1")


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
refused("bad header", folder=empty, name="org/new")
push(folder, "org/things", repo_type="dataset", message="Release v1", tag="v1")
refused("public", private=True)
(folder / "data" / "words.txt").write_text("other words")
refused("tag taken", tag="v1")
"""
    before = contents(folder)
    errors = run_source(server, source, folder, tmp_path / "empty", READ_TOKEN, home=tmp_path / "home")
    expected = {
        "no token": ("HubError", "set HF_TOKEN"),
        "unknown token": ("HubError", "rejected the token"),
        "may only read": ("HubError", "may not create org/things"),
        "another's namespace": ("HubError", "may not create someone/things"),
        "bad characters": ("UsageError", "'org/thi ngs' is not the name of a repository"),
        "no namespace": ("UsageError", "give namespace/name"),
        "no folder": ("UsageError", "is not a directory"),
        "no files": ("UsageError", "contains no files"),
        "bad header": ("HubError", "the Hub rejects the metadata in README.md (while parsing a flow node"),
        "public": ("HubError", "is public"),
        "tag taken": ("HubError", "data/words.txt has 10 bytes instead of 11"),
    }
    assert errors.keys() == expected.keys()
    for case, (kind, part) in expected.items():
        assert errors[case][0] == kind, errors[case]
        assert part in errors[case][1], errors[case]
        assert "\n" not in errors[case][1]
        assert "hf_" not in errors[case][1], "a token must not be shown"
    assert not server.store.has("dataset", "org/new"), "a rejected card left an empty repository"
    assert revision_files(get_repository(server), "main") == revision_files(get_repository(server), "v1") == before


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
    assert "was changed in the meantime and nothing was merged" in run_source(
        server, source, folder, home=tmp_path / "home"
    )
    repository = get_repository(server)
    assert revision_files(repository, "main") == {"theirs.txt": b"theirs"}
    run_source(server, PUSH, folder, home=tmp_path / "home")
    assert revision_files(repository, "main") == revision_files(repository, "v1") == contents(folder)
    assert statuses(repository) == ["closed", "merged"]


def test_two_who_upload_into_one_pull_request_do_not_mix_their_files(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    def intrude(request: HubRequest, number: int) -> None:
        if "/commit/refs/pr/1" in request.path:
            theirs = get_repository(server).get_commit("main").files[".gitattributes"]
            get_repository(server).add_commit(
                "refs/pr/1", {"theirs.txt": theirs}, title="theirs", message="", author="tester"
            )

    server.fault = intrude
    process = run(server, PUSH, folder, home=tmp_path / "home")
    line = process.stderr.splitlines()[-1]
    assert "org/things was changed in the meantime (412: " in line
    assert revision_files(get_repository(server), "main") == {}
    server.fault = lambda request, number: None
    run_source(server, PUSH, folder, home=tmp_path / "home")
    assert (
        revision_files(get_repository(server), "v1")
        == revision_files(get_repository(server), "main")
        == contents(folder)
    )
    assert statuses(get_repository(server)) == ["merged"]


def test_pull_requests_of_others_or_for_something_else_are_left_alone(
    server: HubServer, folder: Path, tmp_path: Path
) -> None:
    repository = server.store.create("dataset", "org/things", private=False, author="tester")
    repository.open_pull_request("Release v1", "", author="someone", draft=False)
    repository.open_pull_request("Release v0", "", author="tester", draft=True)
    run_source(server, PUSH, folder, home=tmp_path / "home")
    assert statuses(repository) == ["open", "draft", "merged"]
    assert revision_files(repository, "refs/pr/1") == revision_files(repository, "refs/pr/2") == {}


def test_a_commit_to_main_during_the_merge_gets_no_tag(server: HubServer, folder: Path, tmp_path: Path) -> None:
    def intrude(request: HubRequest, number: int) -> None:
        if request.path.endswith("/merge"):
            files = dict(get_repository(server).get_commit("main").files)
            get_repository(server).add_commit(
                MAIN, {**files, "theirs.txt": files[".gitattributes"]}, title="theirs", message="", author="tester"
            )

    server.fault = intrude
    process = run(server, PUSH, folder, home=tmp_path / "home")
    assert "was changed during the merge and no tag was set" in process.stderr.splitlines()[-1]
    assert "refs/tags/v1" not in get_repository(server).refs
    server.fault = lambda request, number: None
    run_source(server, PUSH, folder, home=tmp_path / "home")
    assert (
        revision_files(get_repository(server), "v1")
        == revision_files(get_repository(server), "main")
        == contents(folder)
    )
