"""The content of Parquet files, apart from how a library writes it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image


def parquet_files(release: Path) -> Iterator[tuple[str, Path]]:
    """Yield the Parquet files of a release by their paths in it, in order."""
    for path in sorted(release.rglob("*.parquet")):
        yield path.relative_to(release).as_posix(), path


def content(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, with the decoded pixels of an image in the place of its file."""
    return [{name: _without_file(value) for name, value in row.items()} for row in pq.read_table(file).to_pylist()]


def contents(release: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all Parquet files of a release."""
    return {name: content(path) for name, path in parquet_files(release)}


def sha256_of(rows: list[dict[str, Any]]) -> str:
    """Return the hash of rows."""
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _without_file(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_file(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        image = Image.open(io.BytesIO(value["bytes"]))
        pixels = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
        return {"path": value["path"], "size": list(image.size), "pixels": pixels}
    return value
