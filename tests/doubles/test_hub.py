"""The Hub's double answers the real client as the Hub does: revisions, ranges, rights, pull requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.doubles.hub.http import READ_TOKEN, TOKEN
from tests.doubles.hub.server import HubServer
from tests.doubles.hub.store import MAIN, File
from tests.hub.clients import ROOT, run_source

SETUP_SOURCE: Final = """
import os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, get_hf_file_metadata
from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
api, place, told = HfApi(), {"repo_id": "org/things", "repo_type": "dataset"}, {}

def commit(message="change", delete=(), **options):
    files = options.pop("files", {})
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    operations += [CommitOperationDelete(path) for path in delete]
    return api.create_commit(**place, operations=operations, commit_message=message, **options)

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except HfHubHTTPError as error:
        return [type(error).__name__, error.response.status_code, error.server_message]

api.create_repo(**place)
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def test_every_revision_has_its_own_files_and_tags(server: HubServer, tmp_path: Path) -> None:
    source = """
for version in (1, 2):
    commit(files={"a.txt": b"text %d" % version, "a.bin": b"\\0" * version * 100})
    api.create_tag(**place, tag=f"v{version}")
for name in ("a.txt", "a.bin"):
    for revision in ("v1", "v2", "main"):
        path = hf_hub_download(**place, filename=name, revision=revision)
        facts = get_hf_file_metadata(hf_hub_url(**place, filename=name, revision=revision))
        told[f"{name}@{revision}"] = [Path(path).read_text(), facts.etag, facts.size, facts.commit_hash]
told["commits"] = [one.commit_id for one in api.list_repo_commits(**place)]
with HfFileSystem().open("datasets/org/things@v2/a.bin", block_size=10) as file:
    file.seek(150)
    told["range"] = file.read(20)[:20].hex()
api.delete_tag(**place, tag="v1")
told["tags"] = [tag.name for tag in api.list_repo_refs(**place).tags]
told["taken"] = refused(api.create_tag, **place, tag="v2")
told["gone"] = refused(api.list_repo_commits, **place, revision="v1")
"""
    result = run_source(server, SETUP_SOURCE + source, home=tmp_path / "home")
    text, binary = File.from_bytes(b"text 1", lfs=False), File.from_bytes(b"\0" * 100, lfs=True)
    newest, older, _ = result["commits"]
    assert result["a.txt@v1"] == ["text 1", text.oid, 6, older]
    assert result["a.bin@v1"] == ["\0" * 100, binary.sha256, 100, older]
    assert (
        result["a.txt@v2"] == result["a.txt@main"] == ["text 2", File.from_bytes(b"text 2", lfs=False).oid, 6, newest]
    )
    assert result["a.bin@v2"][2:] == [200, newest]
    assert result["range"] == "00" * 20
    assert any("range" in request.headers for request in server.requests)
    assert result["tags"] == ["v2"]
    assert result["taken"][1] == 409
    assert result["gone"][:2] == ["RevisionNotFoundError", 404]


def test_git_gives_a_file_the_same_hash(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some\0content")
    process = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True, text=True, check=True)
    assert File.from_bytes(b"some\0content", lfs=False).oid == process.stdout.strip()


def test_commits_build_on_the_parent_that_they_name(server: HubServer, tmp_path: Path) -> None:
    source = """
first = commit(files={"a.txt": b"1"}).oid
commit(files={"data/b.txt": b"2", "data/c.txt": b"3"}, parent_commit=first)
told["stale"] = refused(commit, files={"a.txt": b"4"}, parent_commit=first)
told["not there"] = refused(commit, delete=["nothing.txt"])
commit(delete=["data/"], files={"d.txt": b"5"})
told["files"] = api.list_repo_files(**place)
told["folder"] = refused(lambda: list(api.list_repo_tree(**place, path_in_repo="data")))
told["infos"] = [one.path for one in api.get_paths_info("org/things", ["d.txt", "data/b.txt"], repo_type="dataset")]
"""
    result = run_source(server, SETUP_SOURCE + source, home=tmp_path / "home")
    assert result["stale"][1] == 412
    assert result["not there"][1] == 404
    assert result["files"] == [".gitattributes", "a.txt", "d.txt"]
    assert result["folder"][:2] == ["RemoteEntryNotFoundError", 404]
    assert result["infos"] == ["d.txt"]


