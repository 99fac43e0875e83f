"""A folder of pictures as a source: in goes its path, out come references relative to it, and files' bytes."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from compact_hf.errors import SourceError

ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Endings, in lower case, of the files that count as pictures; what they really are shows when they are looked at."""

MAX_BYTES: Final = 256 * 2**20
"""Largest file that is read: a picture of 100 megapixels is smaller, unless it is not one."""


class Folder:
    """Every JPEG, PNG and WebP file below a folder; hidden files and folders are left out, links are followed.

    Args:
        path (`str | Path`): the folder.

    Raises:
        SourceError: there is no such folder.
    """

    def __init__(self, path: str | Path) -> None:
        self._root = Path(path).resolve()
        if not self._root.exists():
            raise SourceError(f"no such folder: {path}; give a folder that holds JPEG, PNG or WebP files")
        if not self._root.is_dir():
            raise SourceError(f"{path} is a file, not a folder; give the folder that it lies in")
        self.identity = str(self._root)
        self._name = self._root.name or "folder"

    def refs(self) -> Iterator[str]:
        """Yield the pictures' paths relative to the folder, with forward slashes, sorted.

        Raises:
            SourceError: a folder cannot be listed, a name cannot be written down, or there are no pictures.
        """
        found: list[str] = []
        others: Counter[str] = Counter()
        for ref in self._files():
            ending = os.path.splitext(ref)[1].lower()
            if ending in ENDINGS:
                found.append(_checked(ref))
            else:
                others[ending or "without ending"] += 1
        if not found:
            raise SourceError(self._nothing_found(others))
        yield from sorted(found)

    def block(self, ref: str) -> str:
        """Return `ref`: each file is read alone."""
        return ref

    def origin(self, ref: str) -> tuple[str, str]:  # noqa: ARG002 (the Source protocol names it)
        """Return the folder's own name, and a licence that is unknown."""
        return self._name, "unknown"

    def stamp(self, ref: str) -> str:
        """Return the file's size and time of change, or an empty text where it is gone."""
        try:
            found = os.stat(f"{self.identity}/{ref}")
        except OSError:
            return ""
        return f"{found.st_size}:{found.st_mtime_ns}"

    def read(self, ref: str) -> bytes:
        """Return the file's bytes.

        Raises:
            OSError: it cannot be read, has more than `MAX_BYTES`, or `ref` leads out of the folder.
        """
        relative = PurePosixPath(ref)
        if relative.is_absolute() or ".." in relative.parts:
            raise PermissionError(errno.EPERM, "leads out of the folder", ref)
        with (self._root / relative).open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), ref)
            return file.read()

    def _files(self) -> Iterator[str]:
        """Yield the files' paths relative to the folder. Without `Path`, which takes seconds for 100,000 of them."""
        seen = {self._root}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for entry in _listed(self._root / folder):
                if entry.name.startswith("."):
                    continue
                ref = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_file():
                    yield ref
                elif entry.is_dir():
                    real = Path(entry.path).resolve()
                    # A link may lead back: to a folder that was listed already, or above the root.
                    if real not in seen and not self._root.is_relative_to(real):
                        seen.add(real)
                        waiting.append(ref)

    def _nothing_found(self, others: Counter[str]) -> str:
        if not others:
            return f"{self._root} is empty; put JPEG, PNG or WebP files into it"
        seen = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5))
        return f"no JPEG, PNG or WebP file in {self._root} (files seen: {seen}); give a folder that holds some"


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}; make it readable or move it away") from error


def _checked(ref: str) -> str:
    try:
        ref.encode()
    except UnicodeEncodeError:
        raise SourceError(f"the name {ref!r} is not UTF-8; rename the file, because journals hold UTF-8") from None
    return ref
