"""The Xet storage of the Hub's double: a directory that hf_xet reads and writes itself, for the address `local://DIR`.

The Hub knows the files in it by their SHA-256, which hf_xet writes to the shards (lists of uploaded files).
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_RECORD: Final = 48  # a hash of 32 bytes and 16 other ones
_END: Final = b"\xff" * 32
_HAS_VERIFICATION: Final = 1 << 31
_HAS_SHA256: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class XetStorage:
    """The storage in a directory."""

    directory: Path

    @property
    def url(self) -> str:
        return f"local://{self.directory}"

    def read(self, sha256: str) -> tuple[str, bytes | None]:
        """Return the hash and the content of an uploaded file; an empty hash and None if it was not uploaded."""
        from hf_xet import XetFileInfo, XetSession

        info = next((info for uploaded, *info in self._iter_files() if uploaded == sha256), None)
        if info is None:
            return "", None
        with TemporaryDirectory() as temp_directory:
            # A copy, because the client's process still holds the lock of the storage.
            copy = Path(temp_directory, "copy")
            shutil.copytree(self.directory, copy)
            target = Path(temp_directory, "file")
            with XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
                group.start_download_file(XetFileInfo(*info), str(target))
            return info[0], target.read_bytes()

    def _iter_files(self) -> Iterator[tuple[str, str, int]]:
        """Yield SHA-256, hash and size of each file in the shards."""
        for path in self.directory.rglob("shards/*.mdb"):
            data = path.read_bytes()
            position = _RECORD  # after the header
            while (xet_hash := data[position : position + 32]) != _END:
                flags, segments = struct.unpack_from("<II", data, position + 32)
                records = 1 + segments * (2 if flags & _HAS_VERIFICATION else 1)
                if flags & _HAS_SHA256:
                    start = position + records * _RECORD
                    sizes = (position + number * _RECORD + 36 for number in range(1, segments + 1))
                    size = sum(struct.unpack_from("<I", data, offset)[0] for offset in sizes)
                    yield _to_hex(data[start : start + 32]), _to_hex(xet_hash), size
                    records += 1
                position += records * _RECORD


def _to_hex(value: bytes) -> str:
    """Return a hash as hf_xet writes it: as four numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))
