"""SQLite under a journal: how its file is opened, and its errors as one line that says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compact_hf.errors import JournalError

FILE_NAME: Final = "journal.sqlite"


@contextmanager
def spoken(run: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        said = str(error)
        if "full" in said or "disk I/O" in said:
            told = f"the disk under {run} is full or failing ({said}); make room and run the same command"
        elif "locked" in said:
            told = f"another process holds {run} ({said}); wait for it and run the same command"
        elif "unable to open" in said or "readonly" in said:
            told = f"{run / FILE_NAME} cannot be opened ({said}); let it and its folder be read and written"
        else:
            told = f"{run / FILE_NAME} is damaged ({said}); restore it from a copy, or give another --out"
        raise JournalError(told) from error


def connect(run: Path, mode: str) -> sqlite3.Connection:
    """Open the journal of a run folder; `mode` as in SQLite's URIs, `rwc` also sets the file up for a writer.

    Raises:
        JournalError: it cannot be opened, or is no SQLite file.
    """
    with spoken(run):
        uri = f"{(run / FILE_NAME).absolute().as_uri()}?mode={mode}"
        # Autocommit: every write is its own transaction, on disk before it counts. One thread at a time uses it, not
        # always the same: what is long to read at the start of a run is read beside the event loop.
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10, check_same_thread=False)
        try:
            if mode == "rwc":
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                # Whoever writes would now and then wait for the disk; `Journal.checkpoint` waits instead.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError:
            connection.close()
            raise
    return connection
