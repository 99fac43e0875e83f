"""Kills the release script at every stage, with a test server as the Hub; the same command resumes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from starlette.responses import Response

from compact_hf.config import read_config
from compact_hf.runs.journal import FILE_NAME
from dataset_script.build_compact import Config, build
from tests.doubles.hub.http import StalledResponse
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import Repository
from tests.hub.clients import ROOT, run, start

SCRIPT: Final = "import sys; from dataset_script.build_compact import main; sys.exit(main())"
PATIENCE_S: Final = 120.0


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped offline config, with fewer scenes."""
    settings = yaml.safe_load((ROOT / "dataset_script" / "compact-scenes.yaml").read_text())
    file = tmp_path_factory.mktemp("config") / "small.yaml"
    file.write_text(yaml.safe_dump(settings | {"source": "scenes:80", "conversations": 60}))
    return file


@pytest.fixture(scope="module")
def expected(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data files that a run makes when it is not killed."""
    return read_data_files(build(read_config(config, Config, example="one.yaml"), tmp_path_factory.mktemp("whole")))


def read_data_files(release: Path) -> dict[str, bytes]:
    return {path.relative_to(release).as_posix(): path.read_bytes() for path in release.rglob("*.parquet")}


def revision_data_files(repository: Repository, revision: str) -> dict[str, bytes]:
    files = repository.get_commit(revision).files
    return {path: file.data for path, file in files.items() if path.startswith("data/")}


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Kill a running process with SIGKILL as soon as a condition is true."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not condition():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("on_the_hub", [("/merge",), ("/api/repos/create", "/lfs/", "/merge", "/tag/")])
def test_a_kill_at_any_stage_changes_nothing(
    server: HubServer, config: Path, expected: dict[str, bytes], tmp_path: Path, on_the_hub: tuple[str, ...]
) -> None:
    out = tmp_path / "build"
    stalled: list[str] = []
    stage = ""

    def stall(request: HubRequest, number: int) -> Response | None:
        if stage and request.method in ("POST", "PUT") and stage in request.path:
            stalled.append(stage)
            return StalledResponse()
        return None

    def start_build() -> subprocess.Popen[str]:
        return start(server, SCRIPT, config, "--out", out, "--publish", home=tmp_path / "home")

    server.fault = stall
    log, writing, release = out / "run" / f"{FILE_NAME}-wal", out / ".release.writing" / "new" / "data", out / "release"
    kill_when(start_build(), lambda: log.is_file() and log.stat().st_size > 200_000)
    assert not release.exists()
    kill_when(start_build(), writing.is_dir)
    assert not release.exists()
    for stage in on_the_hub:
        kill_when(start_build(), lambda: stage in stalled)  # noqa: B023 - the call ends before `stage` changes
        assert read_data_files(release) == expected
    stage = ""
    repository = server.store.repository("dataset", "org/compact-scenes")
    assert "refs/tags/v1.0.0" not in repository.refs
    for _ in range(2):  # the second call finds the release published, as if the first was killed at its very end
        process = run(server, SCRIPT, config, "--out", out, "--publish", home=tmp_path / "home")
        assert (process.returncode, process.stdout.strip().rpartition("/datasets/")[2]) == (
            0, "org/compact-scenes/tree/v1.0.0",
        ), process.stderr  # fmt: skip
    assert revision_data_files(repository, "v1.0.0") == revision_data_files(repository, "main") == expected
    assert [pull.status for pull in repository.pull_requests] == ["merged"]


def test_a_missing_token_is_told_before_anything_is_asked(server: HubServer, config: Path, tmp_path: Path) -> None:
    process = run(server, SCRIPT, config, "--out", tmp_path / "build", "--publish", home=tmp_path / "home", HF_TOKEN="")
    assert (
        process.returncode,
        process.stderr.splitlines()[-1].startswith("build_compact: no token for the Hub was found"),
    ) == (
        1,
        True,
    )
    assert not (tmp_path / "build").exists()


@pytest.mark.slow
def test_another_release_is_not_put_over_a_version_that_is_there(
    server: HubServer, config: Path, tmp_path: Path
) -> None:
    other_config = tmp_path / "other.yaml"
    other_config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"seed": 1, "conversations": 20}))
    small_config = tmp_path / "small.yaml"
    small_config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"conversations": 20}))
    publish = ["--publish", "--no-pr"]
    assert run(server, SCRIPT, small_config, "--out", tmp_path / "a", *publish, home=tmp_path / "home").returncode == 0
    assert server.store.repository("dataset", "org/compact-scenes").pull_requests == []
    process = run(server, SCRIPT, other_config, "--out", tmp_path / "b", "--publish", home=tmp_path / "home")
    assert (process.returncode, "v1.0.0 exists" in process.stderr.splitlines()[-1]) == (1, True)


def test_as_a_program_it_needs_nothing_but_the_package(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "dataset_script" / "build_compact.py", config, "--out", tmp_path, "--dry-run"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "release 1.0.0 of scenes:80, to org/compact-scenes" in process.stdout
