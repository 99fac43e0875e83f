"""The folder in which a run on Ray is collected: held by one process at a time, and cut in one way for good.

In: the folder and the number of shards. Out: the name by which machines know the run.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from compact_hf.errors import JournalError, UsageError

RUN_FILE: Final = "ray-run.json"
_LOCK_NAME: Final = "ray-run.lock"


@contextmanager
def held(out: Path, shards: int) -> Iterator[str]:
    """Hold the folder for this process, and yield the name by which machines know the run; a new one gets one.

    Raises:
        UsageError: the folder holds something else, or the run was cut in another way.
        JournalError: another process works on it, or it cannot be written.
    """
    file = out / RUN_FILE
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder that is new, empty, or an earlier run on Ray")
    if out.is_dir() and not file.exists() and any(entry.name != _LOCK_NAME for entry in out.iterdir()):
        raise UsageError(
            f"--out {out} already holds something that is not a run on Ray (no {RUN_FILE}); give a new or empty folder"
        )
    lock = FileLock(out / _LOCK_NAME)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise JournalError(f"another process is working on {out}; wait for it, or give another --out") from None
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        if not file.exists():
            _write_run_file(file, shards)
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["shards"] != shards:
            raise UsageError(
                f"{out} was cut into {held['shards']} shards, now {shards}; "
                f"give --shards {held['shards']} to go on with it, or choose another --out"
            )
        yield held["run"]
    finally:
        lock.release()


def _write_run_file(file: Path, shards: int) -> None:
    # The name is not made of the settings: a run that was deleted and is begun again is another one.
    new = file.with_suffix(".new")
    try:
        new.write_text(json.dumps({"run": uuid.uuid4().hex, "shards": shards}), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise unwritable(file.parent, error) from error


def unwritable(out: Path, error: OSError) -> JournalError:
    """Return what to raise where the folder cannot be written."""
    return JournalError(f"cannot write to {out}: {error.strerror}; make room there, or give another --out")
