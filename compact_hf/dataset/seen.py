"""What assembly has seen of pictures, kept in a file of the run folder: whatever is made of it, none is decoded twice.

In: items and what tells their pictures apart. Out: what a first look at each found, as JSON; from the file where an
earlier call has looked, also one that was killed. The journal has the looks of `compact generate`; here are those that
only assembly needs: of the instruction part's pictures, and what pictures look like.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from compact_hf.errors import JournalError
from compact_hf.storage import on_network_file_system, prefetch

T = TypeVar("T")

FILE_NAME: Final = "looks.sqlite"
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS looks (picture TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID"


class Seen:
    """Looks that are kept; the file is made when the first is.

    Args:
        folder (`Path`, *optional*): where the file lies. Without it looks are kept in memory, and so they are where
            nothing can be written, or on a network file system, on which SQLite's locks cannot be relied on.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = ":memory:"
        if folder is not None and os.access(folder, os.W_OK) and on_network_file_system(folder) is None:
            self._file = str(folder / FILE_NAME)
        self._db: sqlite3.Connection | None = None

    def looked(
        self, items: Iterable[T], picture: Callable[[T], str | None], look: Callable[[T], str | None]
    ) -> Iterator[tuple[T, str | None]]:
        """Yield each item, in order, with what a look at its picture found.

        Args:
            picture (`Callable[[T], str | None]`): what tells an item's picture from others: the hash of its content, or
                its place and stamp. None where it has none; such an item comes with None.
            look (`Callable[[T], str | None]`): called in a thread for pictures that were not seen yet; JSON, or None
                for what is not to be kept. What it raises is raised here.

        Raises:
            JournalError: the file is damaged, or the disk is full.
        """

        def known() -> Iterator[tuple[T, str | None, str | None]]:
            for item in items:
                name = picture(item)
                yield item, name, None if name is None else self._found(name)

        def found(of: tuple[T, str | None, str | None]) -> str | None:
            item, name, body = of
            return body if body is not None or name is None else look(item)

        for (item, name, before), body in prefetch(known(), found):
            if name is not None and before is None and body is not None:
                with self._open() as db:
                    db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?)", (name, body))
            yield item, body

    def _found(self, picture: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT body FROM looks WHERE picture = ?", (picture,)).fetchone()
        return str(row[0]) if row else None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._db is None:
                # Autocommit: what was seen stays seen, whatever comes.
                self._db = sqlite3.connect(self._file, isolation_level=None, timeout=10, check_same_thread=False)
                weakref.finalize(self, self._db.close)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute(_SCHEMA)
            yield self._db
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"{self._file} cannot be used ({error}); make room, or delete it: it only saves time"
            ) from error
