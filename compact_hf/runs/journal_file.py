"""Opens the SQLite file of a journal, creates its tables, upgrades older files, and finds damage.

Each row ends with a checksum of its other columns, so a row that a disk or a copy has changed is found. SQLite itself
finds damage to the structure of the file, such as a row that is missing.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError

JOURNAL_VERSION: Final = 3
# Written by compact_hf 0.1.0, without checksums.
_UNCHECKED_VERSION: Final = 2

# WITHOUT ROWID only for tables with short rows: in such a table, a row of over a quarter of a page needs a page of its
# own. `unused` has the columns of `replies`, so that rows can be moved; a request may have several such rows.
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE looks (
    ref TEXT PRIMARY KEY, stamp TEXT NOT NULL, image_id TEXT, body TEXT NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX looks_by_image ON looks (image_id, ref);
CREATE TABLE replies (
    key TEXT PRIMARY KEY, image_id TEXT NOT NULL, role TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE unused (
    key TEXT NOT NULL, image_id TEXT NOT NULL, role TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY (key, at)
);
CREATE TABLE outcomes (
    image_id TEXT PRIMARY KEY, ref TEXT NOT NULL, accepted INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
"""
_STATEMENTS: Final = tuple(statement.strip() for statement in _SCHEMA.split(";") if statement.strip())
# The tables that version 2 has too, with the same columns but the checksum.
_OLD_TABLES: Final = ("meta", "looks", "replies", "outcomes")
# table -> what its rows are, and what the same command does after a row was deleted
_ROWS: Final = {
    "looks": ("what is known of the image", "inspects the image again"),
    "replies": ("a reply about the image", "requests the reply again if it is needed"),
    "unused": ("an unusable reply about the image", "no longer counts the cost of this reply"),
    "outcomes": ("the outcome of the image", "computes the outcome again from the replies"),
}


def damaged_error(file: Path, reason: str) -> JournalError:
    """Return the error for a damaged journal.

    Args:
        file (`Path`): the journal.
        reason (`str`): what was found.
    """
    # SQLite quotes a text that is not UTF-8 in full.
    reason = " ".join(reason.partition(" with text ")[0].split())
    return JournalError(f"{file} is damaged ({reason}): restore it from a copy, or use another --out")


@contextmanager
def translate_sqlite_errors(file: Path) -> Iterator[None]:
    """Turn SQLite errors inside the block into a JournalError of one line that says what to do.

    Args:
        file (`Path`): the journal, for the message.

    Raises:
        JournalError: SQLite reported an error.
    """
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter if SQLite's message quotes damage
        reason = str(error)
        if "full" in reason or "disk I/O" in reason:
            message = (
                f"the disk of {file.parent} is full or failing ({reason}): "
                "free some space and run the same command again"
            )
        elif "locked" in reason:
            message = (
                f"another process uses {file.parent} ({reason}): wait until it ends and run the same command again"
            )
        elif "unable to open" in reason or "readonly" in reason:
            message = f"{file} cannot be opened ({reason}): make the file and its directory readable and writable"
        else:
            raise damaged_error(file, reason) from error
        raise JournalError(message) from error


