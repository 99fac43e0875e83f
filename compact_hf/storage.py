"""Writes files and directories atomically, checks free disk space, prefetches items in threads, and detects network
file systems.

A file or directory is either written completely or not at all. A new directory is built in a hidden directory beside
`out`, on the same file system, and then renamed. The hidden directory also contains the lock, which marks it as ours,
and, for a moment, the old directory. If the process is killed, `out` has either the old or the new contents, and the
next call removes the rest.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from compact_hf.errors import CompactError, ReleaseError
from compact_hf.wording import format_gigabytes

_TEMP_SUFFIX: Final = ".part"
_SHARED_TEMP_NAME: Final = re.compile(rf"\..+\.[0-9a-f]{{32}}{re.escape(_TEMP_SUFFIX)}")
_STALE_S: Final = 24 * 3600.0  # seconds; a temporary file that is older was left by a killed process


@contextmanager
def translate_disk_errors(
    error_type: type[CompactError], path: Path | str, advice: str, *, is_reading: bool = False
) -> Iterator[None]:
    """Replace errors of the file system inside the block by an error with a one-line message.

    Args:
        error_type (`type[CompactError]`): the class of the new error.
        path (`Path | str`): the path that is written or read, for the message.
        advice (`str`): the end of the message: what is unchanged, and what to do.
        is_reading (`bool`, *optional*, defaults to False): whether the block reads, instead of writing.

    Raises:
        CompactError: `error_type`, if the block raises OSError, or ValueError because of an impossible path.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and not is_impossible_path(error):
            raise
        verb = "read" if is_reading else "written"
        reason = getattr(error, "strerror", None) or error
        raise error_type(f"{path} cannot be {verb} ({reason}); {advice}") from error


def is_impossible_path(error: OSError | ValueError) -> bool:
    """Return whether an error was raised because a path is impossible: a name in it is too long, or has a null byte."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENAMETOOLONG, errno.EINVAL) and error.filename is not None
    return "embedded null" in str(error)


_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, and of limits on the space of a user and on the size of a file."""


