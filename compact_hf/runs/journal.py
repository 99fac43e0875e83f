"""The journal: one SQLite file per run that holds all that was seen, asked and answered. The run directory is the run.

Whatever is written here survives a kill at any moment (WAL, one transaction a write), and whatever is found here is
never asked again. A power cut may cost the last replies, never the file. Values are JSON; the journal knows neither
capabilities nor methods.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compact_hf.errors import JournalError
from compact_hf.images.reasons import ImageReason
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import ImageInfo, Reject, from_json, to_json
from compact_hf.storage import get_network_file_system
from compact_hf.teachers.base import Reply, Role

FILE_NAME: Final = "journal.sqlite"


@contextmanager
def translate_sqlite_errors(run: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        reason = str(error)
        if "full" in reason or "disk I/O" in reason:
            message = f"the disk under {run} is full or failing ({reason}); make room and run the same command"
        elif "locked" in reason:
            message = f"another process holds {run} ({reason}); wait for it and run the same command"
        elif "unable to open" in reason or "readonly" in reason:
            message = f"{run / FILE_NAME} cannot be opened ({reason}); let it and its folder be read and written"
        else:
            message = f"{run / FILE_NAME} is damaged ({reason}); restore it from a copy, or give another --out"
        raise JournalError(message) from error


def connect(run: Path, mode: str) -> sqlite3.Connection:
    """Open the journal of a run folder; `mode` as in SQLite's URIs, `rwc` also sets the file up for a writer.

    Raises:
        JournalError: it cannot be opened, or is no SQLite file.
    """
    with translate_sqlite_errors(run):
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


JOURNAL_VERSION: Final = 2
# WITHOUT ROWID where rows are short only: there a row over a quarter of a page takes a page of its own.
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE looks (ref TEXT PRIMARY KEY, stamp TEXT NOT NULL, image_id TEXT, body TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX looks_by_image ON looks (image_id, ref);
CREATE TABLE replies (
    key TEXT PRIMARY KEY, image_id TEXT NOT NULL, role TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL
);
CREATE TABLE outcomes (
    image_id TEXT PRIMARY KEY, ref TEXT NOT NULL, accepted INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """An image that is done: which image it was, what became of it (JSON), and how many questions of it are kept."""

    image_id: str
    ref: str
    body: str
    accepted: int


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What one model was asked in one role on one day (`YYYY-MM-DD`, UTC), and the tokens that it billed."""

    role: Role
    model: str
    day: str
    requests: int
    input_tokens: int
    output_tokens: int


