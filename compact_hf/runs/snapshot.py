"""Copies a journal to another machine as bytes, also while a process writes to it.

A snapshot is a complete journal in one file. It needs no write-ahead log, and can be read on any file system.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from compact_hf.errors import JournalError
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.journal_file import transaction, upgrade
from compact_hf.storage import atomic_file

_TABLES: Final = ("looks", "replies", "unused", "outcomes")
# The tables of a journal of version 2.
_OLD_TABLES: Final = ("looks", "replies", "outcomes")
# The two bytes of SQLite's file header with the write and read format versions: 1 is the rollback journal, 2 is WAL
# (sqlite.org/fileformat2.html). With 1, SQLite expects no write-ahead log.
_WAL_FLAGS: Final = slice(18, 20)
_NO_WAL: Final = b"\1\1"


def take_snapshot(run: Path) -> bytes:
    """Return the current contents of a run's journal, including those that are still in its write-ahead log.

    Args:
        run (`Path`): the run directory.

    Raises:
        sqlite3.DatabaseError: the run has no journal, or it cannot be read.
    """
    with closing(sqlite3.connect(f"{(run / FILE_NAME).absolute().as_uri()}?mode=ro", uri=True)) as journal:
        data = bytearray(journal.serialize())
    data[_WAL_FLAGS] = _NO_WAL
    return bytes(data)


def write_snapshot(data: bytes, run: Path) -> None:
    """Write a snapshot as the journal of a run directory, replacing the existing journal atomically.

    Args:
        data (`bytes`): the snapshot.
        run (`Path`): the run directory, which is created if needed.

    Raises:
        OSError: the directory cannot be written.
    """
    with atomic_file(run / FILE_NAME) as temp_file, temp_file.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def add_snapshot(data: bytes, run: Path) -> None:
    """Add the rows of a snapshot to a run directory that holds more, fewer or no rows of the same run.

    Rows about the same request or image have the same key in both, so the union of the rows is a valid journal.

    Args:
        data (`bytes`): the snapshot.
        run (`Path`): the run directory, which is created if needed.

    Raises:
        JournalError: the directory cannot be written.
    """
    file = run / FILE_NAME
    try:
        if _has_tables(file):
            _insert(data, file)
        else:
            # SQLite would apply a leftover write-ahead log to the new file.
            for suffix in ("-wal", "-shm"):
                file.with_name(f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
            write_snapshot(data, run)
    except (OSError, sqlite3.DatabaseError) as error:
        raise JournalError(
            f"{file} cannot be written ({error}): free some space there and run the same command again"
        ) from error


def _insert(data: bytes, file: Path) -> None:
    """Insert the rows of a snapshot that a journal lacks, in one transaction."""
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as journal,
        closing(sqlite3.connect(":memory:")) as snapshot,
    ):
        snapshot.deserialize(data)
        upgrade(snapshot)
        upgrade(journal)
        with transaction(journal):
            for table in _TABLES:
                for row in snapshot.execute(f"SELECT * FROM {table}"):
                    journal.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            # An attempt that became the reply in one of the two is still unused in the other.
            journal.execute("DELETE FROM unused WHERE (key, at) IN (SELECT key, at FROM replies)")


def _has_tables(file: Path) -> bool:
    """Return whether a file is a journal with all its tables; a kill may have left an empty file."""
    if not file.is_file():
        return False
    with closing(sqlite3.connect(file)) as journal:
        try:
            tables = {name for (name,) in journal.execute("SELECT name FROM sqlite_master")}
        except sqlite3.DatabaseError:
            return False
    return tables.issuperset(_OLD_TABLES)
