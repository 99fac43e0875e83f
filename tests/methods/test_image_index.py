"""Tests that images are inspected ahead of their turn without blocking the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from compact_hf.images.folder import ImageFolder
from compact_hf.records import digest
from compact_hf.runs.image_index import iter_inspected, shuffle_refs
from compact_hf.runs.journal import Journal
from compact_hf.scenes.source import SceneSource
from tests.teachers.asking import photograph


class BlockSource:
    """A source of references in blocks; `sizes` has the number of images of each block."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes

    def refs(self) -> Iterator[str]:
        return (f"{block}/{number}" for block, size in enumerate(self.sizes) for number in range(size))

    def block(self, ref: str) -> str:
        return ref.partition("/")[0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 9))
def test_a_run_finishes_with_the_blocks_that_it_began_before_it_begins_others(sizes: list[int], seed: int) -> None:
    source: Any = BlockSource(sizes)
    order = shuffle_refs(source, seed)
    assert sorted(order) == sorted(source.refs())
    remaining = dict(enumerate(sizes))
    started_blocks: set[int] = set()
    for ref in order:
        block = int(source.block(ref))
        started_blocks.add(block)
        remaining[block] -= 1
        assert len([started_block for started_block in started_blocks if remaining[started_block]]) <= 4


def test_pictures_that_are_fetched_alone_are_shuffled_one_by_one() -> None:
    scenes = SceneSource(0, 50)
    order = shuffle_refs(scenes, 3)
    assert order == sorted(scenes.refs(), key=lambda ref: digest("order", 3, ref))
    assert order not in (list(scenes.refs()), shuffle_refs(scenes, 4))


class SlowImageFolder(ImageFolder):
    """A directory of images that reads the first image at once and the others slowly."""

    def read(self, ref: str) -> bytes:
        time.sleep(0 if ref.startswith("0") else 0.5)
        return super().read(ref)


def test_the_loop_goes_on_while_pictures_that_are_not_wanted_any_more_are_looked_at(tmp_path: Path) -> None:
    directory = tmp_path / "pictures"
    directory.mkdir()
    for index in range(8):
        (directory / f"{index}.jpg").write_bytes(photograph(64 + index))
    source = SlowImageFolder(directory)

    async def measure_longest_pause() -> float:
        inspections = iter_inspected(source, journal, list(source.refs()))
        await anext(inspections)
        closing = asyncio.ensure_future(inspections.aclose())
        longest, last_time = 0.0, time.monotonic()
        while not closing.done():
            await asyncio.sleep(0.01)
            longest, last_time = max(longest, time.monotonic() - last_time), time.monotonic()
        await closing
        return longest

    with Journal.open(tmp_path / "run", {}) as journal:
        assert asyncio.run(measure_longest_pause()) < 0.3
