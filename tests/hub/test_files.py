"""Tests the comparison of a revision of a repository with a directory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compact_hf.hub.files import iter_differences


def make_hub_file(data: bytes, *, lfs: bool = False) -> Any:
    """Return the entry that the Hub lists for a file."""
    blob_id = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    sha256 = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())
    return SimpleNamespace(size=len(data), blob_id=blob_id, lfs=sha256 if lfs else None)


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ({}, None),
        ({".gitattributes": make_hub_file(b"*.bin filter=lfs")}, None),
        ({"old.md": make_hub_file(b"old")}, "old.md is not in the directory"),
        ({"data.bin": None}, "data.bin is missing"),
        ({"README.md": make_hub_file(b"longer than it")}, "README.md has 14 bytes instead of 2"),
        ({"README.md": make_hub_file(b"ih")}, "README.md has different content"),
        ({"data.bin": make_hub_file(b"4321", lfs=True)}, "data.bin has different content"),
    ],
)
def test_the_first_difference_is_named(changed: dict[str, Any], first: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"hi")
    (tmp_path / "data.bin").write_bytes(b"1234")
    files = {"README.md": make_hub_file(b"hi"), "data.bin": make_hub_file(b"1234", lfs=True)} | changed
    remote_files = {name: listed for name, listed in files.items() if listed is not None}
    assert next(iter_differences(remote_files, tmp_path), None) == first
