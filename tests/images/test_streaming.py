"""Runs over a data set at the Hub fetch what they ask about, once: the real clients against the double, over HTTP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.doubles.hub.http import unavailable
from tests.doubles.hub.server import Asked, HubServer
from tests.hub.clients import start, told
from tests.images.hub_data_sets import (
    ROWS_IN_GROUP,
    fetched_twice,
    footer_bytes,
    group_bytes,
    ids,
    parquet,
    picture_ranges,
    put,
    ranges,
    rows,
    served,
)

FILES: Final = 3
ROWS_IN_FILE: Final = 4 * ROWS_IN_GROUP
ROWS: Final = FILES * ROWS_IN_FILE
GROUPS: Final = ROWS // ROWS_IN_GROUP

GENERATE: Final = """
import sys
import time
from pathlib import Path
from compact_hf.runs.journal import Journal
from compact_hf.errors import CompactError
from compact_hf.methods.compact.generate import generate

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


def many(first: int = 0) -> dict[str, bytes]:
    """A data set of a few files with a few row groups each."""
    starts = [first + index * ROWS_IN_FILE for index in range(FILES)]
    return {
        f"data/train-{index:05d}-of-{FILES:05d}.parquet": parquet(rows(range(start, start + ROWS_IN_FILE)))
        for index, start in enumerate(starts)
    }


PICTURES: Final = {f"train/{row}": id for row, id in enumerate(ids(range(ROWS)))}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return many()


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
    commit = put(hub, "org/many", files)
    home = tmp_path / "home"
    finished, looks = told(hub, GENERATE, "hf://datasets/org/many", tmp_path / "run", gemini, 6, home=home)
    assert finished == 6
    assert looks.items() <= PICTURES.items()
    assert len(picture_ranges(hub, commit)) <= 4
    # The first footer is read for the columns and for the rows. Nobody asks for the masks.
    assert served(hub) < 4 * group_bytes() * 1.02 + footer_bytes(FILES + 1)

    put(hub, "org/many", {"README.md": b"---\nlicense: mit\n---\n"})
    pinned = f"hf://datasets/org/many@{commit.sha}"
    assert told(hub, GENERATE, pinned, tmp_path / "run", gemini, 0, home=home) == [ROWS, PICTURES]
    assert len(picture_ranges(hub, commit)) == GROUPS
    assert fetched_twice(list(ranges(hub, commit))) == []
    assert served(hub) < GROUPS * group_bytes() * 1.02 + footer_bytes(FILES + 1)

    def unreachable(asked: Asked, number: int) -> None:
        raise AssertionError(f"the Hub was asked for {asked.path}")

    hub.fault = unreachable
    assert told(hub, READ, pinned, home=home, HF_HUB_OFFLINE="1") == PICTURES


def test_after_a_kill_only_what_was_under_way_comes_again_and_main_may_move_on(
    hub: HubServer, gemini: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = put(hub, "org/many", files)
    home = tmp_path / "home"
    ask = (f"hf://datasets/org/many@{commit.sha}", tmp_path / "run", gemini, 0)
    process = start(hub, GENERATE, *ask, home=home)

    def kill(asked: Asked, number: int) -> Any:
        if len(picture_ranges(hub, commit)) < 7:
            return None
        process.send_signal(signal.SIGKILL)
        return unavailable()

    hub.fault = kill
    with process:
        process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL
    begun = picture_ranges(hub, commit)

    hub.fault = lambda asked, number: None
    put(hub, "org/many", many(first=1000))
    since = len(hub.asked)
    assert told(hub, GENERATE, *ask, home=home) == [ROWS, PICTURES]
    again = set(begun) & set(picture_ranges(hub, commit, since=since))
    assert len(again) <= 4, "row groups that were here came again"
    assert len(set(picture_ranges(hub, commit))) == GROUPS


def test_a_hub_that_fails_in_the_middle_costs_no_picture(
    hub: HubServer, gemini: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = put(hub, "org/many", files)
    home = tmp_path / "home"
    ask = ("hf://datasets/org/many", tmp_path / "run", gemini, 0)
    refused: set[str] = set()

    def each_range_once(asked: Asked, number: int) -> Any:
        wanted = f"{asked.path} {asked.headers.get('range')}"
        if "range" not in asked.headers or wanted in refused:
            return None
        refused.add(wanted)
        return unavailable()

    def from_some_time_on(asked: Asked, number: int) -> Any:
        gone = len(set(picture_ranges(hub, commit))) > GROUPS // 2
        return unavailable() if gone else each_range_once(asked, number)

    hub.fault = from_some_time_on
    failed, looks = told(hub, GENERATE, *ask, home=home)
    assert failed.startswith("SourceError: hf://datasets/org/many@")
    assert failed.endswith("the same command goes on, once the Hub answers again")
    assert "503" in failed
    assert "\n" not in failed
    assert 0 < len(looks) < ROWS
    assert looks.items() <= PICTURES.items(), "an outage was taken for a picture that cannot be read"

    hub.fault = each_range_once
    assert told(hub, GENERATE, *ask, home=home) == [ROWS, PICTURES]
