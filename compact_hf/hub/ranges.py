"""Reads a file on the Hub in ranges and stores each range, so that the same reads need no connection later."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from compact_hf.storage import atomic_file


class StoredRanges(io.RawIOBase):
    """A file that is opened on the Hub only if a range is read that is not stored yet.

    Args:
        open_remote (`Callable[[], BinaryIO]`): opens the file on the Hub.
        directory (`Path`): directory of the ranges, one file each, by the positions of their first and last byte.
        size (`int`): size of the file on the Hub in bytes.
    """

    def __init__(self, open_remote: Callable[[], BinaryIO], directory: Path, size: int) -> None:
        super().__init__()
        self._open_remote, self._directory, self._size = open_remote, directory, size
        self._remote: BinaryIO | None = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        start = self._position
        end = self._size if size is None or size < 0 else min(self._size, start + size)
        if start >= end:
            return b""
        path = self._directory / f"{start}-{end - 1}"
        if path.is_file():
            data = path.read_bytes()
        else:
            data = self._read_remote(start, end)
            with atomic_file(path, is_shared=True) as temp_file:
                temp_file.write_bytes(data)
        self._position = start + len(data)
        return data

    def _read_remote(self, start: int, end: int) -> bytes:
        if self._remote is None:
            self._remote = self._open_remote()
        self._remote.seek(start)
        return self._remote.read(end - start)

    def close(self) -> None:
        if self._remote is not None:
            self._remote.close()
        super().close()
