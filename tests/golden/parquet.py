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


def iter_parquet_files(release: Path) -> Iterator[tuple[str, Path]]:
    """Yield the Parquet files of a release by their paths in it, in order."""
    for path in sorted(release.rglob("*.parquet")):
        yield path.relative_to(release).as_posix(), path


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, with the decoded pixels of an image in the place of its file."""
    return [{name: _hash_pixels(value) for name, value in row.items()} for row in pq.read_table(file).to_pylist()]


def read_all_rows(release: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all Parquet files of a release."""
    return {name: read_rows(path) for name, path in iter_parquet_files(release)}


def hash_rows(rows: list[dict[str, Any]]) -> str:
    """Return the hash of rows."""
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _hash_pixels(value: Any) -> Any:
    if isinstance(value, list):
        return [_hash_pixels(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        image = Image.open(io.BytesIO(value["bytes"]))
        pixels = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
        return {"path": value["path"], "size": list(image.size), "pixels": pixels}
    return value
