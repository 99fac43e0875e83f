"""Opens files that a file or a directory of someone else names: only regular files, without waiting, up to a size.

Such a path can name anything: a named pipe, on which `open` waits forever, a device such as /dev/zero, which never
ends, a link to itself, or a file that is larger than the memory. Here each of these is an `OSError`, raised at once. A
path that a user gives on the command line may be a pipe, and need not be opened by these functions.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import time
from pathlib import Path
from typing import Final

MAX_TEXT_BYTES: Final = 64 * 2**20
"""Size in bytes of the largest card, config or template that is read."""

_CHUNK_BYTES: Final = 2**20
_SETTLED_NS: Final = 2 * 10**9
# What is never a regular file, for messages.
_KINDS: Final = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
    stat.S_IFDIR: "directory",
}


def check_regular(path: str | Path) -> None:
    """Check that a path is a regular file or a link to one, for libraries that open files themselves.

    Args:
        path (`str | Path`): the path.

    Raises:
        OSError: the path does not exist, is a link to itself, or is another kind of file.
    """
    _check_mode(os.stat(path).st_mode, path)


def check_regular_files(directory: str | Path) -> None:
    """Check that a directory and its subdirectories contain only regular files, before a library reads all of them.

    Hidden files and directories are not checked, and links to directories are not followed, because the libraries read
    neither. A link that leads nowhere is accepted: opening it is an error, and not a wait.

    Args:
        directory (`str | Path`): the directory.

    Raises:
        OSError: one of its files is a pipe, a device or a socket, or a link to one.
    """
    list_regular_files(directory)


def list_regular_files(directory: str | Path, *, follow_links: bool = False) -> list[Path]:
    """Return the paths of all files in a directory and its subdirectories, in no particular order.

    Args:
        directory (`str | Path`): the directory. As for `check_regular_files`, hidden files, and broken links, are left
            out.
        follow_links (`bool`, *optional*): include the files in linked directories; each directory is listed once.

    Raises:
        OSError: as for `check_regular_files`.
    """
    paths, listed = [], set[str]()
    for parent, directories, names in os.walk(directory, followlinks=follow_links):
        if (real_path := os.path.realpath(parent)) in listed:  # a link to it was followed before
            directories.clear()
            continue
        listed.add(real_path)
        directories[:] = sorted(filter(_is_visible, directories))
        for name in filter(_is_visible, names):
            path = os.path.join(parent, name)
            if (mode := _stat_mode(path)) is None:
                continue
            if not stat.S_ISREG(mode):
                raise _make_error(mode, path, f"{os.path.relpath(path, directory)} is ")
            paths.append(Path(path))
    return paths


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Args:
        path (`str | Path`): the path.

    Raises:
        OSError: the path does not exist, is a link to itself, or is another kind of file.
    """
    check_regular(path)  # before it is opened: opening a device may already have an effect
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  # callers close it
    try:
        _check_mode(os.fstat(file.fileno()).st_mode, path)  # again, because the path may have been replaced
    except BaseException:
        file.close()
        raise
    return file


def hash_regular(path: str | Path) -> str:
    """Return the SHA-256 of the content of a regular file, as hex digits.

    Args:
        path (`str | Path`): the path.

    Raises:
        OSError: the file cannot be opened (see `open_regular`) or read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_stamp(path: str | Path) -> tuple[int, ...] | None:
    """Return numbers that change if the content of a file does: size, inode, and time of modification and of change.

    The time of change cannot be set by a program, so that `cp -p` and `tar` do not hide a change. The result is None
    for a file that was changed in the last two seconds, because it may change again at what counts as the same time.

    Args:
        path (`str | Path`): the path.

    Raises:
        OSError: the path does not exist.
    """
    info = os.stat(path)
    is_settled = time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) > _SETTLED_NS
    return (info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns) if is_settled else None


def read_regular(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path (`str | Path`): the path.
        max_bytes (`int`, *optional*, defaults to 64 MiB): size of the largest file that is read.

    Raises:
        OSError: the file cannot be opened (see `open_regular`) or read, or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= max_bytes else b""
        # Files such as those in /proc have another size than they state.
        while size < len(data) <= max_bytes and (chunk := file.read(_CHUNK_BYTES)):
            data += chunk
    if max(size, len(data)) > max_bytes:
        raise OSError(errno.EFBIG, f"too large, more than {max_bytes:,} bytes", str(path))
    return data


def read_regular_text(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """Return the content of a regular file in UTF-8.

    Args:
        path (`str | Path`): the path.
        max_bytes (`int`, *optional*, defaults to 64 MiB): size of the largest file that is read.
        errors (`str`, *optional*, defaults to `"strict"`): what to do with undecodable bytes, as for `bytes.decode`.

    Raises:
        OSError: as for `read_regular`.
        UnicodeDecodeError: the content is not UTF-8, and `errors` is `"strict"`.
    """
    data = read_regular(path, max_bytes=max_bytes)
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", errors).read()  # all line ends become \n, as in a text file


def describe_kind(path: str | Path) -> str:
    """Return `regular file`, `directory`, `broken link`, `named pipe`, `device`, `socket` or `special file`.

    Args:
        path (`str | Path`): the path. A link is described as what it leads to.
    """
    mode = _stat_mode(path)
    return "broken link" if mode is None else _describe_mode(mode)


def resolve(path: str | Path) -> Path:
    """Return the absolute path without links. Unlike `Path.resolve`, it raises no error for a link to itself.

    Args:
        path (`str | Path`): the path, which need not exist.
    """
    return Path(os.path.realpath(path))


def _stat_mode(path: str | Path) -> int | None:
    """Return the mode of what a path leads to, or None if it leads nowhere: to a missing file, or to itself."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return None


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _check_mode(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise _make_error(mode, path)


def _make_error(mode: int, path: str | Path, subject: str = "") -> OSError:
    return PermissionError(errno.EPERM, f"{subject}a {_describe_mode(mode)}, not a regular file", str(path))


def _describe_mode(mode: int) -> str:
    return "regular file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "special file")


def _open_without_waiting(path: str, flags: int) -> int:
    # The flags have no effect on regular files. Windows has neither of them.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
