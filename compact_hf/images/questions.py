"""What a dataset asks about its images: images as a source, and each one's rows with their questions.

In: a dataset of `datasets` (hub_dataset.py), or a file in LLaVA's format (conversations.py) with the source of its
images. Out: every different image once, with all rows that ask about it, however they are scattered; and the rows
that have no one image. question_rows.py reads each row, once, when the dataset is opened, into a temporary SQLite file,
so that memory does not grow with them.
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
        location (`str`): where it stands: `SPLIT/ROW`, or the place in LLaVA's list, from 0.
        id (`str`): what the dataset calls it, empty where it has no names.
        exchanges (`tuple[Exchange, ...]`): empty where `defect` says why.
        defect (`str`): why it cannot be read, or empty; a reason and what was got.
    """

    location: str
    id: str
    exchanges: tuple[Exchange, ...]
    defect: tuple[str, str] = ("", "")


class Located(NamedTuple):
    """A row's one image: what tells it from others, and its reference."""

    key: str
    ref: str


class VqaSource:
    """The different images of a dataset, with what it asks about each of them; a `ImageSource`.

    Attributes:
        identity (`str`): that of the images' own source.
        content_hash (`str`): 16 hex digits, the hash of all rows; the same rows in the same order give the same.
        num_rows (`int`): how many there are in all.
    """

    def __init__(self, source: ImageSource, rows: Iterator[tuple[QuestionRow, Located | Defect]]) -> None:
        self._source = source
        self.identity = source.identity
        # Without a name SQLite makes a file of its own, and takes it away again.
        self._db = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.executescript(_SCHEMA)
        hasher = hashlib.sha256()
        self.num_rows = 0
        for row, image in rows:
            self.num_rows += 1
            body = _row_to_json(row)
            self._insert(self.num_rows, row.location, body, image)
            hasher.update(f"{body}\n{image}\n".encode())
        self.content_hash = hasher.hexdigest()[:16]

    def refs(self) -> Iterator[str]:
        """Yield every image once, and every row without an image, so that a look at it says so; sorted.

        Raises:
            SourceError: no row has an image.
        """
        if not self._db.execute("SELECT count(*) FROM pictures").fetchone()[0]:
            raise SourceError(f"none of the {self.num_rows} rows of {self.identity} has one picture; give other rows")
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
            ImageError: the row has no image, or several.
        """
        for reason, detail in self._db.execute("SELECT reason, detail FROM without WHERE ref = ?", (ref,)):
            raise ImageError(reason, detail)
        return self._source.read(ref)

    def read_rows(self, ref: str) -> tuple[QuestionRow, ...]:
        """Return the rows that ask about the image, in their order."""
        bodies = self._db.execute(
            "SELECT body FROM asked WHERE key = (SELECT key FROM pictures WHERE ref = ?) ORDER BY number", (ref,)
        )
        return tuple(_row_from_json(body) for (body,) in bodies)

    def _insert(self, number: int, row: str, body: str, image: Located | Defect) -> None:
        if isinstance(image, Defect):
            self._db.execute("INSERT INTO without VALUES (?, ?, ?)", (f"row {row}", *image))
        else:
            self._db.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?)", image)
            self._db.execute("INSERT INTO asked VALUES (?, ?, ?)", (image.key, number, body))


def read_dataset_questions(source: DatasetSource) -> VqaSource:
    """Return a dataset's images with its questions. Images are told apart by their bytes, all of which are read.

    Raises:
        SourceError: it has no column of questions.
    """
    row_format = detect_row_format(source.columns)
    if row_format is None:
        raise SourceError(
            f"{source.address.display_name} has no questions (its columns are {', '.join(source.features)}); "
            f"one of {', '.join(ROW_FORMATS)} is needed"
        )
    return VqaSource(source, _iter_dataset_rows(source, row_format))


def read_llava_questions(file: Path, source: ImageSource) -> VqaSource:
    """Return a LLaVA file's images with its questions. Images are told apart by their paths, and not read.

    Args:
        file (`Path`): a JSON list in LLaVA's format.
        source (`ImageSource`): where the items' `image` is a reference.

    Raises:
        UsageError: it is not such a file.
    """
    check_json_list(file)
    return VqaSource(source, _iter_llava_rows(file))


def _iter_dataset_rows(source: DatasetSource, row_format: RowFormat) -> Iterator[tuple[QuestionRow, Located | Defect]]:
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
    images = [image for image in cell or () if image is not None and (image["bytes"] or image["path"])]
    if len(images) == 1 and cell is not None and cell[0] is images[0]:
        return images[0]
    return Defect(RowReason.SEVERAL_IMAGES, f"{len(images)}, one is needed") if images else Defect(RowReason.NO_IMAGE)


def _locate_image(source: DatasetSource, image: dict[str, Any], location: str) -> Located | Defect:
    ref = f"{location}/0" if source.is_list_column else location
    try:
        return Located(compute_image_id(source.read_bytes(image, ref)), ref)
    except OSError as error:
        return Defect(ImageReason.UNREADABLE, error.strerror or type(error).__name__)


def _iter_llava_rows(file: Path) -> Iterator[tuple[QuestionRow, Located | Defect]]:
    for index, item in enumerate(iter_json_items(file)):
        exchanges = read_exchanges(item, "conversations")
        row = _make_row(str(index), item.get("id") if isinstance(item, dict) else None, exchanges)
        image = item.get("image") if isinstance(item, dict) else None
        if image is None:
            yield row, Defect(RowReason.NO_IMAGE)
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
    pairs = [(exchange.question, exchange.answer) for exchange in row.exchanges]
    return json.dumps([row.location, row.id, pairs, row.defect])


def _row_from_json(body: str) -> QuestionRow:
    location, id, pairs, (reason, detail) = json.loads(body)
    return QuestionRow(location, id, tuple(_make_exchange(*pair) for pair in pairs), (reason, detail))


def _make_exchange(question: str, answer: str) -> Exchange:
    return Exchange(question, (answer,) if answer else ())