def is_disk_full(error: OSError | ValueError) -> bool:
    """Return whether an error was raised because there is no space for a file."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def existing_parent(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def get_free_space(path: Path) -> int:
    """Return the free space on the disk of a path, in bytes; the path need not exist."""
    return shutil.disk_usage(existing_parent(path)).free


def check_free_space(
    path: Path, needed: int, *, error_type: type[CompactError], advice: str, details: str = ""
) -> None:
    """Raise if the disk of a path has too little free space.

    Args:
        path (`Path`): the file or directory that will be written; it need not exist.
        needed (`int`): bytes that will be written.
        error_type (`type[CompactError]`): the class of the error.
        advice (`str`): the end of the message: what to do.
        details (`str`, *optional*): what takes the space, in parentheses.

    Raises:
        CompactError: `error_type`, if fewer bytes are free.
    """
    free = get_free_space(path)
    if needed > free:
        raise error_type(
            f"not enough disk space: {path} needs about {format_gigabytes(needed)} GB{details}, and "
            f"{format_gigabytes(free)} GB are free on its disk; {advice}"
        )


@contextmanager
def atomic_file(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` if the block ends without an exception.

    Args:
        path (`Path`): the file to write; missing parent directories are created.
        is_shared (`bool`, *optional*, defaults to False): whether several processes or threads may write the file at
            the same time. Each then has its own temporary file, and the last one to finish replaces the others.
            Otherwise a temporary file that was left by a killed process is overwritten.

    Yields:
        `Path`: the temporary file, in the same directory.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    with _temporary_file(path, is_shared=is_shared) as temp_file:
        yield temp_file
        os.replace(temp_file, path)


@contextmanager
def _temporary_file(path: Path, *, is_shared: bool) -> Iterator[Path]:
    from uuid import uuid4

    path.parent.mkdir(parents=True, exist_ok=True)
    temp_file = path.with_name(f".{path.name}{f'.{uuid4().hex}' if is_shared else ''}{_TEMP_SUFFIX}")
    try:
        yield temp_file
    finally:
        temp_file.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file atomically; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    with atomic_file(path) as temp_file:
        temp_file.write_bytes(data.encode() if isinstance(data, str) else data)


def create_atomically(path: Path, text: str) -> None:
    """Write a text file atomically unless it exists. If several processes or machines create it, the first one wins.

    On a file system without hard links the last one wins.

    Raises:
        OSError: the file cannot be written.
    """
    with _temporary_file(path, is_shared=True) as temp_file:
        temp_file.write_text(text, encoding="utf-8")
        try:
            os.link(temp_file, path)
        except FileExistsError:
            return
        except OSError:
            os.replace(temp_file, path)


def remove_stale_parts(directory: Path) -> None:
    """Remove temporary files of `atomic_file(is_shared=True)` that killed processes left more than a day ago.

    Raises:
        OSError: the directory cannot be read or written.
    """
    oldest = time.time() - _STALE_S
    for file in directory.iterdir():
        with suppress(FileNotFoundError):  # another process may remove or rename it at the same time
            if _SHARED_TEMP_NAME.fullmatch(file.name) and file.stat().st_mtime < oldest:
                file.unlink()


def is_empty_directory(path: Path, *, besides: Collection[str] = ()) -> bool:
    """Return whether `path` is an empty directory.

    Args:
        path (`Path`): a path, which need not exist.
        besides (`Collection[str]`, *optional*): names of files to ignore. Temporary files of `atomic_file` are always
            ignored, because a killed process may have left them.
    """
    return path.is_dir() and all(
        file.name in besides or (file.name.startswith(".") and file.name.endswith(_TEMP_SUFFIX))
        for file in path.iterdir()
    )


_LOCK_NAME: Final = "compact_hf.lock"  # the first file of a hidden directory: it marks the directory as ours


@contextmanager
def hidden_directory(out: Path, *, error_type: type[CompactError] = ReleaseError) -> Iterator[Path]:
    """Yield a locked hidden directory beside `out` for the temporary files of one process.

    It is named `.NAME.writing`. A directory of this name is used only if it is new, empty, or was left by a killed
    process of this package, as its lock file shows. The caller removes its own files; then the directory is removed.

    Args:
        out (`Path`): the file or directory that is written, as an absolute path.
        error_type (`type[CompactError]`, *optional*, defaults to `ReleaseError`): the class of the error.

    Yields:
        `Path`: the hidden directory, on the same file system as `out`.

    Raises:
        CompactError: `error_type`, if the name is taken by something else, or another process writes `out`.
        OSError: the directory cannot be created.
    """
    from filelock import FileLock, Timeout

    directory = out.parent / f".{out.name}.writing"
    with suppress(FileExistsError):
        directory.mkdir(parents=True)
    lock_file = directory / _LOCK_NAME
    if directory.is_symlink() or not directory.is_dir() or not (lock_file.is_file() or not any(directory.iterdir())):
        raise error_type(
            f"{directory} is needed for temporary files and has other contents: rename it, or choose another --out"
        )
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise error_type(
            f"{out} is being written by another process: wait until it ends, or choose another --out"
        ) from None
    try:
        yield directory
    finally:
        lock_file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: another process or a user has put a file there
            directory.rmdir()
        lock.release()


@contextmanager
def replace_directory(
    out: Path, *, is_replaceable: Callable[[Path], bool], error_type: type[CompactError] = ReleaseError
) -> Iterator[Path]:
    """Yield an empty directory, which replaces `out` if the block ends without an exception.

    Args:
        out (`Path`): the directory to write. It may exist if it is empty, or if `is_replaceable` accepts it.
        is_replaceable (`Callable[[Path], bool]`): returns whether an existing directory may be replaced.
        error_type (`type[CompactError]`, *optional*, defaults to `ReleaseError`): the class of the error.

    Yields:
        `Path`: the directory to fill, on the same file system as `out`.

    Raises:
        CompactError: `error_type`, if `out` has contents that may not be replaced, the hidden directory beside it has
            other contents, or another process writes `out`.
        OSError: the directory cannot be created or renamed.
    """
    out = Path(os.path.abspath(out))  # a path such as `..` has no name from which to make that of the hidden directory
    with hidden_directory(out, error_type=error_type) as hidden:
        new, old = hidden / "new", hidden / "old"
        try:
            _put_back(old, out)  # an earlier process may have been killed between the two renames below
            _check_replaceable(out, is_replaceable, error_type)
            for leftover in (old, new):
                shutil.rmtree(leftover, ignore_errors=True)
            new.mkdir()
            yield new
            _check_replaceable(out, is_replaceable, error_type)  # it may have changed in the meantime
            if out.exists():
                out.rename(old)
            new.rename(out)
        finally:
            _put_back(old, out)
            for leftover in (old, new):
                shutil.rmtree(leftover, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    """Restore the old directory if it was moved away and the new one is not in its place."""
    if old.exists() and not out.exists():
        old.rename(out)


def _check_replaceable(out: Path, is_replaceable: Callable[[Path], bool], error_type: type[CompactError]) -> None:
    """Raise `error_type` if `out` exists and may not be replaced."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise error_type(f"{out} is not a directory: choose a new directory as --out")
    if not is_empty_directory(out) and not is_replaceable(out):
        raise error_type(
            f"{out} has contents other than an earlier release, which would be deleted: "
            "choose an --out that is new, empty, or a release without other files"
        )


