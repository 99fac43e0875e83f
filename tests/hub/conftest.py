"""A Hub of one's own, and a folder to publish there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.hub.server import HubServer


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files for LFS and two others, in folders."""
    folder = tmp_path / "folder"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nThings.\n")
    (folder / "data" / "words.txt").write_text("some words")
    for number in range(3):
        (folder / "data" / "deep" / f"{number}.bin").write_bytes(bytes([0, number]) * 5000)
    return folder