def test_long_listings_come_in_pages(server: HubServer, tmp_path: Path) -> None:
    repository = server.store.create("dataset", "org/long", private=False, author="tester")
    files = {f"{number:02d}.txt": File.from_bytes(b"x", lfs=False) for number in range(60)}
    for number in range(60):
        repository.add_commit(MAIN, files, title=f"number {number}", message="", author="tester")
    source = """
from huggingface_hub import HfApi
commits = HfApi().list_repo_commits("org/long", repo_type="dataset")
told = [[one.title for one in commits], HfApi().list_repo_files("org/long", repo_type="dataset")]
"""
    titles, paths = run_source(server, source, home=tmp_path / "home")
    assert titles == [*(f"number {number}" for number in reversed(range(60))), "initial commit"]
    assert paths == sorted(files)
    assert [request.query for request in server.requests if "cursor" in request.query] == [
        "cursor=50",
        "recursive=true&expand=false&cursor=50",
    ]


def test_pull_requests_open_merge_and_conflict_as_on_the_hub(server: HubServer, tmp_path: Path) -> None:
    source = """
commit(files={"a.txt": b"1"})
opened = commit(files={"b.txt": b"2"}, create_pr=True)
told["before"] = [opened.pr_num, api.list_repo_files(**place), api.list_repo_files(**place, revision="refs/pr/1")]
draft = api.create_pull_request(**place, title="a draft")
commit(files={"a.txt": b"3"}, revision=draft.git_reference)
told["draft"] = [draft.status, refused(api.merge_pull_request, **place, discussion_num=draft.num)]
commit(files={"a.txt": b"4"})
api.change_discussion_status(**place, discussion_num=draft.num, new_status="open")
told["conflict"] = refused(api.merge_pull_request, **place, discussion_num=draft.num)
api.merge_pull_request(**place, discussion_num=1)
details = api.get_discussion_details(**place, discussion_num=1)
told["merged"] = [details.status, details.merge_commit_oid == api.dataset_info("org/things").sha]
told["after"] = api.list_repo_files(**place)
told["a.txt"] = Path(hf_hub_download(**place, filename="a.txt")).read_text()
told["again"] = refused(commit, files={"b.txt": b"6"}, revision="refs/pr/1")
told["listed"] = [[one.num, one.status] for one in api.get_repo_discussions(**place, discussion_status="open")]
told["nobody's"] = list(api.get_repo_discussions(**place, author="nobody"))
"""
    result = run_source(server, SETUP_SOURCE + source, home=tmp_path / "home")
    assert result["before"] == [1, [".gitattributes", "a.txt"], [".gitattributes", "a.txt", "b.txt"]]
    assert (result["draft"][0], result["draft"][1][1]) == ("draft", 400)
    assert result["conflict"][1] == 409
    assert result["merged"] == ["merged", True]
    assert (result["after"], result["a.txt"]) == ([".gitattributes", "a.txt", "b.txt"], "4")
    assert result["again"][1] == 400
    assert (result["listed"], result["nobody's"]) == ([[2, "open"]], [])


def test_rights_are_those_of_the_token(server: HubServer, tmp_path: Path) -> None:
    source = """
api.create_repo("org/secret", repo_type="dataset", private=True)
for name, token in (("write", os.environ["HF_TOKEN"]), ("read", sys.argv[1]), ("none", ""), ("wrong", "hf_wrong")):
    os.environ["HF_TOKEN"] = token
    told[name] = [
        refused(api.dataset_info, "org/things"),
        refused(api.dataset_info, "org/secret"),
        refused(commit, files={"a.txt": name.encode()}),
        refused(api.create_repo, "someone/else"),
    ]
    told[name] = [answer and answer[:2] for answer in told[name]]
"""
    result = run_source(server, SETUP_SOURCE + source, READ_TOKEN, home=tmp_path / "home")
    assert result["write"] == [None, None, None, ["HfHubHTTPError", 403]]
    assert result["read"] == [None, None, ["HfHubHTTPError", 403], ["HfHubHTTPError", 403]]
    assert result["none"][:2] == [None, ["RepositoryNotFoundError", 401]]
    assert [answer[1] for answer in result["none"][2:]] == [401, 401]
    assert [answer[1] for answer in result["wrong"]] == [401, 401, 401, 401]


def test_as_a_program_it_says_what_a_client_has_to_export(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.doubles.hub"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(5)]
            exported = dict(line.removeprefix("export ").split("=", 1) for line in lines)
            client_source = "from huggingface_hub import HfApi; print(HfApi().whoami()['name'])"
            environment = os.environ | exported | {"HF_HOME": str(tmp_path)}
            output = subprocess.check_output([sys.executable, "-c", client_source], env=environment, text=True)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (exported["HF_TOKEN"], output.strip()) == (TOKEN, "tester")
    assert (process.returncode, stderr.splitlines()[-1]) == (0, "answered 1 requests")
