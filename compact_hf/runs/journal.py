"""Stores the state of a run in its journal, one SQLite file per run directory: inspected images, replies and outcomes.

Each write is one transaction in SQLite's WAL mode, so it survives a kill of the process at any moment. A power failure
may lose the last replies, but does not damage the file. A request whose reply is in the journal is never sent again.
Values are JSON; the journal does not depend on capabilities or methods.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compact_hf.errors import JournalError, SettingsMismatchError, UsageError
from compact_hf.images.reasons import ImageReason
from compact_hf.output_directory import OutputDirectory
from compact_hf.records import ImageInfo, Reject, RowReject, from_json, to_json
from compact_hf.runs.journal_file import (
    add_checksum,
    add_missing_table,
    check,
    connect,
    create_tables,
    transaction,
    translate_sqlite_errors,
    upgrade,
    write_meta,
)
from compact_hf.storage import get_network_file_system
from compact_hf.teachers.base import Reply, Role

FILE_NAME: Final = "journal.sqlite"


def run_directory(run: Path) -> OutputDirectory:
    """Return the directory of a run, which is locked while a process writes its journal.

    Args:
        run (`Path`): the run directory.
    """
    return OutputDirectory(run, "a run", FILE_NAME, lock_name="journal.lock", error_type=JournalError)


# Fields of replies that version 0.1.0 does not have. They are stored only if they have another value, so that the same
# reply is the same text in all journals.
_ADDED_FIELDS: Final = {"has_usage": True, "is_fault": False}


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
    """Requests and billed tokens of one model in one role on one day, those of unusable replies included.

    Attributes:
        role (`Role`): `teacher` or `verifier`.
        model (`str`): exact model version that answered; empty if it is unknown, as after a time-out.
        day (`str`): `YYYY-MM-DD`, UTC.
        requests (`int`): number of billed requests.
        input_tokens (`int`): billed input tokens.
        output_tokens (`int`): billed output tokens.
        estimated (`int`): number of these requests whose tokens are estimated.
        max_input_tokens (`int`): most input tokens of one request.
        max_output_tokens (`int`): most output tokens of one request.
    """

    role: Role
    model: str
    day: str
    requests: int
    input_tokens: int
    output_tokens: int
    estimated: int
    max_input_tokens: int
    max_output_tokens: int


class Journal:
    """The journal of a run directory: `open` opens it for writing, `read` for reading, also beside a writer.

    Args:
        run (`Path`): the run directory.
        connection (`sqlite3.Connection`): an open connection to its journal, which `close` closes.
    """

    def __init__(self, run: Path, connection: sqlite3.Connection) -> None:
        self.run = run
        self._db = connection
        self._newest = 0.0  # time of the newest row
        self._exit_stack = ExitStack()

    @classmethod
    def open(cls, run: Path, identity: Mapping[str, Any]) -> Self:
        """Start a run in the directory `run`, or resume the run that is in it.

        A run with another identity that has no reply yet, for example because its model was misspelled, is replaced.

        Args:
            run (`Path`): the run directory: new, empty, of this run, or of a run without replies.
            identity (`Mapping[str, Any]`): the settings that decide the requests; JSON values.

        Raises:
            SettingsMismatchError: the directory holds a run with another identity and with replies.
            JournalError: another process writes to the journal, its version is not supported, it is damaged, or the
                disk is full.
            UsageError: the directory holds something that is not a run.
        """
        directory = run_directory(run)
        directory.claim()
        if (kind := get_network_file_system(run)) is not None:
            raise JournalError(
                f"--out {run} is on a network file system ({kind}), where SQLite's write-ahead log does not work: "
                "use an --out on a local disk, such as $TMPDIR/run, and copy the directory afterwards"
            )
        with ExitStack() as stack:
            stack.enter_context(directory.lock())
            journal = cls(run, stack.enter_context(closing(connect(run / FILE_NAME, "rwc"))))
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
            UsageError: the directory holds no run.
            JournalError: the journal is damaged or of another version.
        """
        file = run / FILE_NAME
        if not file.is_file():
            raise UsageError(
                f"{run} is not a run (no {FILE_NAME}): give the directory that `compact generate --out` wrote"
            )
        wal_file = run / f"{FILE_NAME}-wal"
        is_checkpointed = not (wal_file.exists() and wal_file.stat().st_size)
        try:
            # Opened for writing, because a read-only connection would leave SQLite's two side files behind. On a
            # network file system locks may not work, so a complete file (empty log) is opened there as immutable.
            mode = "ro&immutable=1" if is_checkpointed and get_network_file_system(run) else "rw"
            journal = cls(run, connect(file, mode))
        except JournalError:
            if not is_checkpointed:
                raise
            # On a read-only disk, SQLite can read the file only as immutable, that is, without a writer.
            journal = cls(run, connect(file, "ro&immutable=1"))
        try:
            with journal._translate_errors():
                check(journal._db, file)
                add_missing_table(journal._db)
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
        with self._translate_errors(), closing(connect(self.run / FILE_NAME, "rw")) as connection:
            connection.execute("PRAGMA busy_timeout = 0")  # do not wait for readers
            connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if is_last else 'PASSIVE'})")

    def close(self) -> None:
        """Close the file and release the lock on the run."""
        self._db.close()
        self._exit_stack.close()

    def can_be_replaced(self, differences: Collection[str]) -> bool:
        """Return whether a run with other settings may replace this one: it has no reply, and no batch job will answer.

        Args:
            differences (`Collection[str]`): names of the settings that differ. The method must be the same, because the
                files that it writes beside the journal are those of one method.
        """
        from compact_hf.teachers.gemini_batch.store import has_submitted_jobs

        has_replies = bool(self._count("SELECT EXISTS (SELECT 1 FROM replies UNION ALL SELECT 1 FROM unused)"))
        return "method" not in differences and not has_replies and not has_submitted_jobs(self.run)

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
        self._write("looks", ref, stamp, image_id, to_json(result))

    def image_rejects(self) -> Iterator[Reject]:
        """Yield a reject for each unusable image, then one for each image with the same content as an earlier one."""
        for (body,) in self._rows("SELECT body FROM looks WHERE image_id IS NULL ORDER BY ref"):
            # Only the rejects of a dataset of questions have numbers of rows.
            yield from_json(RowReject if '"rows":' in body else Reject, body)
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
        self._write("replies", reply.key, image_id, role, self._now(), _encode_reply(reply))

    def record_unused(self, image_id: str, role: Role, reply: Reply) -> None:
        """Store what a service sent and presumably billed although it is no result, so that its cost counts.

        Args:
            image_id (`str`): id of the image that the request is about.
            role (`Role`): role of the teacher that was asked.
            reply (`Reply`): what it sent, such as an empty or unreadable reply. The request may be sent again.
        """
        self._write("unused", reply.key, image_id, role, self._now(), _encode_reply(reply))

    def promote_unused(self, image_id: str, role: Role, reply: Reply) -> None:
        """Store the reply of the newest attempt, which is recorded as unused, as the result of its request after all.

        Args:
            image_id (`str`): id of the image that the request is about.
            role (`Role`): role of the teacher that was asked.
            reply (`Reply`): the reply. It counts once.
        """
        with self._transaction():
            (timestamp,) = self._db.execute("SELECT max(at) FROM unused WHERE key = ?", (reply.key,)).fetchone()
            self._db.execute("DELETE FROM unused WHERE key = ? AND at = ?", (reply.key, timestamp))
            self._write("replies", reply.key, image_id, role, timestamp or self._now(), _encode_reply(reply))

    def forget(self, keys: Collection[str], image_ids: Collection[str]) -> None:
        """Make replies unused, so that only their cost counts, and images unfinished.

        Args:
            keys (`Collection[str]`): keys of the requests, which will be sent again.
            image_ids (`Collection[str]`): ids of the images.
        """
        with self._transaction():
            parameters = [(key,) for key in keys]
            self._db.executemany("INSERT OR REPLACE INTO unused SELECT * FROM replies WHERE key = ?", parameters)
            self._db.executemany("DELETE FROM replies WHERE key = ?", parameters)
            self._db.executemany("DELETE FROM outcomes WHERE image_id = ?", [(image_id,) for image_id in image_ids])

    def replies(self) -> Iterator[tuple[str, Role, Reply]]:
        """Yield (image id, role, reply) of all replies, in the order of the request keys."""
        for image_id, role, body in self._rows("SELECT image_id, role, body FROM replies ORDER BY key"):
            yield image_id, role, from_json(Reply, body)

    def usage(self) -> list[TokenUsage]:
        """Return requests and billed tokens so far by role, model and day; by day because prices change."""
        # Replies that version 0.1.0 stored do not have `has_usage`.
        estimated = "coalesce(sum(json_extract(body, '$.has_usage') = 0), 0)"
        columns = "role, json_extract(body, '$.model') AS model, date(at, 'unixepoch') AS day"
        rows = "(SELECT role, at, body FROM replies UNION ALL SELECT role, at, body FROM unused)"
        largest = "max(json_extract(body, '$.input_tokens')), max(json_extract(body, '$.output_tokens'))"
        sums = "sum(json_extract(body, '$.input_tokens')), sum(json_extract(body, '$.output_tokens'))"
        query = f"SELECT {columns}, count(*), {sums}, {estimated}, {largest} FROM {rows} GROUP BY role, model, day"
        return [TokenUsage(*row) for row in self._rows(query)]

    def finished_ids(self) -> set[str]:
        """Return the ids of the finished images."""
        return {image_id for (image_id,) in self._rows("SELECT image_id FROM outcomes")}

    def record_outcome(self, finished_image: FinishedImage) -> None:
        """Store the outcome of an image, which finishes the image.

        Args:
            finished_image (`FinishedImage`): the image with its outcome.
        """
        image = finished_image
        self._write("outcomes", image.image_id, image.ref, image.accepted, self._now(), image.body)

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
        with self._translate_errors():
            write_meta(self._db, "pictures", images)

    def read_image_total(self) -> int | None:
        """Return the total number of images to process, or None if no session has stored it yet."""
        for (value,) in self._rows("SELECT value FROM meta WHERE name = 'pictures'"):
            return int(json.loads(value))
        return None

    def record_skipped_files(self, description: str) -> None:
        """Store which files of the source the newest session has skipped, for readers such as `status`.

        Args:
            description (`str`): the result of `ImageSource.describe_skipped`.
        """
        with self._translate_errors():
            write_meta(self._db, "skipped", description)

    def read_skipped_files(self) -> str:
        """Return the line about skipped files, empty if none was skipped."""
        for (value,) in self._rows("SELECT value FROM meta WHERE name = 'skipped'"):
            return str(json.loads(value))
        return ""

    def _start_or_check(self, directory: OutputDirectory, identity: Mapping[str, Any]) -> None:
        """Create the tables in an empty file; otherwise check the file, upgrade it, and check the identity."""
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            # One transaction: after a kill inside it the file is empty, and the next start creates the tables.
            with transaction(self._db):
                create_tables(self._db)
                write_meta(self._db, "identity", dict(identity))
            return
        check(self._db, directory.marker_file)
        upgrade(self._db)
        try:
            directory.check(self.identity, identity)
        except SettingsMismatchError as error:
            if not self.can_be_replaced(error.differences):
                raise
            self._start_afresh(identity, keep_images=not error.differences.keys() & {"source", "shard"})

    def _start_afresh(self, identity: Mapping[str, Any], *, keep_images: bool) -> None:
        """Make this the journal of another run; images that were inspected can be kept if they are the same."""
        from compact_hf.teachers.gemini_batch.store import discard_jobs

        discard_jobs(self.run)
        with transaction(self._db):
            for table in ("outcomes",) if keep_images else ("outcomes", "looks"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute("DELETE FROM meta WHERE name = 'pictures'")
            write_meta(self._db, "identity", dict(identity))

    def _read_meta(self, name: str) -> str:
        (value,) = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(value)

    def _count(self, query: str) -> int:
        with self._translate_errors():
            return int(self._db.execute(query).fetchone()[0])

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        with self._translate_errors():
            yield from self._db.execute(query)

    def _write(self, table: str, *values: Any) -> None:
        """Write one row, in place of an earlier one with the same key."""
        row = add_checksum(values)
        with self._translate_errors():
            self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def _now(self) -> float:
        """Return the current time, later than that of all earlier rows of this session."""
        self._newest = max(time.time(), math.nextafter(self._newest, math.inf))
        return self._newest

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translate_errors(), transaction(self._db):
            yield

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_sqlite_errors(self.run / FILE_NAME)


def _encode_reply(reply: Reply) -> str:
    """Return a reply as JSON, which `from_json` reads."""
    values = {item.name: getattr(reply, item.name) for item in fields(reply)}
    return to_json({name: value for name, value in values.items() if _ADDED_FIELDS.get(name) is not value})
