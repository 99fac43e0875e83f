"""Tests which rows on the Hub are downloaded, and the errors if that fails, with real clients and a local server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from datasets import Features, Image, List, Value

from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.doubles.hub.http import USER
from tests.doubles.hub.server import HubServer
from tests.doubles.hub.store import File
from tests.hub.clients import run_source
from tests.images.hub_data_sets import (
    commit_files,
    find_repeated_ranges,
    image_ids,
    image_ranges,
    iter_ranges,
    make_rows,
    noise_png,
    to_parquet,
)

READ: Final = """
import sys
from compact_hf.errors import CompactError
from compact_hf.images.address import Address
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id

told = []
for text in sys.argv[1:]:
    waited = []
    try:
        source = DatasetSource(Address.parse(text), on_wait=waited.append)
        told.append([{ref: compute_image_id(source.read(ref)) for ref in source.refs()}, waited])
    except CompactError as error:
        told.append([f"{type(error).__name__}: {error}", waited])
"""

COUNT: Final = """
import sys
from compact_hf.images.address import Address
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id

source = DatasetSource(Address.parse(sys.argv[1]))
told = [list(source.refs()), compute_image_id(source.read(sys.argv[2]))]
"""

ANNOTATE: Final = """
import sys
from compact_hf.methods.annotate.annotate import annotate

dataset, out, gemini, split = sys.argv[1:]
told = annotate(dataset, out, split=split or None, verifier_url=gemini).questions
"""

LIST_FEATURES: Final = Features({"images": List(Image()), "texts": List({"user": Value("string")})})
CARD: Final = b"""---
configs:
- config_name: small
  data_files: [{split: train, path: small/train.parquet}, {split: test, path: small/test.parquet}]
- config_name: large
  data_files: large/*.parquet
---
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def make_list_row(*numbers: int) -> dict[str, Any]:
    return {"images": [{"bytes": noise_png(number), "path": None} for number in numbers], "texts": []}


def test_lists_of_pictures_are_counted_without_fetching_pictures(hub: HubServer, tmp_path: Path) -> None:
    lists = [(0,), (1,), (2,), (), (), (), (3, 4), (5,), ()]
    commit = commit_files(
        hub, "org/lists", {"train.parquet": to_parquet([make_list_row(*numbers) for numbers in lists], LIST_FEATURES)}
    )
    refs, read = run_source(hub, COUNT, "hf://datasets/org/lists", "train/6/1", home=tmp_path / "home")
    assert refs == [f"train/{row}/{index}" for row, numbers in enumerate(lists) for index in range(len(numbers))]
    assert [read] == image_ids([4])
    assert len(image_ranges(hub, commit)) == 1


def test_only_the_config_the_split_and_the_files_that_were_named_are_fetched(hub: HubServer, tmp_path: Path) -> None:
    parts = {
        "small/train.parquet": [0, 1],
        "small/test.parquet": [2, 3],
        "large/a.parquet": [4],
        "large/b.parquet": [5],
    }
    commit = commit_files(
        hub,
        "org/parts",
        {"README.md": CARD} | {path: to_parquet(make_rows(numbers)) for path, numbers in parts.items()},
    )
    suffixes = ("/small?split=test", "?files=large/b.parquet", "/small")
    results = run_source(
        hub, READ, *(f"hf://datasets/org/parts{suffix}" for suffix in suffixes), home=tmp_path / "home"
    )
    assert [list(read) for read, _ in results] == [
        ["test/0", "test/1"],
        ["train/0"],
        ["test/0", "test/1", "train/0", "train/1"],
    ]
    assert [list(read.values()) for read, _ in results] == [image_ids([2, 3]), image_ids([5]), image_ids([2, 3, 0, 1])]
    # The test split was downloaded once for both addresses that include it.
    fetched_paths = [path for path, *_ in image_ranges(hub, commit)]
    assert fetched_paths == ["small/test.parquet", "large/b.parquet", "small/train.parquet"]


def test_what_cannot_be_streamed_says_why_in_one_line(hub: HubServer, tmp_path: Path) -> None:
    whole = to_parquet(make_rows([0]))
    parts = {"small/train.parquet": whole, "small/test.parquet": whole, "large/a.parquet": whole}
    commit_files(hub, "org/parts", {"README.md": CARD, **parts})
    commit_files(hub, "org/secret", {"train.parquet": whole}, private=True)
    commit_files(hub, "org/words", {"train.parquet": to_parquet([{"a": "b"}], Features({"a": Value("string")}))})
    commit_files(hub, "org/broken", {"README.md": CARD, **parts, "large/a.parquet": b"PAR1 and then nothing"})
    commit_files(hub, "org/files", {"train/a.png": noise_png(1), "train/b.png": noise_png(2)})
    converted = {"default/train/0000.parquet": File.from_bytes(to_parquet(make_rows([1, 2])), lfs=True)}
    files = hub.store.repository("dataset", "org/files")
    files.add_commit("refs/convert/parquet", converted, title="Convert", message="", author=USER)
    expected = {
        "parts": "has the configs small, large: give one of them, such as hf://datasets/org/parts@",
        "parts/nothing": "'nothing' not found",
        "parts/large?split=test": "has the splits train: give one of them",
        "secret": "check the name, the revision and HF_TOKEN",
        "words": "has no column of images (it has a)",
        "broken/large": "cannot be read",
    }
    addresses = [f"hf://datasets/org/{name}" for name in (*expected, "files", "files@refs/convert/parquet")]
    results = run_source(hub, READ, *addresses, home=tmp_path / "home", HF_TOKEN="")
    for (error, _), message in zip(results[:-2], expected.values(), strict=True):
        assert error.startswith("SourceError: hf://datasets/org/")
        assert message in error
        assert "\n" not in error

    read, (notice,) = results[-2]
    assert sorted(read.values()) == sorted(image_ids([1, 2]))
    assert notice.endswith("is not in Parquet: loading all of it first")
    assert results[-1] == [read, []], "the Hub's own conversion is Parquet"


def test_questions_are_read_in_order_each_row_group_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    parts = {"data/train-0.parquet": make_rows(range(6)), "data/test-0.parquet": make_rows([6, 7, 8])}
    commit = commit_files(hub, "org/asked", {path: to_parquet(records) for path, records in parts.items()})
    home = tmp_path / "home"
    with GeminiServer() as gemini:
        args = (f"org/asked@{commit.sha}", tmp_path / "run", gemini.url)
        assert run_source(hub, ANNOTATE, *args, "train", home=home) == 6
        assert [path for path, *_ in image_ranges(hub, commit)] == ["data/train-0.parquet"] * 2
        args = (f"org/asked@{commit.sha}", tmp_path / "all", gemini.url)
        assert run_source(hub, ANNOTATE, *args, "", home=home) == 9
    assert len(image_ranges(hub, commit)) == 3
    assert find_repeated_ranges(list(iter_ranges(hub, commit))) == []