T = TypeVar("T")
U = TypeVar("U")

_WORKERS: Final = 4
_CHUNK_SIZE: Final = 8  # items per task: submitting each item separately costs as much as hashing an image
_MAX_PENDING: Final = 32  # items that are submitted and not yet yielded; bounds the memory


def prefetch(items: Iterable[T], function: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Yield each item with the result of `function`, which runs in threads ahead of the consumer.

    Args:
        items (`Iterable[T]`): the items.
        function (`Callable[[T], U]`): called once for each item. Its exceptions are raised here.

    Yields:
        `tuple[T, U]`: item and result, in the order of the items.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    def run_chunk(chunk: list[T]) -> list[tuple[T, U]]:
        return [(item, function(item)) for item in chunk]

    pending: deque[Future[list[tuple[T, U]]]] = deque()
    iterator = iter(items)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="ahead") as pool:
        while next_chunk := list(islice(iterator, _CHUNK_SIZE)):
            pending.append(pool.submit(run_chunk, next_chunk))
            if len(pending) == _MAX_PENDING // _CHUNK_SIZE:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


MOUNTS: Final = Path("/proc/self/mountinfo")

# File systems that several machines may write at the same time; types without the prefix `fuse.`. 9p and virtiofs are
# left out: sandboxes and small virtual machines (gVisor, Kata) use them for local disks of a single kernel.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    "acfs afs beegfs ceph cifs coda davfs gcsfuse gfs gfs2 glusterfs goofys gpfs juicefs lustre mfs ncpfs nfs nfs4 "
    "ocfs2 orangefs panfs pvfs2 rclone s3fs smb3 smbfs sshfs wekafs".split()
)
# ID PARENT DEVICE ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE OPTIONS (proc_pid_mountinfo(5))
_MOUNT_LINE: Final = re.compile(r"^(?:[^ \n]+ ){4}(?P<point>[^ \n]+) .*? - (?P<kind>[^ \n]+) ", re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def get_network_file_system(path: str | Path, *, mountinfo: str | None = None) -> str | None:
    """Return the type of the network file system that contains `path`, such as `nfs4`, `cifs` or `fuse.sshfs`.

    Args:
        path (`str | Path`): a file or directory, which need not exist.
        mountinfo (`str`, *optional*, defaults to that of this process): the text of Linux's /proc/PID/mountinfo.

    Returns:
        `str | None`: the type as the kernel names it, or None if it is a local disk or the system is not Linux.
    """
    # Resolve the path before reading the mounts: resolving it may trigger an automatic mount.
    resolved = Path(path).resolve()
    if mountinfo is None:
        try:
            mountinfo = os.fsdecode(MOUNTS.read_bytes())
        except OSError:
            return None
    ancestors = {resolved, *resolved.parents}
    # If two file systems are mounted on the same directory, the later one hides the earlier one. The mounts are
    # reversed, so that `max`, which returns the first of equal items, finds the later one.
    mounts = [(point, file_system) for point, file_system in _iter_mounts(mountinfo) if point in ancestors][::-1]
    _, file_system = max(mounts, key=lambda mount: len(mount[0].parts), default=(resolved, ""))
    return file_system if file_system.removeprefix("fuse.") in _NETWORK_FILE_SYSTEMS else None


def _iter_mounts(mountinfo: str) -> Iterator[tuple[Path, str]]:
    """Yield the mount points with their types, in the order in which they were mounted."""
    for match in _MOUNT_LINE.finditer(mountinfo):
        yield Path(_ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), match["point"])), match["kind"]
