"""Which file system a path lies on: SQLite's write-ahead log needs memory that its users share, and so one machine.

In: a path, there already or not. Out: the name of the network file system under it, or None.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")

# Several machines may write to these at once. Names without `fuse.` in front. 9p and virtiofs are not among them: all
# that a sandbox or a small virtual machine has (gVisor, Kata) may be one, used by a single kernel.
_NETWORK: Final = frozenset(
    "acfs afs beegfs ceph cifs coda davfs gcsfuse gfs gfs2 glusterfs goofys gpfs juicefs lustre mfs ncpfs nfs nfs4 "
    "ocfs2 orangefs panfs pvfs2 rclone s3fs smb3 smbfs sshfs wekafs".split()
)
# ID PARENT DEVICE ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE OPTIONS (proc_pid_mountinfo(5))
_MOUNT: Final = re.compile(r"^(?:[^ \n]+ ){4}(?P<point>[^ \n]+) .*? - (?P<kind>[^ \n]+) ", re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def on_network_file_system(path: str | Path, *, mountinfo: str | None = None) -> str | None:
    """Return the type of the network file system that `path` lies on, such as `nfs4`, `cifs` or `fuse.sshfs`.

    Args:
        path (`str | Path`): a file or folder, which need not exist yet.
        mountinfo (`str`, *optional*, defaults to this process's): the text of Linux's /proc/PID/mountinfo.

    Returns:
        The type as the kernel writes it, or None: a local disk, or a system that does not tell (not Linux).
    """
    # First the path, as walking along it may mount something.
    real = Path(path).resolve()
    if mountinfo is None:
        try:
            mountinfo = os.fsdecode(MOUNTS.read_bytes())
        except OSError:
            return None
    above = {real, *real.parents}
    # Of two mounts on one folder the later one covers the earlier; `max` returns the first of equals.
    found = [(point, kind) for point, kind in _mounts(mountinfo) if point in above][::-1]
    _, kind = max(found, key=lambda mount: len(mount[0].parts), default=(real, ""))
    return kind if kind.removeprefix("fuse.") in _NETWORK else None


def _mounts(mountinfo: str) -> Iterator[tuple[Path, str]]:
    """Yield (mount point, type) in the order in which they were mounted."""
    for mount in _MOUNT.finditer(mountinfo):
        yield Path(_ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), mount["point"])), mount["kind"]
