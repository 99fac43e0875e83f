"""Reads images together with the questions that a dataset has about them.

The dataset is one that `datasets` loads (hub_dataset.py), or a file in LLaVA's format (conversations.py) with a source
for its images. Each distinct image is listed once, with all rows about it, wherever they are in the dataset. Rows
without an image or with several images are listed too, so that they are reported as rejects. When the dataset is
opened, each row is parsed once (question_rows.py) and stored in a temporary SQLite file, so that memory does not grow
with the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from compact_hf.errors import SourceError
from compact_hf.images.codec import ImageError
from compact_hf.images.conversations import Defect, check_json_list, iter_json_items
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id
from compact_hf.images.question_rows import (
    ROW_FORMATS,
    Exchange,
    RowFormat,
    detect_row_format,
    question_columns,
    read_exchanges,
)
from compact_hf.images.reasons import ImageReason, RowReason
from compact_hf.images.source import ImageSource

# The tables are, in order: each distinct image by its key (Located.key), the rows about each image, and the rows that
# have no image or several.
_SCHEMA: Final = """
CREATE TABLE pictures (key TEXT PRIMARY KEY, ref TEXT NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX by_ref ON pictures (ref);
CREATE TABLE asked (key TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (key, number));
CREATE TABLE without (ref TEXT PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One row of a dataset.

    Attributes:
        location (`str`): position in the dataset: `SPLIT/ROW`, or the index in LLaVA's list, from 0.
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
        key (`str`): equal for equal images: the id of the image in a dataset, the path in a LLaVA file.
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
            self._insert(self.num_rows, row.location, body, image)
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

    def block(self, ref: str) -> str:
        """See `ImageSource.block`."""
        return self._source.block(ref)

    def origin(self, ref: str) -> tuple[str, str]:
        """See `ImageSource.origin`."""
        return self._source.origin(ref)

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

    def _insert(self, number: int, row: str, body: str, image: Located | Defect) -> None:
        if isinstance(image, Defect):
            # The prefix distinguishes the reference from those of images.
            self._db.execute("INSERT INTO without VALUES (?, ?, ?)", (f"row {row}", *image))
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
    row_format = detect_row_format(source.columns)
    if row_format is None:
        raise SourceError(
            f"{source.address.display_name} has no questions (its columns are {', '.join(source.features)}): "
            f"give a dataset with one of {', '.join(ROW_FORMATS)}"
        )
    return VqaSource(source, _iter_dataset_rows(source, row_format))


def read_llava_questions(file: Path, source: ImageSource) -> VqaSource:
    """Return the images of a file in LLaVA's format with its questions.

    Images are compared by their paths and are not read.

    Args:
        file (`Path`): a JSON list in LLaVA's format.
        source (`ImageSource`): the source of the images; the `image` of an item is a reference in it.

    Raises:
        UsageError: the file is not in LLaVA's format.
    """
    check_json_list(file)
    return VqaSource(source, _iter_llava_rows(file))


def _iter_dataset_rows(source: DatasetSource, row_format: RowFormat) -> Iterator[tuple[QuestionRow, Located | Defect]]:
    """Yield each row of a dataset with its image, split by split."""
    names = [*question_columns(row_format, source.columns), *(name for name in ("id",) if name in source.columns)]
    for split, rows in source.splits.items():
        index = -1
        for batch in rows.iter_batches([source.image_column, *names]):
            for cell, record in zip(batch[source.image_column], batch.select(names).to_pylist(), strict=True):
                index += 1
                location = f"{split}/{index}"
                exchanges = read_exchanges(record, row_format)
                row = _make_row(location, record.get("id"), exchanges)
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


def _iter_llava_rows(file: Path) -> Iterator[tuple[QuestionRow, Located | Defect]]:
    """Yield each item of a file in LLaVA's format with its image."""
    for index, item in enumerate(iter_json_items(file)):
        exchanges = read_exchanges(item, "conversations")
        row = _make_row(str(index), item.get("id") if isinstance(item, dict) else None, exchanges)
        image = item.get("image") if isinstance(item, dict) else None
        if image is None:
            yield row, Defect(RowReason.NO_IMAGE)
        # With a NUL in the path, `open` would raise a ValueError instead of an OSError.
        elif not isinstance(image, str) or not image or "\0" in image:
            yield row, Defect(RowReason.NO_PATH, repr(image)[:80])
        else:
            yield row, Located(image, image)


def _make_row(location: str, id: Any, exchanges: tuple[Exchange, ...] | Defect) -> QuestionRow:
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
