"""A journal as bytes, taken while it is written to: to bring it from one machine's disk to another's.

In: a run folder, or bytes and where they shall be a run. What a snapshot holds is a journal of its own: one file that
needs neither a log beside it nor a local disk to be read.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from compact_hf.errors import JournalError
from compact_hf.runs.journal import FILE_NAME
from compact_hf.storage import atomic_file

_TABLES: Final = ("looks", "replies", "outcomes")
# The two bytes of the file's header that say whether a write-ahead log belongs to it; 1 is no (sqlite.org/fileformat2).
_WAL_FLAGS: Final = slice(18, 20)
_NO_WAL: Final = b"\1\1"


def take_snapshot(run: Path) -> bytes:
    """Return the run's journal as it stands, what is still in its log included.

    Raises:
        sqlite3.DatabaseError: there is none, or it cannot be read.
    """
    with closing(sqlite3.connect(f"{(run / FILE_NAME).absolute().as_uri()}?mode=ro", uri=True)) as journal:
        data = bytearray(journal.serialize())
    data[_WAL_FLAGS] = _NO_WAL
    return bytes(data)


def write_snapshot(data: bytes, run: Path) -> None:
    """Make `run` a run folder with this journal, in place of the one it holds; it is there completely or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    with atomic_file(run / FILE_NAME) as temp_file, temp_file.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def add_snapshot(data: bytes, run: Path) -> None:
    """Bring what a snapshot knows into a run folder that may hold more, less, or nothing of the same run.

    Both tell of the same requests by the same keys, so that together they are a journal again.

    Raises:
        JournalError: the folder cannot be written.
    """
    file = run / FILE_NAME
    try:
        if _has_tables(file):
            _insert(data, file)
        else:
            # A log without its journal would be taken for this one's.
            for suffix in ("-wal", "-shm"):
                file.with_name(f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
            write_snapshot(data, run)
    except (OSError, sqlite3.DatabaseError) as error:
        raise JournalError(f"{file} cannot be written ({error}); make room there and run the same command") from error


def _insert(data: bytes, file: Path) -> None:
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as journal,
        closing(sqlite3.connect(":memory:")) as snapshot,
    ):
        snapshot.deserialize(data)
        journal.execute("BEGIN")
        for table in _TABLES:
            for row in snapshot.execute(f"SELECT * FROM {table}"):
                journal.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        journal.execute("COMMIT")


def _has_tables(file: Path) -> bool:
    """Return whether a journal can be added to: a kill may have left an empty file."""
    if not file.is_file():
        return False
    with closing(sqlite3.connect(file)) as journal:
        try:
            tables = {name for (name,) in journal.execute("SELECT name FROM sqlite_master")}
        except sqlite3.DatabaseError:
            return False
    return tables.issuperset(_TABLES)
