"""Putting a whole folder in place at once: a release is there completely, or not at all.

The new folder is built in a hidden sibling of `out` (same file system, so that a rename is enough) which also
holds the lock and, for a moment, the folder that is replaced. A kill leaves `out` as it was or as it will be;
the next call clears what was left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compact_hf.errors import ReleaseError


@contextmanager
def replacing(out: Path, *, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `out` if the block ends without an exception.

    Args:
        out (`Path`): may exist if it is an empty folder, or one that `ours` accepts: that one is replaced.
        ours (`Callable[[Path], bool]`): whether a folder that stands there may be replaced.

    Raises:
        ReleaseError: `out` holds something else, or another process is writing it.
        OSError: the folder cannot be made or renamed.
    """
    from filelock import FileLock, Timeout

    out = Path(os.path.abspath(out))  # `..` has no name to put a sibling beside
    work = out.parent / f".{out.name}.writing"
    new, old = work / "new", work / "old"
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            try:
                _put_back(old, out)  # a kill between the two renames below left it there
                _refuse_other(out, ours)
                for left in (old, new):
                    shutil.rmtree(left, ignore_errors=True)
                new.mkdir()
                yield new
                _refuse_other(out, ours)  # it may have changed in the meantime
                if out.exists():
                    out.rename(old)
                new.rename(out)
            finally:
                _put_back(old, out)
                shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise ReleaseError(f"{out} is being written by another process; wait for it or choose another --out") from None


def _put_back(old: Path, out: Path) -> None:
    if old.exists() and not out.exists():
        old.rename(out)


def _refuse_other(out: Path, ours: Callable[[Path], bool]) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise ReleaseError(f"{out} is not a folder; a release is written to a new folder, choose another --out")
    if any(out.iterdir()) and not ours(out):
        raise ReleaseError(
            f"{out} holds something other than an earlier release, and would be lost; "
            "choose an --out that is new, empty, or a release without other files"
        )
