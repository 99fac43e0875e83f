"""Files and directories that are written at once, ordered work in threads, and what kind of file system a path is on.

A file or a directory is there completely, or not at all. A new directory is built in a hidden sibling of `out` (same
file system, so that a rename is enough) which also holds the lock and, for a moment, the directory that is replaced. A
kill leaves `out` as it was or as it will be; the next call clears what was left.
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

_TEMP_SUFFIX: Final = ".part"
_SHARED_TEMP_NAME: Final = re.compile(rf"\..+\.[0-9a-f]{{32}}{re.escape(_TEMP_SUFFIX)}")
_STALE_S: Final = 24 * 3600.0  # the age in seconds from which no process still writes such a file


@contextmanager
def translate_disk_errors(
    error_type: type[CompactError], path: Path | str, advice: str, *, is_reading: bool = False
) -> Iterator[None]:
    """Say in one line what the disk refuses inside the block.

    Args:
        error_type (`type[CompactError]`): what is raised.
        path (`Path | str`): what cannot be written, or read.
        advice (`str`): what is left as it was, and what to do.
        is_reading (`bool`, *optional*, defaults to False): the block reads.
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
    """Return whether no file can have the path that was given: a part of it is too long, or it has a null byte."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENAMETOOLONG, errno.EINVAL) and error.filename is not None
    return "embedded null" in str(error)


@contextmanager
def atomic_file(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Give the path of a new file beside `path`, which replaces `path` if the block ends without an exception.

    Args:
        path (`Path`): the file; missing directories above it are made.
        is_shared (`bool`, *optional*, defaults to False): several processes or threads may write it at the same
            time, and the last one wins. Otherwise what a kill left over is written over by the next call.

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
    """Write a file, whole or not at all; text as UTF-8. Raises OSError as `atomic_file` does."""
    with atomic_file(path) as temp_file:
        temp_file.write_bytes(data.encode() if isinstance(data, str) else data)


def create_atomically(path: Path, text: str) -> None:
    """Write a file, whole or not at all, unless it exists: of several processes or machines the first one's stays.

    On a file system without hard links it is the last one's.

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
    """Remove what kills in `atomic_file(is_shared=True)` left in a directory more than a day ago.

    Raises:
        OSError: the directory cannot be read or written.
    """
    oldest = time.time() - _STALE_S
    for file in directory.iterdir():
        with suppress(FileNotFoundError):  # it may be removed, or renamed, at this moment
            if _SHARED_TEMP_NAME.fullmatch(file.name) and file.stat().st_mtime < oldest:
                file.unlink()


def is_empty_directory(path: Path, *, besides: Collection[str] = ()) -> bool:
    """Return whether `path` is a directory without files: none but `besides` and what a kill in `atomic_file` left."""
    return path.is_dir() and all(
        file.name in besides or (file.name.startswith(".") and file.name.endswith(_TEMP_SUFFIX))
        for file in path.iterdir()
    )


@contextmanager
def replace_directory(out: Path, *, is_replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `out` if the block ends without an exception.

    Args:
        out (`Path`): may exist if it is an empty folder, or one that `is_replaceable` accepts: that one is replaced.
        is_replaceable (`Callable[[Path], bool]`): whether a folder that stands there may be replaced.

    Raises:
        ReleaseError: `out` holds something else, or another process is writing it.
        OSError: the folder cannot be made or renamed.
    """
    from filelock import FileLock, Timeout

    out = Path(os.path.abspath(out))  # `..` has no name to put a sibling beside
    staging = out.parent / f".{out.name}.writing"
    new, old = staging / "new", staging / "old"
    staging.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(staging / "lock", timeout=0):
            try:
                _put_back(old, out)  # a kill between the two renames below left it there
                _check_replaceable(out, is_replaceable)
                for leftover in (old, new):
                    shutil.rmtree(leftover, ignore_errors=True)
                new.mkdir()
                yield new
                _check_replaceable(out, is_replaceable)  # it may have changed in the meantime
                if out.exists():
                    out.rename(old)
                new.rename(out)
            finally:
                _put_back(old, out)
                shutil.rmtree(staging, ignore_errors=True)
    except Timeout:
        raise ReleaseError(f"{out} is being written by another process; wait for it or choose another --out") from None


def _put_back(old: Path, out: Path) -> None:
    if old.exists() and not out.exists():
        old.rename(out)


def _check_replaceable(out: Path, is_replaceable: Callable[[Path], bool]) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise ReleaseError(f"{out} is not a folder; a release is written to a new folder, choose another --out")
    if not is_empty_directory(out) and not is_replaceable(out):
        raise ReleaseError(
            f"{out} holds something other than an earlier release, and would be lost; "
            "choose an --out that is new, empty, or a release without other files"
        )


T = TypeVar("T")
U = TypeVar("U")

_WORKERS: Final = 4
_CHUNK_SIZE: Final = 8  # items: handing over each by itself costs as much as hashing an image
_MAX_PENDING: Final = 32  # items that may be finished and wait for their turn


def prefetch(items: Iterable[T], function: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Yield each item with what `function` makes of it in a thread, in order; what `function` raises is raised here."""
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

# Several machines may write to these at once. Names without `fuse.` in front. 9p and virtiofs are not among them: all
# that a sandbox or a small virtual machine has (gVisor, Kata) may be one, used by a single kernel.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    "acfs afs beegfs ceph cifs coda davfs gcsfuse gfs gfs2 glusterfs goofys gpfs juicefs lustre mfs ncpfs nfs nfs4 "
    "ocfs2 orangefs panfs pvfs2 rclone s3fs smb3 smbfs sshfs wekafs".split()
)
# ID PARENT DEVICE ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE OPTIONS (proc_pid_mountinfo(5))
_MOUNT_LINE: Final = re.compile(r"^(?:[^ \n]+ ){4}(?P<point>[^ \n]+) .*? - (?P<kind>[^ \n]+) ", re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def get_network_file_system(path: str | Path, *, mountinfo: str | None = None) -> str | None:
    """Return the type of the network file system that `path` lies on, such as `nfs4`, `cifs` or `fuse.sshfs`.

    Args:
        path (`str | Path`): a file or folder, which need not exist yet.
        mountinfo (`str`, *optional*, defaults to this process's): the text of Linux's /proc/PID/mountinfo.

    Returns:
        The type as the kernel writes it, or None: a local disk, or a system that does not tell (not Linux).
    """
    # First the path, as walking along it may mount something.
    resolved = Path(path).resolve()
    if mountinfo is None:
        try:
            mountinfo = os.fsdecode(MOUNTS.read_bytes())
        except OSError:
            return None
    ancestors = {resolved, *resolved.parents}
    # Of two mounts on one folder the later one covers the earlier; `max` returns the first of equals.
    mounts = [(point, file_system) for point, file_system in _iter_mounts(mountinfo) if point in ancestors][::-1]
    _, file_system = max(mounts, key=lambda mount: len(mount[0].parts), default=(resolved, ""))
    return file_system if file_system.removeprefix("fuse.") in _NETWORK_FILE_SYSTEMS else None


def _iter_mounts(mountinfo: str) -> Iterator[tuple[Path, str]]:
    """Yield (mount point, type) in the order in which they were mounted."""
    for match in _MOUNT_LINE.finditer(mountinfo):
        yield Path(_ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), match["point"])), match["kind"]
