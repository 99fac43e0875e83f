"""Tests that a run restores the state of the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from compact_hf import generate


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    was_frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if was_frozen:
        gc.freeze()


def count_frozen_while_running(out: Path) -> set[bool]:
    counts: set[bool] = set()
    generate("scenes:2", out, teacher="scenes", on_progress=lambda progress: counts.add(gc.get_freeze_count() > 1000))
    return counts


@pytest.mark.usefixtures("nothing_frozen")
def test_what_was_there_before_a_run_is_not_looked_through_in_it(tmp_path: Path) -> None:
    assert count_frozen_while_running(tmp_path / "run") == {True}
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("nothing_frozen")
def test_who_froze_something_keeps_it(tmp_path: Path) -> None:
    gc.freeze()
    frozen_count = gc.get_freeze_count()
    generate("scenes:2", tmp_path / "run", teacher="scenes")
    assert 0 < gc.get_freeze_count() <= frozen_count
