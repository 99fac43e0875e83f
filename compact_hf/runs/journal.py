"""Stores the state of a run in its journal, one SQLite file per run directory: inspected images, replies and outcomes.

Each write is one transaction in SQLite's WAL mode, so it survives a kill of the process at any moment. A power failure
may lose the last replies, but does not damage the file. A request whose reply is in the journal is never sent again.
Values are JSON; the journal does not depend on capabilities or methods.
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
    """Turn SQLite errors inside the block into a JournalError of one line that says what to do.

    Args:
        run (`Path`): the run directory, for the message.

    Raises:
        JournalError: SQLite reported an error.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        reason = str(error)
        if "full" in reason or "disk I/O" in reason:
            message = f"the disk of {run} is full or failing ({reason}): free some space and run the same command again"
        elif "locked" in reason:
            message = f"another process uses {run} ({reason}): wait until it ends and run the same command again"
        elif "unable to open" in reason or "readonly" in reason:
            message = (
                f"{run / FILE_NAME} cannot be opened ({reason}): make the file and its directory readable and writable"
            )
        else:
            message = f"{run / FILE_NAME} is damaged ({reason}): restore it from a copy, or use another --out"
        raise JournalError(message) from error


def connect(run: Path, mode: str) -> sqlite3.Connection:
    """Open the journal of a run directory and return the connection, in autocommit mode.

    Args:
        run (`Path`): the run directory.
        mode (`str`): `mode` of SQLite's URIs, such as `rw` or `ro&immutable=1`; `rwc` also prepares the file for
            writing.

    Raises:
        JournalError: the file cannot be opened, or is not a SQLite file.
    """
    with translate_sqlite_errors(run):
        uri = f"{(run / FILE_NAME).absolute().as_uri()}?mode={mode}"
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