def connect(file: Path, mode: str) -> sqlite3.Connection:
    """Open a journal and return the connection, in autocommit mode.

    Args:
        file (`Path`): the journal.
        mode (`str`): `mode` of SQLite's URIs, such as `rw` or `ro&immutable=1`; `rwc` also prepares the file for
            writing.

    Raises:
        JournalError: the file cannot be opened, or is not a SQLite file.
    """
    with translate_sqlite_errors(file):
        uri = f"{file.absolute().as_uri()}?mode={mode}"
        # Autocommit: every write is a transaction of its own. `check_same_thread=False`, because long reads at the
        # start of a run happen in a thread beside the event loop; only one thread uses the connection at a time.
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10, check_same_thread=False)
        try:
            if mode == "rwc":
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                # Automatic checkpoints would block some writes until the disk is done; `Journal.checkpoint` runs in a
                # thread instead.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("SELECT count(*) FROM sqlite_master")  # SQLite reads the file only at the first query
        except sqlite3.DatabaseError:
            connection.close()
            raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make the writes inside the block one transaction, which an error or a kill undoes.

    Args:
        connection (`sqlite3.Connection`): a connection in autocommit mode.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def add_checksum(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return the columns of a row with their checksum as the last one.

    Args:
        values (`Iterable[Any]`): the columns: texts, numbers or None.
    """
    row = tuple(values)
    return *row, _checksum(row)


def _checksum(values: Iterable[Any]) -> int:
    """Return the CRC-32 of the columns, in which their types and limits count too."""
    # Not `repr`, which is slow for long texts. No column contains the separator.
    text = "\0".join([value if isinstance(value, str) else f"\1{value!r}" for value in values])
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of a journal, empty but for its version; the caller begins and ends the transaction.

    Args:
        connection (`sqlite3.Connection`): connection to an empty file.
    """
    for statement in _STATEMENTS:
        connection.execute(statement)
    write_meta(connection, "journal_version", JOURNAL_VERSION)


def write_meta(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Store one value about the run as a whole.

    Args:
        connection (`sqlite3.Connection`): connection to a journal of the current version.
        name (`str`): its name.
        value (`Any`): a JSON value.
    """
    row = add_checksum((name, json.dumps(value, sort_keys=True)))
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", row)


def upgrade(connection: sqlite3.Connection) -> None:
    """Upgrade a journal of version 2 to the current version, in one transaction; change no other journal.

    Args:
        connection (`sqlite3.Connection`): connection to a journal, open for writing.
    """
    if _read_version(connection) != _UNCHECKED_VERSION:
        return
    with transaction(connection):
        # New tables, so that their definitions are the same in all files of a version.
        connection.execute("DROP INDEX looks_by_image")
        for table in _OLD_TABLES:
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        create_tables(connection)
        for table in _OLD_TABLES:
            rows = connection.execute(f"SELECT * FROM old_{table}")
            marks = ", ".join("?" * (len(rows.description) + 1))
            # Ignored is only the old version number.
            connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", map(add_checksum, rows))
            connection.execute(f"DROP TABLE old_{table}")


def add_missing_table(connection: sqlite3.Connection) -> None:
    """Give a journal of version 2 that is only read an empty table `unused`, in memory; the file is not changed.

    Args:
        connection (`sqlite3.Connection`): connection to a journal.
    """
    if _read_version(connection) == _UNCHECKED_VERSION:
        connection.execute(next(sql for sql in _STATEMENTS if " unused " in sql).replace("CREATE", "CREATE TEMP", 1))


def check(connection: sqlite3.Connection, file: Path) -> None:
    """Check the version of a journal, the structure of its file, and the checksum of each row, which version 2 lacks.

    Args:
        connection (`sqlite3.Connection`): connection to the journal.
        file (`Path`): its file, for messages.

    Raises:
        JournalError: the journal is of another version, or damaged.
    """
    version = _read_version(connection)
    if version not in (JOURNAL_VERSION, _UNCHECKED_VERSION):
        raise JournalError(
            f"{file.parent} was written by another version (journal {version}, this one reads {_UNCHECKED_VERSION} and "
            f"{JOURNAL_VERSION}): use the version of compact_hf that wrote it, or another --out"
        )
    (result,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if result != "ok":
        raise damaged_error(file, result)
    definitions = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql != '' ORDER BY rowid")]
    if version == _UNCHECKED_VERSION and not any("checksum" in sql for sql in definitions):
        return
    # A single bit makes version 3 version 2, or one column another.
    if version != JOURNAL_VERSION or definitions != list(_STATEMENTS):
        raise damaged_error(file, "the definitions of its tables have changed")
    for table in ("meta", *_ROWS):
        for *values, checksum in connection.execute(f"SELECT * FROM {table}"):
            if checksum != _checksum(values):
                raise _row_damage(file, table, values, checksum)


def _read_version(connection: sqlite3.Connection) -> Any:
    """Return the version of a journal, None if the file is something else."""
    try:
        (value,) = connection.execute("SELECT value FROM meta WHERE name = 'journal_version'").fetchone()
        return json.loads(value)
    except (sqlite3.OperationalError, TypeError, ValueError):
        return None


def _row_damage(file: Path, table: str, values: list[Any], checksum: Any) -> JournalError:
    """Return the error for a damaged row: which image it is about, and a command that deletes the row."""
    if table not in _ROWS or not isinstance(checksum, int):
        return damaged_error(file, f"a row of its table {table} does not match its checksum")
    subject, consequence = _ROWS[table]
    image = values[1] if table in ("replies", "unused") else values[0]
    command = f'python -m sqlite3 {shlex.quote(str(file))} "DELETE FROM {table} WHERE checksum = {checksum}"'
    return JournalError(
        f"{file} is damaged ({subject} {image} does not match its checksum): restore the file from a copy, or delete "
        f"this row by `{command}`; the same command then {consequence}"
    )
