"""Tests publishing a release with the command and reading it with `datasets`, over real HTTP."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.responses import JSONResponse, Response

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.writer import write_dataset
from compact_hf.methods.generate import generate
from tests.doubles.hub.http import StalledResponse
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import Repository
from tests.hub.clients import COMPACT, run, run_source, start

from .samples import contents, make_rows

PUBLISH_SOURCE: Final = """
import contextlib, io, sys
from datasets import load_dataset
from compact_hf.cli.main import main

def compact(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*arguments])
    return [status, out.getvalue(), err.getvalue().strip()]

def ids(revision=None, config=None):
    loaded = load_dataset("org/compact", config, revision=revision)
    return {split: sorted(loaded[split]["id"]) for split in loaded}

first, second, lower, other = sys.argv[1:]
told = {"dry": compact("publish", first, "org/compact", "--dry-run")}
told["first"] = compact("publish", first, "org/compact")
told["all"] = ids()
told["k2"] = ids("v1.0.0", "k2")
streamed = load_dataset("org/compact", "k3", split="train", streaming=True)
told["streamed"] = [[row["id"], row["images"][0].size] for row in streamed]
told["second"] = compact("publish", second, "org/compact", "--no-pr")
told["old"], told["new"] = ids("v1.0.0"), ids()
told["same"] = compact("publish", second, "org/compact")
told["same, dry"] = compact("publish", second, "org/compact", "--dry-run")
told["same, older"] = compact("publish", first, "org/compact")
told["older"] = compact("publish", other, "org/compact")
told["lower"] = compact("publish", lower, "org/compact")
"""


@dataclass(frozen=True)
class PublishResults:
    """The results of the clients, the requests to the server, and the directories."""

    results: dict[str, Any]
    requests: list[HubRequest]
    repository: Repository
    first: Path
    second: Path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a release of scenes, version 1.0.0, with k = 1, 2, 3."""
    directory = tmp_path_factory.mktemp("scenes")
    generate("scenes:30", directory / "run")
    assemble([directory / "run"], directory / "release", version="1.0.0")
    return directory / "release"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return version 2.0.0, with other rows and without k = 3."""
    out = tmp_path_factory.mktemp("second") / "release"
    write_dataset((row for row in make_rows(60) if row.k != 3), out, sources=("compact",), version="2.0.0")
    return out


@pytest.fixture(scope="module")
def way(first: Path, second: Path, tmp_path_factory: pytest.TempPathFactory) -> PublishResults:
    lower = tmp_path_factory.mktemp("lower") / "release"
    write_dataset(make_rows(30), lower, sources=("compact",), version="0.9.0")
    other = tmp_path_factory.mktemp("other") / "release"
    write_dataset(make_rows(30), other, sources=("compact",), version="1.0.0")
    with HubServer() as server:
        results = run_source(server, PUBLISH_SOURCE, first, second, lower, other, home=tmp_path_factory.mktemp("home"))
        return PublishResults(
            results, server.requests, server.store.repository("dataset", "org/compact"), first, second
        )


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def read_ids(directory: Path, config: str = "all") -> dict[str, list[str]]:
    from datasets import load_dataset

    dataset = load_dataset(str(directory), config)
    return {split: sorted(dataset[split]["id"]) for split in dataset}


def revision_files(repository: Repository, revision: str) -> dict[str, bytes]:
    files = repository.get_commit(revision).files
    return {path: file.data for path, file in files.items() if path != ".gitattributes"}


def test_a_dry_run_lists_the_files_and_creates_nothing(way: PublishResults) -> None:
    status, out, err = way.results["dry"]
    files = contents(way.first)  # these are the published files
    assert status == 0
    assert {(name, int(size)) for name, size in map(str.split, out.strip().splitlines()[1:])} == {
        (name, len(data)) for name, data in files.items()
    }
    assert f"v1.0.0 would have {len(files)} files" in err
    create_index = next(index for index, request in enumerate(way.requests) if request.path == "/api/repos/create")
    checked = {(request.method, request.path) for request in way.requests[:create_index] if request.method != "GET"}
    assert checked == {("POST", "/api/validate-yaml")}


def test_what_was_published_loads_by_config_by_revision_and_as_a_stream(way: PublishResults) -> None:
    status, out, err = way.results["first"]
    endpoint = out.strip().removesuffix("/datasets/org/compact/tree/v1.0.0")
    assert (status, err.splitlines()[-1]) == (
        0, f"next: in Python, with HF_ENDPOINT={endpoint}: load_dataset('org/compact', revision='v1.0.0')",
    )  # fmt: skip
    assert way.results["all"] == read_ids(way.first)
    assert way.results["k2"] == read_ids(way.first, "k2")
    streamed = way.results["streamed"]
    assert sorted(row_id for row_id, _ in streamed) == read_ids(way.first, "k3")["train"]
    assert all(width > 0 and height > 0 for _, (width, height) in streamed)


def test_a_later_version_replaces_main_and_leaves_the_earlier_one_as_it_was(way: PublishResults) -> None:
    assert way.results["second"][0] == 0
    assert (way.results["old"], way.results["new"]) == (read_ids(way.first), read_ids(way.second))
    assert revision_files(way.repository, "v1.0.0") == contents(way.first)
    assert revision_files(way.repository, "v2.0.0") == revision_files(way.repository, "main") == contents(way.second)
    assert [pull.status for pull in way.repository.pull_requests] == ["merged"]  # the second went to a branch
    assert [ref for ref in way.repository.refs if ref.startswith("refs/heads/")] == ["refs/heads/main"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [("older", "v1.0.0 exists already"), ("lower", "v0.9.0 is not higher")],
)
def test_versions_only_rise(way: PublishResults, case: str, reason: str) -> None:
    status, out, err = way.results[case]
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"compact: org/compact is at v2.0.0, and {reason}")


@pytest.mark.parametrize(("case", "tag"), [("same", "v2.0.0"), ("same, older", "v1.0.0")])
def test_a_publish_that_was_killed_after_its_last_step_says_that_it_is_complete(
    way: PublishResults, case: str, tag: str
) -> None:
    status, out, err = way.results[case]
    assert (status, out.strip().endswith(f"/datasets/org/compact/tree/{tag}")) == (0, True)
    assert f"org/compact has {tag} already, with exactly these files" in err
    status, out, _ = way.results["same, dry"]
    assert (status, "README.md" in out) == (0, True)


def test_a_card_that_was_edited_on_the_hub_is_replaced_only_by_an_edited_one(
    server: HubServer, first: Path, second: Path, tmp_path: Path
) -> None:
    second = Path(shutil.copytree(second, tmp_path / "second"))
    source = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from compact_hf import publish
from compact_hf.errors import HubError
first, second = sys.argv[1:]
def attempt(**dry):
    try:
        return publish(second, "org/compact", **dry).tag
    except HubError as error:
        return str(error)
publish(first, "org/compact")
HfApi().upload_file(
    path_or_fileobj=Path(first, "README.md").read_bytes() + b"Thanks to all.", path_in_repo="README.md",
    repo_id="org/compact", repo_type="dataset",
)
told = [attempt(dry_run=True), attempt()]
with Path(second, "README.md").open("a") as card:
    card.write("Thanks to all.")
told.append(attempt())
"""
    *refusals, tag = run_source(server, source, first, second, home=tmp_path / "home")
    assert refusals == 2 * [
        "README.md of org/compact was edited on the Hub and would be replaced: make the same changes in "
        f"{second / 'README.md'}, or delete it on the Hub, and publish again"
    ]
    assert tag == "v2.0.0"
    files = revision_files(server.store.repository("dataset", "org/compact"), "main")
    assert files["README.md"].endswith(b"Thanks to all.")


