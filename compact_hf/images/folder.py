"""Reads images from a local directory and its subdirectories.

A reference is the path of a file relative to the directory, with forward slashes. Files of other people may also have
absolute paths below the directory, and paths with `..` that do not lead out of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from compact_hf.errors import SourceError, UsageError
from compact_hf.regular_files import describe_kind, open_regular, read_regular, resolve
from compact_hf.wording import format_count

EXTENSIONS: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
"""File extensions, in lower case, of the files that are listed; their format is checked when they are inspected."""

# Extensions of image formats that the codec does not decode.
_CONVERTIBLE: Final = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".tiff", ".tif", ".bmp", ".gif")

MAX_BYTES: Final = 256 * 2**20
"""Size in bytes of the largest file that is read. Image files of up to 100 megapixels are smaller in practice."""

_REGULAR_FILE: Final = "regular file"
_OTHER_KINDS: Final = "of other kinds"
_MAX_KINDS: Final = 8  # number of kinds of skipped files in a message
_MAX_EXTENSION: Final = 12  # characters


_PARTIAL_BYTES: Final = 4096
"""Beginning of a file that `ImageFolder.partial_hash` reads."""


class ImageFolder:
    """An image source of all JPEG, PNG and WebP files in a directory and its subdirectories.

    Hidden files and directories are left out. `describe_skipped` says which other files are. Symbolic links are
    followed.

    Args:
        path (`str | Path`): the directory.

    Raises:
        UsageError: the path does not exist or is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self._root = resolve(path)
        # An absolute reference may contain the path as it was given, with links that `resolve` follows.
        self._roots = (self._root, Path(os.path.abspath(path)))
        if not self._root.exists():
            raise UsageError(f"no such directory: {path}: give a directory with JPEG, PNG or WebP files")
        if not self._root.is_dir():
            raise UsageError(f"{path} is a file, not a directory: give the directory that contains it")
        self.identity = str(self._root)
        # The root of the file system has no name.
        self._name = self._root.name or "folder"
        # Kind of file (extension, or `broken link` and the like) -> number of files that `refs` has skipped.
        self._skipped: Counter[str] = Counter()

    def refs(self) -> Iterator[str]:
        """Yield the paths of the images relative to the directory, with forward slashes, sorted.

        Raises:
            SourceError: a directory cannot be listed, the name of an image is not UTF-8, or there are no images.
        """
        image_refs: list[str] = []
        skipped: Counter[str] = Counter()
        for ref, kind in self._iter_files():
            extension = os.path.splitext(ref)[1].lower()
            if kind != _REGULAR_FILE:
                skipped[kind] += 1
            elif extension in EXTENSIONS:
                image_refs.append(_check_utf8(ref))
            else:
                skipped[_name_extension(extension)] += 1
        self._skipped = skipped
        if not image_refs:
            raise SourceError(self._describe_missing())
        yield from sorted(image_refs)

    def describe_skipped(self) -> str:
        """Return a line about the files that `refs` has skipped, such as `12 files ... were skipped: 9 .heic, 3 .txt`.

        It is empty if there are none. Hidden files are not counted.
        """
        if not (total := self._skipped.total()):
            return ""
        verb = "was" if total == 1 else "were"
        files = f"{format_count(total, 'file')} in {self._root} {verb} skipped: {self._list_skipped()}"
        return f"{files}; {advice}" if (advice := self._advise_conversion()) else files

    def block(self, ref: str) -> str:
        """Return `ref`, because each file is read separately."""
        return ref

    def origin(self, ref: str) -> tuple[str, str]:  # noqa: ARG002 (the Source protocol names it)
        """Return the name of the directory as the origin, and `unknown` as the license."""
        return self._name, "unknown"

    def partial_hash(self, ref: str) -> str:
        """Return a hash of the file's size and of its beginning.

        Raises:
            OSError: the file cannot be read, is not a regular file, or `ref` is a path outside the directory.
        """
        with open_regular(self._root / self._check_ref(ref)) as file:
            size = os.fstat(file.fileno()).st_size
            return f"{size}:{hashlib.sha256(file.read(_PARTIAL_BYTES)).hexdigest()[:32]}"

    def stamp(self, ref: str) -> str:
        """Return the file's size and times of change, or an empty string if the file does not exist.

        The time of the last change of its status (ctime) is included, because copying a file can set the modification
        time to an earlier one.
        """
        try:
            stat = os.stat(f"{self.identity}/{self.normalise(ref)}")
        except OSError:
            return ""
        return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"

    def normalise(self, ref: str) -> str:
        """Return a reference as a path relative to the directory without `..`, or unchanged if it leads out of it."""
        path = posixpath.normpath(ref)
        if path.startswith("/"):
            roots = [root for root in self._roots if PurePosixPath(path).is_relative_to(root)]
            return str(PurePosixPath(path).relative_to(roots[0])) if roots else ref
        # In a normalised path, `..` can only be at the beginning.
        return ref if path.startswith("../") or path == ".." else path

    def read(self, ref: str) -> bytes:
        """Return the file's bytes.

        Raises:
            OSError: the file cannot be read, is not a regular file, has more than `MAX_BYTES`, or `ref` is a path
                outside the directory.
        """
        return read_regular(self._root / self._check_ref(ref), max_bytes=MAX_BYTES)

    def _check_ref(self, ref: str) -> PurePosixPath:
        """Return the path of a reference below the directory; PermissionError if it leads out of it."""
        # References may come from a file of the user, such as a list in LLaVA's format.
        relative = PurePosixPath(self.normalise(ref))
        if relative.is_absolute() or ".." in relative.parts:
            raise PermissionError(errno.EPERM, "is outside the directory", ref)
        return relative

    def _iter_files(self) -> Iterator[tuple[str, str]]:
        """Yield the paths of all files relative to the directory, each with its kind (see `describe_kind`).

        Paths are joined as strings, because `Path` takes seconds for 100,000 of them.
        """
        # seen: directories that were listed or are pending, with links resolved. pending: their paths below the root.
        seen = {self._root}
        pending = [""]
        while pending:
            directory = pending.pop()
            for entry in _scan_directory(self._root / directory):
                if entry.name.startswith("."):
                    continue
                ref = f"{directory}/{entry.name}" if directory else entry.name
                # The entry of a file knows its kind; that of a link does not, and raises an error if it is a circle.
                is_file = entry.is_file(follow_symlinks=False)
                kind = _REGULAR_FILE if is_file else describe_kind(entry.path)
                if kind != "directory":
                    yield ref, kind
                    continue
                target = Path(entry.path).resolve()
                # A link may be a cycle: it may point to a directory listed before, or to a parent of the root.
                if target not in seen and not self._root.is_relative_to(target):
                    seen.add(target)
                    pending.append(ref)

    def _describe_missing(self) -> str:
        """Return the error message for a directory without images."""
        if not self._skipped:
            return f"{self._root} is empty: put JPEG, PNG or WebP files into it"
        advice = f", or {advice}" if (advice := self._advise_conversion()) else ""
        return (
            f"no JPEG, PNG or WebP file in {self._root} (files found: {self._list_skipped()}): "
            f"give a directory with images{advice}"
        )

    def _list_skipped(self) -> str:
        """Return the most frequent kinds of skipped files, with their numbers."""
        kinds = dict(sorted(self._skipped.items(), key=lambda item: (-item[1], item[0]))[:_MAX_KINDS])
        if others := self._skipped.total() - sum(kinds.values()):
            kinds[_OTHER_KINDS] = kinds.get(_OTHER_KINDS, 0) + others
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items())

    def _advise_conversion(self) -> str:
        """Return how to convert the skipped images, or an empty string if no skipped file is an image."""
        extension = next(filter(self._skipped.__contains__, _CONVERTIBLE), None)
        if extension is None:
            return ""
        return f"convert {extension} files first, for example by ImageMagick: magick mogrify -format jpg FILE..."


def _name_extension(extension: str) -> str:
    """Return an extension as messages name it: what is no usual extension may be long, or unprintable."""
    if not extension:
        return "without extension"
    return extension if len(extension) <= _MAX_EXTENSION and extension[1:].isalnum() else _OTHER_KINDS


def _scan_directory(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"cannot list {directory} ({error.strerror}): make it readable or move it away") from error


def _check_utf8(ref: str) -> str:
    try:
        ref.encode()
    # The OS returns bytes that are not UTF-8 as lone surrogates, which cannot be encoded.
    except UnicodeEncodeError:
        raise SourceError(f"the file name {ref!r} is not UTF-8: rename the file (the journal needs UTF-8)") from None
    return ref
