"""Reads images together with the questions that a dataset has about them.

The dataset is one that `datasets` loads (hub_dataset.py), or a JSON file (json_rows.py) with a source for its images.
Each distinct image is listed once, with all rows about it, wherever they are in the dataset and under whatever paths
it has copies. Rows without an image or with several images are listed too, so that they are reported as rejects. When
the dataset is opened, each row is parsed once (question_rows.py) and stored in a temporary SQLite file, so that memory
does not grow with the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from compact_hf.errors import SourceError
from compact_hf.images.codec import ImageError
from compact_hf.images.conversations import Defect, find_image_path
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id
from compact_hf.images.json_rows import check_json_rows, iter_json_rows
from compact_hf.images.question_rows import ROW_FORMATS, Exchange, list_text_columns, read_first_exchanges
from compact_hf.images.reasons import ImageReason, RowReason
from compact_hf.images.source import ImageSource

# The tables are, in order: each distinct image by its key (Located.key), the rows about each image, the rows that have
# no image or several with the number of their questions, and hashes by which copies of images are found.
_SCHEMA: Final = """
CREATE TABLE pictures (key TEXT PRIMARY KEY, ref TEXT NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX by_ref ON pictures (ref);
CREATE TABLE asked (key TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (key, number));
CREATE TABLE without (
    ref TEXT PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL, questions INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE hashes (ref TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID;
"""
_READERS: Final = 8
"""Threads that read images to find copies: on a network disk, the latency of many small reads counts."""
_REFS_PER_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One row of a dataset.

    Attributes:
        location (`str`): position in the dataset: `SPLIT/ROW`, or the index in a JSON file, from 0.
        id (`str`): id in the dataset, empty if it has no ids.
        exchanges (`tuple[Exchange, ...]`): the questions and answers; empty if the row has a defect.
        defect (`tuple[str, str]`, *optional*, defaults to two empty strings): why the row cannot be read: a reason of
            `RowReason` and a detail.
    """

    location: str
    id: str
    exchanges: tuple[Exchange, ...]
    defect: tuple[str, str] = ("", "")


class Located(NamedTuple):
    """The single image of a row.

    Attributes:
        key (`str`): equal for equal images: the id of the image in a dataset, the path in a JSON file.
        ref (`str`): reference of the image in its source.
    """

    key: str
    ref: str


class VqaSource:
    """An `ImageSource` of the distinct images of a dataset, with the questions about each of them.

    Args:
        source (`ImageSource`): the source that reads the images.
        rows (`Iterator[tuple[QuestionRow, Located | Defect]]`): each row with its image, or with the reason why it has
            no single image.

    Attributes:
        identity (`str`): the identity of `source`.
        content_hash (`str`): 16 hex digits, a hash of all rows in order.
        num_rows (`int`): number of rows, including those without an image.
    """

    def __init__(self, source: ImageSource, rows: Iterator[tuple[QuestionRow, Located | Defect]]) -> None:
        self._source = source
        self.identity = source.identity
        # With an empty name SQLite uses a temporary file, which it deletes when the connection is closed.
        self._db = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.executescript(_SCHEMA)
        hasher = hashlib.sha256()
        self.num_rows = 0
        # The only pass over the rows; later calls read from the database.
        for row, image in rows:
            self.num_rows += 1
            body = _row_to_json(row)
            self._insert(self.num_rows, row, body, image)
            hasher.update(f"{body}\n{image}\n".encode())
        self.content_hash = hasher.hexdigest()[:16]

    def refs(self) -> Iterator[str]:
        """Yield a reference for each distinct image and for each row without a single image, sorted.

        Reading one of the latter raises an `ImageError`, so that the row is counted as a reject.

        Raises:
            SourceError: no row has an image.
        """
        if not self._db.execute("SELECT count(*) FROM pictures").fetchone()[0]:
            raise SourceError(
                f"none of the {self.num_rows} rows of {self.identity} has exactly one image: give a dataset with images"
            )
        # References of all distinct images and of all rows without a single image.
        for (ref,) in self._db.execute("SELECT ref FROM pictures UNION ALL SELECT ref FROM without ORDER BY ref"):
            yield ref

    def describe_skipped(self) -> str:
        """Return an empty string: every row is listed."""
        return ""

    def block(self, ref: str) -> str:
        """See `ImageSource.block`."""
        return self._source.block(ref)

    def origin(self, ref: str) -> tuple[str, str]:
        """See `ImageSource.origin`."""
        return self._source.origin(ref)

    def partial_hash(self, ref: str) -> str:
        """See `ImageSource.partial_hash`."""
        return self._source.partial_hash(ref)

    def stamp(self, ref: str) -> str:
        """See `ImageSource.stamp`."""
        return self._source.stamp(ref)

    def read(self, ref: str) -> bytes:
        """See `ImageSource.read`.

        Raises:
            ImageError: the row has no image or several images.
        """
        # At most one result, because `ref` is the primary key.
        for reason, detail in self._db.execute("SELECT reason, detail FROM without WHERE ref = ?", (ref,)):
            raise ImageError(reason, detail)
        return self._source.read(ref)

    def read_rows(self, ref: str) -> tuple[QuestionRow, ...]:
        """Return the rows about an image, in the order of the dataset."""
        # All rows about the image at `ref`; `number` is their position in the dataset.
        bodies = self._db.execute(
            "SELECT body FROM asked WHERE key = (SELECT key FROM pictures WHERE ref = ?) ORDER BY number", (ref,)
        )
        return tuple(_row_from_json(body) for (body,) in bodies)

    def count_lost(self, ref: str) -> tuple[int, int]:
        """Return the number of rows and of their questions that are lost if the image at `ref` cannot be used."""
        for (questions,) in self._db.execute("SELECT questions FROM without WHERE ref = ?", (ref,)):
            return 1, questions
        rows = self.read_rows(ref)
        return len(rows), sum(len(row.exchanges) for row in rows)

    def merge_copies(self) -> None:
        """Give all rows about copies of an image to the path of the first of them, and list only that.

        A few bytes of each image are read, and the whole of those that are equal in them. An image that cannot be read
        is left alone, so that its inspection says why.

        Raises:
            SourceError: the source as a whole cannot be read.
        """
        refs = [ref for (ref,) in self._db.execute("SELECT ref FROM pictures ORDER BY ref")]
        self._store_hashes(refs, self._source.partial_hash)
        similar = "SELECT ref FROM hashes WHERE hash IN (SELECT hash FROM hashes GROUP BY hash HAVING count(*) > 1)"
        candidates = [ref for (ref,) in self._db.execute(f"{similar} ORDER BY ref")]
        self._db.execute("DELETE FROM hashes")
        self._store_hashes(candidates, lambda ref: compute_image_id(self._source.read(ref)))
        # The path of each copy with that of the earliest row about the same image.
        query = (
            "SELECT ref, first_value(ref) OVER (PARTITION BY hash ORDER BY number) FROM hashes "
            "JOIN (SELECT key AS ref, min(number) AS number FROM asked GROUP BY key) USING (ref)"
        )
        for ref, first_ref in self._db.execute(query).fetchall():
            if ref != first_ref:
                self._db.execute("UPDATE asked SET key = ? WHERE key = ?", (first_ref, ref))
                self._db.execute("DELETE FROM pictures WHERE key = ?", (ref,))

    def _store_hashes(self, refs: Iterable[str], compute: Callable[[str], str]) -> None:
        """Store a hash of each image that can be read."""

        def compute_row(ref: str) -> tuple[str, str] | None:
            try:
                return ref, compute(ref)
            except (OSError, ImageError):
                return None

        remaining = iter(refs)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="hash") as pool:
            while batch := list(islice(remaining, _REFS_PER_BATCH)):
                rows = filter(None, pool.map(compute_row, batch))
                self._db.executemany("INSERT INTO hashes VALUES (?, ?)", rows)

    def _insert(self, number: int, row: QuestionRow, body: str, image: Located | Defect) -> None:
        if isinstance(image, Defect):
            # The prefix distinguishes the reference from those of images.
            values = f"row {row.location}", *image, len(row.exchanges)
            self._db.execute("INSERT INTO without VALUES (?, ?, ?, ?)", values)
        else:
            # The first row about an image gives its reference.
            self._db.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?)", image)
            self._db.execute("INSERT INTO asked VALUES (?, ?, ?)", (image.key, number, body))


def read_dataset_questions(source: DatasetSource) -> VqaSource:
    """Return the images of a dataset with its questions.

    Images are compared by the hash of their bytes, so all images are read.

    Args:
        source (`DatasetSource`): the dataset.

    Raises:
        SourceError: the dataset has no column of questions.
    """
    if not list_text_columns(source.columns):
        raise SourceError(
            f"{source.address.display_name} has no questions (its columns are {', '.join(source.features)}): "
            f"give a dataset with one of {', '.join(ROW_FORMATS)}"
        )
    return VqaSource(source, _iter_dataset_rows(source))


def read_llava_questions(file: Path, source: ImageSource) -> VqaSource:
    """Return the images of a JSON file with its questions.

    Images are compared by their contents, so the beginnings of all images are read.

    Args:
        file (`Path`): a JSON list or JSON lines, whose rows have questions in one of the formats of question_rows.py,
            such as LLaVA's, and the path of an image.
        source (`ImageSource`): the source of the images; the path in a row is a reference in it.

    Raises:
        UsageError: the file has no rows that can be read.
        SourceError: the source cannot be read.
    """
    check_json_rows(file)
    questions = VqaSource(source, _iter_file_rows(file))
    questions.merge_copies()
    return questions


def _iter_dataset_rows(source: DatasetSource) -> Iterator[tuple[QuestionRow, Located | Defect]]:
    """Yield each row of a dataset with its image, split by split."""
    names = [*list_text_columns(source.columns), *(name for name in ("id",) if name in source.columns)]
    for split, rows in source.splits.items():
        index = -1
        for batch in rows.iter_batches([source.image_column, *names]):
            for cell, record in zip(batch[source.image_column], batch.select(names).to_pylist(), strict=True):
                index += 1
                location = f"{split}/{index}"
                row = _make_row(location, record)
                image = _get_single_image(cell.as_py() if source.is_list_column else [cell.as_py()])
                yield row, image if isinstance(image, Defect) else _locate_image(source, image, location)


def _get_single_image(cell: list[dict[str, Any] | None] | None) -> dict[str, Any] | Defect:
    """Return the image of a row if it is the first and only one in its list, else the defect."""
    # The detail is hashed into the identity of runs (VqaSource.content_hash), so its text must not change.
    images = [image for image in cell or () if image is not None and (image["bytes"] or image["path"])]
    # The image must be at position 0, because `_locate_image` refers to it there.
    if len(images) == 1 and cell is not None and cell[0] is images[0]:
        return images[0]
    return Defect(RowReason.SEVERAL_IMAGES, f"{len(images)}, one is needed") if images else Defect(RowReason.NO_IMAGE)


def _locate_image(source: DatasetSource, image: dict[str, Any], location: str) -> Located | Defect:
    """Return the id and reference of an image, or the defect if its bytes cannot be read."""
    ref = f"{location}/0" if source.is_list_column else location
    try:
        return Located(compute_image_id(source.read_bytes(image, ref)), ref)
    # A missing or forbidden file rejects only its own row.
    except OSError as error:
        return Defect(ImageReason.UNREADABLE, error.strerror or type(error).__name__)


def _iter_file_rows(file: Path) -> Iterator[tuple[QuestionRow, Located | Defect]]:
    """Yield each row of a JSON file with the path of its image."""
    for index, record in enumerate(iter_json_rows(file)):
        path = find_image_path(record) if isinstance(record, dict) else Defect(RowReason.NO_IMAGE)
        yield _make_row(str(index), record), path if isinstance(path, Defect) else Located(path, path)


def _make_row(location: str, record: Any) -> QuestionRow:
    """Return the questions of a row, or a row with the defect because of which it has none."""
    exchanges = read_first_exchanges(record)
    id = record.get("id") if isinstance(record, dict) else None
    name = "" if id is None else str(id)
    if isinstance(exchanges, Defect):
        return QuestionRow(location, name, (), (exchanges.reason, exchanges.detail))
    return QuestionRow(location, name, exchanges)


def _row_to_json(row: QuestionRow) -> str:
    # One answer per question: the most frequent one.
    pairs = [(exchange.question, exchange.answer) for exchange in row.exchanges]
    return json.dumps([row.location, row.id, pairs, row.defect])


def _row_from_json(body: str) -> QuestionRow:
    location, id, pairs, (reason, detail) = json.loads(body)
    return QuestionRow(location, id, tuple(_make_exchange(*pair) for pair in pairs), (reason, detail))


def _make_exchange(question: str, answer: str) -> Exchange:
    return Exchange(question, (answer,) if answer else ())
