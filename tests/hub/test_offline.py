"""Tests that what was read from the Hub once is read again with HF_HUB_OFFLINE=1: the same data, by the same tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.doubles.hub.server import HubRequest, HubServer
from tests.hub.clients import run_source
from tests.training.samples import write_release

PUBLISH_SOURCE: Final = """
import sys
from compact_hf.hub.push import push
for version in ("v1.0.0", "v1.1.0"):
    push(f"{sys.argv[1]}/{version}", "org/things", repo_type="dataset", message=version, tag=version)
    push(f"{sys.argv[1]}/model-{version}", "org/model", repo_type="model", message=version, tag=version)
told = None
"""
READ_SOURCE: Final = """
import hashlib, sys
from pathlib import Path
from compact_hf import CompactError, analyze, diff, show, validate
from compact_hf.dataset.export import find_config_files
from compact_hf.evaluation.benchmarks.lmms_eval import inspect_model
from compact_hf.evaluation.questions import DataOptions
from compact_hf.evaluation.rows import read_rows
from compact_hf.hub.download import download_snapshot, get_repo_listing
from compact_hf.images.address import Address
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.models.loading import resolve_model
from compact_hf.teachers.local_model import locate_model

def digest(*chunks):
    return hashlib.sha256(b"".join(chunks)).hexdigest()

def read_questions(revision):
    rows = read_rows(f"org/things{revision}", DataOptions(), preferred_config="compositional")
    return [rows.name, list(rows.rows["id"]), digest(*(rows.images.read(index) for index in range(len(rows.rows))))]

def read_images(revision):
    source = DatasetSource(Address.parse(f"hf://datasets/org/things{revision}/compositional"))
    refs = list(source.refs())
    return [source.identity, refs, source.origin(refs[0]), digest(*map(source.read, refs))]

def read_export(revision):
    files = find_config_files(f"org/things{revision}", config="compositional")
    return [row["id"] for split in files.files for row in files.iter_records(split)]

def read_parts(revision):
    listing = get_repo_listing("org/model", repo_type="model", revision=revision[1:] or None)
    directory = download_snapshot("org/model", repo_type="model", revision=listing.commit, files=["config.json"])
    return [listing.commit, listing.files, (directory / "config.json").read_text()]

def read_sheet(revision):
    show(f"org/things{revision}", out=f"{sys.argv[1]}{revision}")
    return digest(*(path.read_bytes() for path in sorted(Path(f"{sys.argv[1]}{revision}").iterdir())))

READERS = {
    "diff": lambda revision: diff(f"org/things{revision}", "org/things@v1.0.0").reasons(),
    "show": read_sheet,
    "evaluate": read_questions,
    "generate": read_images,
    "analyze": lambda revision: analyze(f"org/things{revision}", config="compositional").to_json(),
    "export": read_export,
    "validate": lambda revision: validate(f"org/things{revision}").counts,
    "parts of a base": read_parts,
    "model": lambda revision: (resolve_model("org/model", revision=revision[1:] or None) / "config.json").read_text(),
    "local teacher": lambda revision: locate_model("org/model").version,
    "benchmarks": lambda revision: inspect_model("org/model").model_type,
}
told = {}
for name in sys.argv[2:] or READERS:
    read = READERS[name]
    for revision in ("@v1.0.0", "@v1.1.0", ""):
        try:
            told[f"{name} {revision}"] = read(revision)
        except CompactError as error:
            told[f"{name} {revision}"] = f"{type(error).__name__}: {error}"
"""
LOAD_SOURCE: Final = """
from datasets import load_dataset
for version in ("v1.0.0", "v1.1.0"):
    load_dataset("org/things", "compositional", revision=version)
told = None
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Return a Hub with two versions of a dataset and of a model."""
    directory = tmp_path_factory.mktemp("published")
    for version, rows in (("v1.0.0", 30), ("v1.1.0", 50)):
        write_release(directory / version, rows=rows)
        (directory / f"model-{version}").mkdir()
        (directory / f"model-{version}" / "config.json").write_text(json.dumps({"model_type": "llava", "v": version}))
    with HubServer() as server:
        run_source(server, PUBLISH_SOURCE, directory, home=directory / "home")
        yield server


@pytest.fixture(scope="module")
def online(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a directory of caches, and what all readers gave while they filled it."""
    home = tmp_path_factory.mktemp("online")
    return home, run_source(server, READ_SOURCE, home / "sheet", home=home)


def refuse(request: HubRequest, number: int) -> Any:
    raise AssertionError(f"the Hub was asked for {request.path}")


def test_every_reader_gives_the_same_offline_as_online(
    server: HubServer, online: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, expected = online
    server.fault = refuse
    offline = run_source(server, READ_SOURCE, tmp_path / "sheet", home=home, HF_HUB_OFFLINE="1")
    server.fault = lambda request, number: None
    assert offline == expected
    assert not [value for value in expected.values() if "Error" in str(value)]
    for reader in ("evaluate", "generate", "analyze", "export", "parts of a base", "model"):
        assert expected[f"{reader} @v1.0.0"] != expected[f"{reader} @v1.1.0"], "both versions are the same"


def test_a_comparison_and_a_sheet_are_made_of_the_ranges_that_were_read(
    server: HubServer, online: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, expected = online
    readers = ("diff", "show")
    first = run_source(server, READ_SOURCE, tmp_path / "first", *readers, home=tmp_path)
    server.fault = refuse
    offline = run_source(server, READ_SOURCE, tmp_path / "second", *readers, home=tmp_path, HF_HUB_OFFLINE="1")
    server.fault = lambda request, number: None
    assert offline == first == {name: expected[name] for name in first}


def test_what_is_not_in_the_cache_is_one_line_that_says_what_to_do(server: HubServer, tmp_path: Path) -> None:
    errors = run_source(server, READ_SOURCE, tmp_path / "sheet", home=tmp_path, HF_HUB_OFFLINE="1")
    for reader, error in errors.items():
        assert "Error: " in error, reader
        assert "\n" not in error
        assert "HF_HUB_OFFLINE" in error, error


def test_what_load_dataset_has_cached_is_read_by_tag(
    server: HubServer, online: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, expected = online
    run_source(server, LOAD_SOURCE, home=tmp_path)
    readers = ("evaluate", "generate")
    offline = run_source(server, READ_SOURCE, tmp_path, *readers, home=tmp_path, HF_HUB_OFFLINE="1")
    for reader in readers:
        for tag in ("@v1.0.0", "@v1.1.0"):
            assert offline[f"{reader} {tag}"] == expected[f"{reader} {tag}"]
