"""Tests that runs over a dataset on the Hub download only what they use, once, with real clients and a local server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.doubles.hub.http import service_unavailable
from tests.doubles.hub.server import HubRequest, HubServer
from tests.hub.clients import run_source, start
from tests.images.hub_data_sets import (
    ROWS_IN_GROUP,
    commit_files,
    find_repeated_ranges,
    footer_bytes,
    group_bytes,
    image_ids,
    image_ranges,
    iter_ranges,
    make_rows,
    served_bytes,
    to_parquet,
)

NUM_FILES: Final = 3
ROWS_IN_FILE: Final = 4 * ROWS_IN_GROUP
NUM_ROWS: Final = NUM_FILES * ROWS_IN_FILE
NUM_GROUPS: Final = NUM_ROWS // ROWS_IN_GROUP

GENERATE: Final = """
import sys
import time
from pathlib import Path
from compact_hf.runs.journal import Journal
from compact_hf.errors import CompactError
from compact_hf.methods.generate import generate

wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.05))  # the client waits for seconds between its tries
source, out, gemini, limit = sys.argv[1:]
try:
    told = generate(source, out, teacher_url=gemini, limit=int(limit) or None).finished
except CompactError as error:
    told = f"{type(error).__name__}: {error}"
with Journal.read(Path(out)) as journal:
    told = [told, {ref: image_id for ref, (_, image_id) in journal.inspections().items()}]
"""

READ: Final = """
import sys
from compact_hf.images.address import Address
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id

source = DatasetSource(Address.parse(sys.argv[1]))
told = {ref: compute_image_id(source.read(ref)) for ref in source.refs()}
"""


def make_files(first: int = 0) -> dict[str, bytes]:
    """Return a dataset of a few files with a few row groups each."""
    starts = [first + index * ROWS_IN_FILE for index in range(NUM_FILES)]
    return {
        f"data/train-{index:05d}-of-{NUM_FILES:05d}.parquet": to_parquet(make_rows(range(start, start + ROWS_IN_FILE)))
        for index, start in enumerate(starts)
    }


IMAGE_IDS: Final = {f"train/{row}": id for row, id in enumerate(image_ids(range(NUM_ROWS)))}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return make_files()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def gemini(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with GeminiServer() as server:
        yield server.url


def test_a_limit_fetches_a_few_row_groups_and_a_whole_run_each_of_them_once(
    hub: HubServer, gemini: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = commit_files(hub, "org/many", files)
    home = tmp_path / "home"
    finished, inspections = run_source(hub, GENERATE, "hf://datasets/org/many", tmp_path / "run", gemini, 6, home=home)
    assert finished == 6
    assert inspections.items() <= IMAGE_IDS.items()
    assert len(image_ranges(hub, commit)) <= 4
    # The first footer is read twice, for the columns and for the rows. The masks are not downloaded.
    assert served_bytes(hub) < 4 * group_bytes() * 1.02 + footer_bytes(NUM_FILES + 1)

    commit_files(hub, "org/many", {"README.md": b"---\nlicense: mit\n---\n"})
    pinned = f"hf://datasets/org/many@{commit.sha}"
    assert run_source(hub, GENERATE, pinned, tmp_path / "run", gemini, 0, home=home) == [NUM_ROWS, IMAGE_IDS]
    assert len(image_ranges(hub, commit)) == NUM_GROUPS
    assert find_repeated_ranges(list(iter_ranges(hub, commit))) == []
    assert served_bytes(hub) < NUM_GROUPS * group_bytes() * 1.02 + footer_bytes(NUM_FILES + 1)

    def unreachable(request: HubRequest, number: int) -> None:
        raise AssertionError(f"the Hub was asked for {request.path}")

    hub.fault = unreachable
    assert run_source(hub, READ, pinned, home=home, HF_HUB_OFFLINE="1") == IMAGE_IDS


@pytest.mark.slow
def test_after_a_kill_only_what_was_under_way_comes_again_and_main_may_move_on(
    hub: HubServer, gemini: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = commit_files(hub, "org/many", files)
    home = tmp_path / "home"
    args = (f"hf://datasets/org/many@{commit.sha}", tmp_path / "run", gemini, 0)
    process = start(hub, GENERATE, *args, home=home)

    def kill(request: HubRequest, number: int) -> Any:
        if len(image_ranges(hub, commit)) < 7:
            return None
        process.send_signal(signal.SIGKILL)
        return service_unavailable()

    hub.fault = kill
    with process:
        process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL
    earlier = image_ranges(hub, commit)

    hub.fault = lambda request, number: None
    commit_files(hub, "org/many", make_files(first=1000))
    since = len(hub.requests)
    assert run_source(hub, GENERATE, *args, home=home) == [NUM_ROWS, IMAGE_IDS]
    repeated = set(earlier) & set(image_ranges(hub, commit, since=since))
    assert len(repeated) <= 4, "row groups in the cache were downloaded again"
    assert len(set(image_ranges(hub, commit))) == NUM_GROUPS


@pytest.mark.slow
def test_a_hub_that_fails_in_the_middle_costs_no_picture(
    hub: HubServer, gemini: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = commit_files(hub, "org/many", files)
    home = tmp_path / "home"
    args = ("hf://datasets/org/many", tmp_path / "run", gemini, 0)
    refused: set[str] = set()

    def fail_once_per_range(request: HubRequest, number: int) -> Any:
        key = f"{request.path} {request.headers.get('range')}"
        if "range" not in request.headers or key in refused:
            return None
        refused.add(key)
        return service_unavailable()

    def fail_after_half(request: HubRequest, number: int) -> Any:
        is_down = len(set(image_ranges(hub, commit))) > NUM_GROUPS // 2
        return service_unavailable() if is_down else fail_once_per_range(request, number)

    hub.fault = fail_after_half
    error, inspections = run_source(hub, GENERATE, *args, home=home)
    assert error.startswith("SourceError: hf://datasets/org/many@")
    assert error.endswith("run the same command to resume when the Hub is available again")
    assert "503" in error
    assert "\n" not in error
    assert 0 < len(inspections) < NUM_ROWS
    assert inspections.items() <= IMAGE_IDS.items(), "an outage was reported as an unreadable image"

    hub.fault = fail_once_per_range
    assert run_source(hub, GENERATE, *args, home=home) == [NUM_ROWS, IMAGE_IDS]