def test_a_config_downloads_its_own_files_only(server: HubServer, second: Path, tmp_path: Path) -> None:
    source = """
import sys
from datasets import load_dataset
from compact_hf import publish
publish(sys.argv[1], "org/compact")
told = len(load_dataset("org/compact", "k2")["train"])
"""
    assert run_source(server, source, second, home=tmp_path / "home") == len(read_ids(second, "k2")["train"])
    downloads = [
        request.path.partition("/data/")[2]
        for request in server.requests
        if request.method == "GET" and "/resolve/" in request.path
    ]
    assert {path for path in downloads if path} == {
        path.name and f"k2/{path.name}" for path in (second / "data/k2").iterdir()
    }


def test_a_killed_publish_goes_on_with_the_same_command(server: HubServer, first: Path, tmp_path: Path) -> None:
    stalled = threading.Event()

    def stall_third(request: HubRequest, number: int) -> Response | None:
        if request.method == "PUT" and sum(entry.method == "PUT" for entry in server.requests) == 3:
            stalled.set()
            return StalledResponse()
        return None

    server.fault = stall_third
    process = start(server, COMPACT, "publish", first, "org/compact", home=tmp_path / "home")
    assert stalled.wait(60)
    repository = server.store.repository("dataset", "org/compact")
    assert revision_files(repository, "main") == {}
    process.kill()
    process.communicate()
    server.fault = lambda request, number: None
    result = run(server, COMPACT, "publish", first, "org/compact", home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert revision_files(repository, "v1.0.0") == revision_files(repository, "main") == contents(first)
    assert [pull.status for pull in repository.pull_requests] == ["merged"]


def test_a_private_release_is_for_those_with_a_token(server: HubServer, second: Path, tmp_path: Path) -> None:
    publish_source = """
import sys
from datasets import load_dataset
from compact_hf import publish
publish(sys.argv[1], "org/secret", private=True)
told = len(load_dataset("org/secret", "k1")["train"])
"""
    load_source = """
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
try:
    load_dataset("org/secret", "k1")
except DatasetNotFoundError as error:
    told = str(error)
"""
    assert run_source(server, publish_source, second, home=tmp_path / "home") == len(read_ids(second, "k1")["train"])
    assert "org/secret" in run_source(server, load_source, home=tmp_path / "elsewhere", HF_TOKEN="")
    assert server.store.repository("dataset", "org/secret").private


def test_nothing_is_merged_that_datasets_would_not_load(server: HubServer, second: Path, tmp_path: Path) -> None:
    def hide(request: HubRequest, number: int) -> Response | None:
        return JSONResponse([]) if request.path.endswith("/data/k2") else None

    server.fault = hide
    source = """
import sys
from compact_hf import CompactError, publish
try:
    publish(sys.argv[1], "org/compact")
except CompactError as error:
    told = [type(error).__name__, str(error)]
"""
    kind, line = run_source(server, source, second, home=tmp_path / "home")
    assert (kind, "\n" in line) == ("ReleaseError", False)
    assert line.startswith("config all ")
    repository = server.store.repository("dataset", "org/compact")
    assert (revision_files(repository, "main"), repository.pull_requests[0].status) == ({}, "draft")


def test_a_step_that_is_smaller_than_the_difference_is_refused(server: HubServer, tmp_path: Path) -> None:
    versions = {
        "first": "1.0.0",
        "fewer": "1.0.1",
        "gone": "1.1.0",
        "enough": "1.1.0",
        "far": "1.2.0",
        "noted": "1.1.1",
    }
    for name, version in versions.items():
        left_out = {"first": 0, "gone": 3, "far": 1}.get(name, 2)
        release_rows = (
            (row for row in make_rows(60) if row.k != left_out) if name == "gone" else list(make_rows(60))[left_out:]
        )
        write_dataset(release_rows, tmp_path / name, sources=("compact",), version=version)
    source = """
import sys
from compact_hf import CompactError, publish
def step(name, **dry):
    try:
        done = publish(f"{sys.argv[1]}/{name}", "org/compact", **dry)
        return [done.tag, done.difference and done.difference.reasons()]
    except CompactError as error:
        return [type(error).__name__, str(error)]
told = [step("first"), step("fewer", dry_run=True), *map(step, ("fewer", "gone", "enough", "noted", "far"))]
"""
    first, dry, fewer, gone, enough, noted, far = run_source(server, source, tmp_path, home=tmp_path / "home")
    assert first == ["v1.0.0", None]
    assert dry == fewer == [
        "ReleaseError",
        "1.0.1 is too small a step from v1.0.0 of org/compact (2 rows removed, which is a minor change): "
        "assemble with --version 1.1.0 or higher",
    ]  # fmt: skip
    assert "config k3 no longer has train rows" in gone[1]
    assert "assemble with --version 2.0.0 or higher" in gone[1]
    assert enough == ["v1.1.0", ["2 rows removed"]]
    assert (noted[0], far) == ("v1.1.1", ["v1.2.0", ["1 row added"]])
    repository = server.store.repository("dataset", "org/compact")
    assert sorted(ref for ref in repository.refs if "tags" in ref) == [
        f"refs/tags/{tag}" for tag in ("v1.0.0", "v1.1.0", "v1.1.1", "v1.2.0")
    ]


def test_what_is_no_valid_release_is_refused_before_anything_is_created(
    server: HubServer, second: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(second, tmp_path / "broken"))
    next(broken.rglob("*.parquet")).write_bytes(b"PAR1")
    foreign = server.store.create("dataset", "org/other", private=False, author="tester")
    readme = foreign.get_commit("main").files[".gitattributes"]
    foreign.add_commit(
        "refs/heads/main", {"compact.py": readme, "photos/a.jpg": readme}, title="", message="", author="tester"
    )
    source = """
import sys
from compact_hf import CompactError, publish
broken, whole, nowhere = sys.argv[1:]
told = []
for folder, name in ((broken, "org/new"), (nowhere, "org/new"), (whole, "org/n:w"), (whole, "org/other")):
    try:
        publish(folder, name)
    except CompactError as error:
        told.append(str(error))
"""
    expected = ("unreadable file", "is not a directory", "is not the name of a repository", "compact.py, photos/a.jpg")
    errors = run_source(server, source, broken, second, tmp_path / "nowhere", home=tmp_path / "home")
    for line, part in zip(errors, expected, strict=True):
        assert part in line
        assert "\n" not in line
    assert {request.method for request in server.requests} == {"GET"}