JOURNAL_VERSION: Final = 2
# WITHOUT ROWID only for tables with short rows: in such a table, a row of over a quarter of a page needs a page of its
# own.
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
    """An image whose process has ended.

    Attributes:
        image_id (`str`): id of the image.
        ref (`str`): reference of the image in its source.
        body (`str`): outcome of the image, as JSON of the method.
        accepted (`int`): number of accepted questions about the image.
    """

    image_id: str
    ref: str
    body: str
    accepted: int


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Requests and billed tokens of one model in one role on one day.

    Attributes:
        role (`Role`): `teacher` or `verifier`.
        model (`str`): exact model version that answered.
        day (`str`): `YYYY-MM-DD`, UTC.
        requests (`int`): number of replies.
        input_tokens (`int`): billed input tokens.
        output_tokens (`int`): billed output tokens.
    """

    role: Role
    model: str
    day: str
    requests: int
    input_tokens: int
    output_tokens: int


class Journal:
    """The journal of a run directory: `open` opens it for writing, `read` for reading, also beside a writer.

    Args:
        run (`Path`): the run directory.
        connection (`sqlite3.Connection`): an open connection to its journal, which `close` closes.
    """

    def __init__(self, run: Path, connection: sqlite3.Connection) -> None:
        self.run = run
        self._db = connection
        self._exit_stack = ExitStack()

    @classmethod
    def open(cls, run: Path, identity: Mapping[str, Any]) -> Self:
        """Start a run in the directory `run`, or resume the run that is in it.

        Args:
            run (`Path`): the run directory: new, empty, or of this run.
            identity (`Mapping[str, Any]`): the settings that decide the requests; JSON values.

        Raises:
            SettingsMismatchError: the directory holds a run with another identity.
            JournalError: another process writes to the journal, its version is not supported, it is damaged, or the
                disk is full.
            UsageError: the directory holds something that is not a run.
        """
        directory = OutputDirectory(run, "a run", FILE_NAME, lock_name="journal.lock", error_type=JournalError)
        directory.claim()
        if (kind := get_network_file_system(run)) is not None:
            raise JournalError(
                f"--out {run} is on a network file system ({kind}), where SQLite's write-ahead log does not work: "
                "use an --out on a local disk, such as $TMPDIR/run, and copy the directory afterwards"
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
        """Open the journal of a run for reading, also while another process writes to it. Nothing is changed.

        Args:
            run (`Path`): the run directory.

        Raises:
            JournalError: the directory holds no run, or the journal is damaged or of another version.
        """
        file = run / FILE_NAME
        if not file.is_file():
            raise JournalError(
                f"{run} is not a run (no {FILE_NAME}): give the directory that `compact generate --out` wrote"
            )
        wal_file = run / f"{FILE_NAME}-wal"
        is_checkpointed = not (wal_file.exists() and wal_file.stat().st_size)
        try:
            # Opened for writing, because a read-only connection would leave SQLite's two side files behind. On a
            # network file system locks may not work, so a complete file (empty log) is opened there as immutable.
            mode = "ro&immutable=1" if is_checkpointed and get_network_file_system(run) else "rw"
            journal = cls(run, connect(run, mode))
        except JournalError:
            if not is_checkpointed:
                raise
            # On a read-only disk, SQLite can read the file only as immutable, that is, without a writer.
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
        """Move the contents of the write-ahead log into the file, also while another thread writes. Blocks on the disk.

        Args:
            is_last (`bool`, *optional*, defaults to `False`): also empty the log, so that `close` has nothing left to
                do; for use after the last write.

        Raises:
            JournalError: the disk is full or failing; nothing is lost, because the log still holds everything.
        """
        with self._translate_errors(), closing(connect(self.run, "rw")) as connection:
            connection.execute("PRAGMA busy_timeout = 0")  # do not wait for readers
            connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if is_last else 'PASSIVE'})")

    def close(self) -> None:
        """Close the file and release the lock on the run."""
        self._db.close()
        self._exit_stack.close()

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the run was started with."""
        identity: dict[str, Any] = json.loads(self._read_meta("identity"))
        return identity

    def inspections(self) -> dict[str, tuple[str, str | None]]:
        """Return reference -> (stamp, image id) of all inspected images; the id of an unusable image is None."""
        return {ref: (stamp, image_id) for ref, stamp, image_id in self._rows("SELECT ref, stamp, image_id FROM looks")}

    def record_inspection(self, ref: str, stamp: str, result: ImageInfo | Reject) -> None:
        """Store the result of inspecting an image.

        Args:
            ref (`str`): reference of the image in its source.
            stamp (`str`): size and modification time of the image when it was inspected.
            result (`ImageInfo | Reject`): the image, or the reason why it cannot be used.
        """
        image_id = result.image_id if isinstance(result, ImageInfo) else None
        self._write("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?)", (ref, stamp, image_id, to_json(result)))

    def image_rejects(self) -> Iterator[Reject]:
        """Yield a reject for each unusable image, then one for each image with the same content as an earlier one."""
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
        """Return the inspected image with an id, or None if the source no longer has it.

        Args:
            image_id (`str`): id of the image.
            ref (`str`): preferred reference, if the same image was found at several.
        """
        with self._translate_errors():
            row = self._db.execute(
                "SELECT body FROM looks WHERE image_id = ? ORDER BY ref != ?, ref LIMIT 1", (image_id, ref)
            ).fetchone()
        return from_json(ImageInfo, row[0]) if row else None

    def count_images(self) -> int:
        """Return the number of distinct usable images that were inspected."""
        return self._count("SELECT count(DISTINCT image_id) FROM looks")

    def get_reply(self, key: str) -> Reply | None:
        """Return the stored reply to a request, or None if there is none.

        Args:
            key (`str`): key of the request.
        """
        with self._translate_errors():
            row = self._db.execute("SELECT body FROM replies WHERE key = ?", (key,)).fetchone()
        return from_json(Reply, row[0]) if row else None

    def record_reply(self, image_id: str, role: Role, reply: Reply) -> None:
        """Store a reply. After this returns, its request is never sent again.

        Args:
            image_id (`str`): id of the image that the request is about.
            role (`Role`): role of the teacher that answered.
            reply (`Reply`): the reply.
        """
        row = reply.key, image_id, role, time.time(), to_json(reply)
        self._write("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)

    def replies(self) -> Iterator[tuple[str, Role, Reply]]:
        """Yield (image id, role, reply) of all replies, in the order of the request keys."""
        for image_id, role, body in self._rows("SELECT image_id, role, body FROM replies ORDER BY key"):
            yield image_id, role, from_json(Reply, body)

    def usage(self) -> list[TokenUsage]:
        """Return requests and billed tokens so far by role, model and day; by day because prices change."""
        tokens = "sum(json_extract(body, '$.input_tokens')), sum(json_extract(body, '$.output_tokens'))"
        columns = "role, json_extract(body, '$.model') AS model, date(at, 'unixepoch') AS day"
        query = f"SELECT {columns}, count(*), {tokens} FROM replies GROUP BY role, model, day"
        return [TokenUsage(*row) for row in self._rows(query)]

    def finished_ids(self) -> set[str]:
        """Return the ids of the finished images."""
        return {image_id for (image_id,) in self._rows("SELECT image_id FROM outcomes")}

    def record_outcome(self, finished_image: FinishedImage) -> None:
        """Store the outcome of an image, which finishes the image.

        Args:
            finished_image (`FinishedImage`): the image with its outcome.
        """
        row = finished_image.image_id, finished_image.ref, finished_image.accepted, time.time(), finished_image.body
        self._write("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)", row)

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of finished images, of those with accepted questions, and of accepted questions."""
        query = "SELECT count(*), coalesce(sum(accepted > 0), 0), coalesce(sum(accepted), 0) FROM outcomes"
        ((finished, kept, accepted),) = self._rows(query)
        return finished, kept, accepted

    def finish_times(self) -> list[float]:
        """Return the times at which images were finished, in seconds since 1970, in ascending order."""
        return [timestamp for (timestamp,) in self._rows("SELECT at FROM outcomes ORDER BY at")]

    def outcomes(self) -> Iterator[FinishedImage]:
        """Yield the finished images in the order of their ids; only a few are in memory at a time."""
        for row in self._rows("SELECT image_id, ref, body, accepted FROM outcomes ORDER BY image_id"):
            yield FinishedImage(*row)

    def record_image_total(self, images: int) -> None:
        """Store the total number of images to process, as known to the newest session, for readers such as `status`.

        Args:
            images (`int`): the total number.
        """
        self._write("INSERT OR REPLACE INTO meta VALUES ('pictures', ?)", (json.dumps(images),))

    def read_image_total(self) -> int | None:
        """Return the total number of images to process, or None if no session has stored it yet."""
        for (value,) in self._rows("SELECT value FROM meta WHERE name = 'pictures'"):
            return int(json.loads(value))
        return None

    def _start_or_check(self, directory: OutputDirectory, identity: Mapping[str, Any]) -> None:
        """Create the tables in an empty file; otherwise check the version and the identity."""
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            meta = {"journal_version": JOURNAL_VERSION, "identity": dict(identity)}
            with self._db:
                # One transaction: after a kill inside it the file is empty, and the next start creates the tables.
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
        """Raise JournalError if the journal was written by a version with another format."""
        try:
            version = json.loads(self._read_meta("journal_version"))
        except (sqlite3.OperationalError, TypeError):
            version = None
        if version != JOURNAL_VERSION:
            raise JournalError(
                f"{self.run} was written by another version (journal {version}, this one reads {JOURNAL_VERSION}): "
                "use the version of compact_hf that wrote it, or another --out"
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
