"""The Parquet files of a fixed run are golden, by their bytes and, apart from that, by their content.

Where only the bytes differ, a library writes the same rows or images in another way (the first lines of
parquet_files.txt say with which libraries they were recorded); where the content differs, other data are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.cli.main import main
from tests.golden.parquet import hash_rows, iter_parquet_files, read_all_rows

Golden = Callable[[str, str], None]

LIBRARIES = ("numpy", "pillow", "pyarrow", "datasets")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 80 scenes, with an instruction part of four of the six rows of a file."""
    directory = tmp_path_factory.mktemp("parquet")
    run, release, instruction = directory / "run", directory / "release", directory / "instruction.json"
    assert main(["generate", "scenes:80", "--teacher", "scenes", "--seed", "7", "--k", "1,2,3", "--out", str(run)]) == 0
    instruction.write_text(json.dumps([_item(number) for number in range(6)]))
    options = ["--instruction", str(instruction), "--instruction-rows", "4"]
    assert main(["assemble", str(run), "--version", "1.0.0", "--out", str(release), *options]) == 0
    return release


def _item(number: int) -> dict[str, Any]:
    question = f"What is {number} plus two?\n{SHORT_ANSWER_INSTRUCTION}"
    messages = [{"from": "human", "value": question}, {"from": "gpt", "value": str(number + 2)}]
    return {"id": f"sum-{number}", "conversations": messages}


def test_the_rows_of_a_release_are_golden(release: Path, golden: Golden) -> None:
    lines = [
        f"{name}  {len(rows)} rows  content sha256 {hash_rows(rows)}" for name, rows in read_all_rows(release).items()
    ]
    schemas = {str(pq.read_schema(path).remove_metadata()) for _, path in iter_parquet_files(release)}
    features = {
        (pq.read_schema(path).metadata or {}).get(b"huggingface", b"").decode()
        for _, path in iter_parquet_files(release)
    }
    golden("parquet_rows.txt", "\n".join([*lines, "", *sorted(schemas), "", *sorted(features), ""]))


def test_the_first_row_of_every_subset_is_golden(release: Path, golden: Golden) -> None:
    """The hashes above say that something changed; this file is for people, to see what."""
    firsts = {name: rows[0] for name, rows in read_all_rows(release).items()}
    golden("parquet_first_rows.txt", json.dumps(firsts, indent=1, ensure_ascii=False) + "\n")


def test_the_bytes_of_a_releases_parquet_files_are_golden(release: Path, golden: Golden) -> None:
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    files = [
        f"{name}  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in iter_parquet_files(release)
    ]
    golden("parquet_files.txt", "\n".join([*libraries, "", *files, ""]))


def test_the_header_of_a_releases_card_is_golden(release: Path, golden: Golden) -> None:
    """By the header `load_dataset` finds configs, splits and files."""
    _, header, _ = (release / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    golden("card_header.txt", header)
