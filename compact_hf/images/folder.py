"""A folder of images as a source: in goes its path, out come references relative to it, and files' bytes."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from compact_hf.errors import SourceError

EXTENSIONS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Endings, in lower case, of the files that count as images; what they really are shows when they are looked at."""

MAX_BYTES: Final = 256 * 2**20
"""Largest file that is read: an image of 100 megapixels is smaller, unless it is not one."""


class ImageFolder:
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
        """Yield the images' paths relative to the folder, with forward slashes, sorted.

        Raises:
            SourceError: a folder cannot be listed, a name cannot be written down, or there are no images.
        """
        image_refs: list[str] = []
        other_extensions: Counter[str] = Counter()
        for ref in self._iter_files():
            extension = os.path.splitext(ref)[1].lower()
            if extension in EXTENSIONS:
                image_refs.append(_check_utf8(ref))
            else:
                other_extensions[extension or "without ending"] += 1
        if not image_refs:
            raise SourceError(self._describe_missing(other_extensions))
        yield from sorted(image_refs)

    def block(self, ref: str) -> str:
        """Return `ref`: each file is read alone."""
        return ref

    def origin(self, ref: str) -> tuple[str, str]:  # noqa: ARG002 (the Source protocol names it)
        """Return the folder's own name, and a licence that is unknown."""
        return self._name, "unknown"

    def stamp(self, ref: str) -> str:
        """Return the file's size and time of change, or an empty text where it is gone."""
        try:
            stat = os.stat(f"{self.identity}/{ref}")
        except OSError:
            return ""
        return f"{stat.st_size}:{stat.st_mtime_ns}"

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

    def _iter_files(self) -> Iterator[str]:
        """Yield the files' paths relative to the folder. Without `Path`, which takes seconds for 100,000 of them."""
        seen = {self._root}
        pending = [""]
        while pending:
            directory = pending.pop()
            for entry in _scan_directory(self._root / directory):
                if entry.name.startswith("."):
                    continue
                ref = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_file():
                    yield ref
                elif entry.is_dir():
                    target = Path(entry.path).resolve()
                    # A link may lead back: to a folder that was listed already, or above the root.
                    if target not in seen and not self._root.is_relative_to(target):
                        seen.add(target)
                        pending.append(ref)

    def _describe_missing(self, other_extensions: Counter[str]) -> str:
        if not other_extensions:
            return f"{self._root} is empty; put JPEG, PNG or WebP files into it"
        summary = ", ".join(f"{count} {extension}" for extension, count in other_extensions.most_common(5))
        return f"no JPEG, PNG or WebP file in {self._root} (files seen: {summary}); give a folder that holds some"


def _scan_directory(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"cannot list {directory}: {error.strerror}; make it readable or move it away") from error


def _check_utf8(ref: str) -> str:
    try:
        ref.encode()
    except UnicodeEncodeError:
        raise SourceError(f"the name {ref!r} is not UTF-8; rename the file, because journals hold UTF-8") from None
    return ref
