"""Pictures are looked at ahead of their turn, and never in the way of what else goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from compact_hf.engine.journal import Journal
from compact_hf.images.folder import Folder
from compact_hf.synthesis.pictures import looked_at
from tests.teachers.asking import photograph


class Slow(Folder):
    """A folder whose first picture is there at once, the others after a while."""

    def read(self, ref: str) -> bytes:
        time.sleep(0 if ref.startswith("0") else 0.5)
        return super().read(ref)


def test_the_loop_goes_on_while_pictures_that_are_not_wanted_any_more_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(8):
        (folder / f"{index}.jpg").write_bytes(photograph(64 + index))
    source = Slow(folder)

    async def longest_pause() -> float:
        looks = looked_at(source, journal, list(source.refs()))
        await anext(looks)
        closing = asyncio.ensure_future(looks.aclose())
        longest, last = 0.0, time.monotonic()
        while not closing.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        await closing
        return longest

    with Journal.open(tmp_path / "run", {}) as journal:
        assert asyncio.run(longest_pause()) < 0.3
