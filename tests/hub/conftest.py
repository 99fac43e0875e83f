"""Fixtures: a Hub server for each test, and a directory to publish."""

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
    """Return a directory tree with three files for git LFS and two others."""
    directory = tmp_path / "folder"
    (directory / "data" / "deep").mkdir(parents=True)
    (directory / "README.md").write_text("---\nlicense: mit\n---\nThings.\n")
    (directory / "data" / "words.txt").write_text("some words")
    for number in range(3):
        (directory / "data" / "deep" / f"{number}.bin").write_bytes(bytes([0, number]) * 5000)
    return directory