class Journal:
    """A run folder's journal, open for writing (`open`) or for reading beside a writer (`read`)."""

    def __init__(self, run: Path, connection: sqlite3.Connection) -> None:
        self.run = run
        self._db = connection
        self._exit_stack = ExitStack()

    @classmethod
    def open(cls, run: Path, identity: Mapping[str, Any]) -> Self:
        """Start a run in the folder `run`, or go on with the one that is there.

        Args:
            identity (`Mapping[str, Any]`): the settings that decide what is asked; JSON values.

        Raises:
            SettingsMismatchError: the folder holds a run with another identity.
            JournalError: another process writes to it, or it is damaged, full, or of another version.
            UsageError: the folder holds something that is not a run.
        """
        directory = OutputDirectory(run, "a run", FILE_NAME, lock_name="journal.lock", error_type=JournalError)
        directory.claim()
        if (kind := get_network_file_system(run)) is not None:
            raise JournalError(
                f"--out {run} lies on a network file system ({kind}), where SQLite's write-ahead log does not work; "
                "give an --out on a local disk, such as $TMPDIR/run, and copy the folder afterwards"
            )
        with ExitStack() as stack:
            stack.enter_context(directory.lock())
            journal = cls(run, stack.enter_context(closing(connect(run, "rwc"))))
            with journal._translate_errors():
                journal._start_or_check(directory, identity)
            journal._exit_stack = stack.pop_all()
        return journal

    @classmethod
    def read(cls, run: Path) -> Self:
        """Open a run to look at it, also while another process writes. Nothing is changed.

        Raises:
            JournalError: there is no run in the folder, or it is damaged or of another version.
        """
        file = run / FILE_NAME
        if not file.is_file():
            raise JournalError(
                f"{run} is not a run (no {FILE_NAME}); give the folder that `compact generate --out` made"
            )
        wal_file = run / f"{FILE_NAME}-wal"
        is_checkpointed = not (wal_file.exists() and wal_file.stat().st_size)
        try:
            # For writing, or SQLite would leave its two side files behind.
            mode = "ro&immutable=1" if is_checkpointed and get_network_file_system(run) else "rw"
            journal = cls(run, connect(run, mode))
        except JournalError:
            if not is_checkpointed:
                raise
            # Where nothing can be written, SQLite only reads a file that nobody writes to either.
            journal = cls(run, connect(run, "ro&immutable=1"))
        try:
            with journal._translate_errors():
                journal._check_version()
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def checkpoint(self, *, is_last: bool = False) -> None:
        """Bring what the log holds into the file, beside whoever writes. It takes as long as the disk takes.

        Args:
            is_last (`bool`, *optional*, defaults to `False`): also empty the log, so that `close` has nothing left to
                do; for use after the last write.

        Raises:
            JournalError: the disk is full or failing; the log still holds everything.
        """
        with self._translate_errors(), closing(connect(self.run, "rw")) as connection:
            connection.execute("PRAGMA busy_timeout = 0")  # do not wait for readers
            connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if is_last else 'PASSIVE'})")

    def close(self) -> None:
        """Close the file and let other processes have the run."""
        self._db.close()
        self._exit_stack.close()

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the run was started with."""
        identity: dict[str, Any] = json.loads(self._read_meta("identity"))
        return identity

    def inspections(self) -> dict[str, tuple[str, str | None]]:
        """Return ref -> (stamp, id of the image that was seen there), the id None for what cannot be used."""
        return {ref: (stamp, image_id) for ref, stamp, image_id in self._rows("SELECT ref, stamp, image_id FROM looks")}

    def record_inspection(self, ref: str, stamp: str, result: ImageInfo | Reject) -> None:
        """Keep what was seen at `ref` while its stamp (size and time) was this."""
        image_id = result.image_id if isinstance(result, ImageInfo) else None
        self._write("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?)", (ref, stamp, image_id, to_json(result)))

    def image_rejects(self) -> Iterator[Reject]:
        """Yield the rejects among the images, files with the same content as an earlier one included."""
        for (body,) in self._rows("SELECT body FROM looks WHERE image_id IS NULL ORDER BY ref"):
            yield from_json(Reject, body)
        query = (
            "SELECT looks.ref, first.ref FROM looks JOIN "
            "(SELECT image_id, min(ref) AS ref FROM looks GROUP BY image_id) AS first USING (image_id) "
            "WHERE looks.ref != first.ref ORDER BY looks.ref"
        )
        for ref, first_ref in self._rows(query):
            yield Reject("picture", ImageReason.DUPLICATE, ref, f"same content as {first_ref}")

    def get_image(self, image_id: str, ref: str) -> ImageInfo | None:
        """Return the image with this id, seen at `ref` or else elsewhere; None where it was not there any more."""
        with self._translate_errors():
            row = self._db.execute(
                "SELECT body FROM looks WHERE image_id = ? ORDER BY ref != ?, ref LIMIT 1", (image_id, ref)
            ).fetchone()
        return from_json(ImageInfo, row[0]) if row else None

    def count_images(self) -> int:
        """Return how many different images were looked at and could be read."""
        return self._count("SELECT count(DISTINCT image_id) FROM looks")

    def get_reply(self, key: str) -> Reply | None:
        """Return the journalled reply to a request, if there is one."""
        with self._translate_errors():
            row = self._db.execute("SELECT body FROM replies WHERE key = ?", (key,)).fetchone()
        return from_json(Reply, row[0]) if row else None

    def record_reply(self, image_id: str, role: Role, reply: Reply) -> None:
        """Keep a reply. Once this returns, its request is never sent again."""
        row = reply.key, image_id, role, time.time(), to_json(reply)
        self._write("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)

    def replies(self) -> Iterator[tuple[str, Role, Reply]]:
        """Yield (image id, role, reply) in the order of their keys."""
        for image_id, role, body in self._rows("SELECT image_id, role, body FROM replies ORDER BY key"):
            yield image_id, role, from_json(Reply, body)

    def usage(self) -> list[TokenUsage]:
        """Return what was asked and billed so far, by role, model and day: prices change."""
        tokens = "sum(json_extract(body, '$.input_tokens')), sum(json_extract(body, '$.output_tokens'))"
        columns = "role, json_extract(body, '$.model') AS model, date(at, 'unixepoch') AS day"
        query = f"SELECT {columns}, count(*), {tokens} FROM replies GROUP BY role, model, day"
        return [TokenUsage(*row) for row in self._rows(query)]

    def finished_ids(self) -> set[str]:
        """Return the ids of the images that are done."""
        return {image_id for (image_id,) in self._rows("SELECT image_id FROM outcomes")}

    def record_outcome(self, finished_image: FinishedImage) -> None:
        """Keep what became of an image: it is done."""
        row = finished_image.image_id, finished_image.ref, finished_image.accepted, time.time(), finished_image.body
        self._write("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)", row)

    def counts(self) -> tuple[int, int, int]:
        """Return how many images are done, how many of them kept questions, and how many questions that were."""
        query = "SELECT count(*), coalesce(sum(accepted > 0), 0), coalesce(sum(accepted), 0) FROM outcomes"
        ((finished, kept, accepted),) = self._rows(query)
        return finished, kept, accepted

    def finish_times(self) -> list[float]:
        """Return when images were done, in seconds since 1970, in ascending order."""
        return [timestamp for (timestamp,) in self._rows("SELECT at FROM outcomes ORDER BY at")]

    def outcomes(self) -> Iterator[FinishedImage]:
        """Yield the images that are done in the order of their ids, a few in memory at a time."""
        for row in self._rows("SELECT image_id, ref, body, accepted FROM outcomes ORDER BY image_id"):
            yield FinishedImage(*row)

    def record_image_total(self, images: int) -> None:
        """Keep how many images are to be worked on in all, as the newest session knows it: for who reads beside."""
        self._write("INSERT OR REPLACE INTO meta VALUES ('pictures', ?)", (json.dumps(images),))

    def read_image_total(self) -> int | None:
        """Return how many images are to be worked on in all; None where no session has said so."""
        for (value,) in self._rows("SELECT value FROM meta WHERE name = 'pictures'"):
            return int(json.loads(value))
        return None

    def _start_or_check(self, directory: OutputDirectory, identity: Mapping[str, Any]) -> None:
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            meta = {"journal_version": JOURNAL_VERSION, "identity": dict(identity)}
            with self._db:
                # One transaction: a kill in here leaves an empty file, which the next start fills.
                self._db.execute("BEGIN")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
                self._db.executemany(
                    "INSERT INTO meta VALUES (?, ?)",
                    [(name, json.dumps(value, sort_keys=True)) for name, value in meta.items()],
                )
            return
        self._check_version()
        directory.check(self.identity, identity)

    def _check_version(self) -> None:
        try:
            version = json.loads(self._read_meta("journal_version"))
        except (sqlite3.OperationalError, TypeError):
            version = None
        if version != JOURNAL_VERSION:
            raise JournalError(
                f"{self.run} was written by another version (journal {version}, this one reads {JOURNAL_VERSION}); "
                "use the compact_hf that wrote it, or give another --out"
            )

    def _read_meta(self, name: str) -> str:
        (value,) = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(value)

    def _count(self, query: str) -> int:
        with self._translate_errors():
            return int(self._db.execute(query).fetchone()[0])

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        with self._translate_errors():
            yield from self._db.execute(query)

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._translate_errors():
            self._db.execute(statement, values)

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_sqlite_errors(self.run)
