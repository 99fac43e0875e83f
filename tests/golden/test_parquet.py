"""The Parquet files of a fixed run are golden, by their bytes and, apart from that, by their content.

Where only the bytes differ, a library writes the same rows or images in another way (the first lines of
parquet_files.txt say with which libraries they were recorded); where the content differs, other data are made.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.cli import main

Golden = Callable[[str, str], None]

LIBRARIES = ("numpy", "pillow", "pyarrow", "datasets")


def content(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, with the decoded pixels of an image in the place of its file."""
    return [{name: _without_file(value) for name, value in row.items()} for row in pq.read_table(file).to_pylist()]


def _without_file(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_file(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        image = Image.open(io.BytesIO(value["bytes"]))
        pixels = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
        return {"path": value["path"], "size": list(image.size), "pixels": pixels}
    return value


def sha256_of_rows(file: Path) -> str:
    """Return the hash of a Parquet file's content."""
    rows = json.dumps(content(file), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()


def parquet_files(release: Path) -> Iterator[tuple[str, Path]]:
    """Yield the Parquet files of a release by their paths in it, in order."""
    for path in sorted(release.rglob("*.parquet")):
        yield path.relative_to(release).as_posix(), path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 80 scenes, with an instruction part of four of the six rows of a file."""
    folder = tmp_path_factory.mktemp("parquet")
    run, release, instruction = folder / "run", folder / "release", folder / "instruction.json"
    assert main(["generate", "scenes:80", "--teacher", "scenes", "--seed", "7", "--k", "1,2,3", "--out", str(run)]) == 0
    instruction.write_text(json.dumps([_item(number) for number in range(6)]))
    share = ["--instruction", str(instruction), "--instruction-rows", "4"]
    assert main(["assemble", str(run), "--version", "1.0.0", "--out", str(release), *share]) == 0
    return release


def _item(number: int) -> dict[str, Any]:
    question = f"What is {number} plus two?\n{SHORT_ANSWER_INSTRUCTION}"
    messages = [{"from": "human", "value": question}, {"from": "gpt", "value": str(number + 2)}]
    return {"id": f"sum-{number}", "conversations": messages}


def test_the_rows_of_a_release_are_golden(release: Path, golden: Golden) -> None:
    lines = [
        f"{name}  {len(content(path))} rows  content sha256 {sha256_of_rows(path)}"
        for name, path in parquet_files(release)
    ]
    schemas = {str(pq.read_schema(path).remove_metadata()) for _, path in parquet_files(release)}
    features = {
        (pq.read_schema(path).metadata or {}).get(b"huggingface", b"").decode() for _, path in parquet_files(release)
    }
    golden("parquet_rows.txt", "\n".join([*lines, "", *sorted(schemas), "", *sorted(features), ""]))


def test_the_first_row_of_every_subset_is_golden(release: Path, golden: Golden) -> None:
    """The hashes above say that something changed; this file is for people, to see what."""
    firsts = {name: content(path)[0] for name, path in parquet_files(release)}
    golden("parquet_first_rows.txt", json.dumps(firsts, indent=1, ensure_ascii=False) + "\n")


def test_the_bytes_of_a_releases_parquet_files_are_golden(release: Path, golden: Golden) -> None:
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    files = [f"{name}  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in parquet_files(release)]
    golden("parquet_files.txt", "\n".join([*libraries, "", *files, ""]))


def test_the_header_of_a_releases_card_is_golden(release: Path, golden: Golden) -> None:
    """By the header `load_dataset` finds configs, splits and files."""
    _, header, _ = (release / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    golden("card_header.txt", header)
