"""What a data set asks about its pictures: pictures as a source, and each one's rows with their questions.

In: a data set of `datasets` (hub_dataset.py), or a file in LLaVA's format (conversations.py) with the source of its
pictures. Out: every different picture once, with all rows that ask about it, however they are scattered; and the rows
that have no one picture. The rows are read once, when the data set is opened, into a temporary SQLite file, so that
memory does not grow with them.
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
from compact_hf.images.codec import PictureError
from compact_hf.images.conversations import (
    SHAPES,
    Defect,
    Exchange,
    Shape,
    columns_of,
    exchanges_of,
    items_of,
    refuse_other_formats,
    shape_of,
)
from compact_hf.images.hub_dataset import DatasetPictures
from compact_hf.images.inspection import image_id_of
from compact_hf.images.source import Source

_SCHEMA: Final = """
CREATE TABLE pictures (key TEXT PRIMARY KEY, ref TEXT NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX by_ref ON pictures (ref);
CREATE TABLE asked (key TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (key, number));
CREATE TABLE without (ref TEXT PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class AskedRow:
    """One row of a data set.

    Attributes:
        row (`str`): where it stands: `SPLIT/ROW`, or the place in LLaVA's list, from 0.
        id (`str`): what the data set calls it, empty where it has no names.
        exchanges (`tuple[Exchange, ...]`): empty where `defect` says why.
        defect (`str`): why it cannot be read, or empty; a reason and what was got.
    """

    row: str
    id: str
    exchanges: tuple[Exchange, ...]
    defect: tuple[str, str] = ("", "")


class Located(NamedTuple):
    """A row's one picture: what tells it from others, and its reference."""

    key: str
    ref: str


class QuestionedPictures:
    """The different pictures of a data set, with what it asks about each of them; a `Source`.

    Attributes:
        identity (`str`): that of the pictures' own source.
        content (`str`): 16 hex digits, the hash of all rows; the same rows in the same order give the same.
        rows (`int`): how many there are in all.
    """

    def __init__(self, pictures: Source, rows: Iterator[tuple[AskedRow, Located | Defect]]) -> None:
        self._pictures = pictures
        self.identity = pictures.identity
        # Without a name SQLite makes a file of its own, and takes it away again.
        self._db = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.executescript(_SCHEMA)
        content = hashlib.sha256()
        self.rows = 0
        for row, where in rows:
            self.rows += 1
            body = _body_of(row)
            self._take(self.rows, row.row, body, where)
            content.update(f"{body}\n{where}\n".encode())
        self.content = content.hexdigest()[:16]

    def refs(self) -> Iterator[str]:
        """Yield every picture once, and every row without a picture, so that a look at it says so; sorted.

        Raises:
            SourceError: no row has a picture.
        """
        if not self._db.execute("SELECT count(*) FROM pictures").fetchone()[0]:
            raise SourceError(f"none of the {self.rows} rows of {self.identity} has one picture; give other rows")
        for (ref,) in self._db.execute("SELECT ref FROM pictures UNION ALL SELECT ref FROM without ORDER BY ref"):
            yield ref

    def block(self, ref: str) -> str:
        """See `Source.block`."""
        return self._pictures.block(ref)

    def origin(self, ref: str) -> tuple[str, str]:
        """See `Source.origin`."""
        return self._pictures.origin(ref)

    def stamp(self, ref: str) -> str:
        """See `Source.stamp`."""
        return self._pictures.stamp(ref)

    def read(self, ref: str) -> bytes:
        """See `Source.read`.

        Raises:
            PictureError: the row has no picture, or several.
        """
        for reason, detail in self._db.execute("SELECT reason, detail FROM without WHERE ref = ?", (ref,)):
            raise PictureError(reason, detail)
        return self._pictures.read(ref)

    def asked(self, ref: str) -> tuple[AskedRow, ...]:
        """Return the rows that ask about the picture, in their order."""
        bodies = self._db.execute(
            "SELECT body FROM asked WHERE key = (SELECT key FROM pictures WHERE ref = ?) ORDER BY number", (ref,)
        )
        return tuple(_row_of(body) for (body,) in bodies)

    def _take(self, number: int, row: str, body: str, where: Located | Defect) -> None:
        if isinstance(where, Defect):
            self._db.execute("INSERT INTO without VALUES (?, ?, ?)", (f"row {row}", *where))
        else:
            self._db.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?)", where)
            self._db.execute("INSERT INTO asked VALUES (?, ?, ?)", (where.key, number, body))


def of_dataset(pictures: DatasetPictures) -> QuestionedPictures:
    """Return a data set's pictures with its questions. Pictures are told apart by their bytes, all of which are read.

    Raises:
        SourceError: it has no column of questions.
    """
    shape = shape_of(pictures.columns)
    if shape is None:
        raise SourceError(
            f"{pictures.address.told} has no questions (its columns are {', '.join(pictures.features)}); "
            f"one of {', '.join(SHAPES)} is needed"
        )
    return QuestionedPictures(pictures, _rows_of_dataset(pictures, shape))


def of_llava(file: Path, pictures: Source) -> QuestionedPictures:
    """Return a LLaVA file's pictures with its questions. Pictures are told apart by their paths, and not read.

    Args:
        file (`Path`): a JSON list in LLaVA's format.
        pictures (`Source`): where the items' `image` is a reference.

    Raises:
        UsageError: it is not such a file.
    """
    refuse_other_formats(file)
    return QuestionedPictures(pictures, _rows_of_llava(file))


def _rows_of_dataset(pictures: DatasetPictures, shape: Shape) -> Iterator[tuple[AskedRow, Located | Defect]]:
    names = [*columns_of(shape, pictures.columns), *(name for name in ("id",) if name in pictures.columns)]
    for split, rows in pictures.splits.items():
        number = -1
        for batch in rows.batches([pictures.column, *names]):
            for held, record in zip(batch[pictures.column], batch.select(names).to_pylist(), strict=True):
                number += 1
                place = f"{split}/{number}"
                found = exchanges_of(record, shape)
                row = _asked_row(place, record.get("id"), found)
                one = _one_picture(held.as_py() if pictures.several else [held.as_py()])
                yield row, one if isinstance(one, Defect) else _located(pictures, one, place)


def _one_picture(held: list[dict[str, Any] | None] | None) -> dict[str, Any] | Defect:
    there = [picture for picture in held or () if picture is not None and (picture["bytes"] or picture["path"])]
    if len(there) == 1 and held is not None and held[0] is there[0]:
        return there[0]
    return Defect("several pictures", f"{len(there)}, one is needed") if there else Defect("no picture")


def _located(pictures: DatasetPictures, held: dict[str, Any], place: str) -> Located | Defect:
    ref = f"{place}/0" if pictures.several else place
    try:
        return Located(image_id_of(pictures.bytes_of(held, ref)), ref)
    except OSError as error:
        return Defect("unreadable file", error.strerror or type(error).__name__)


def _rows_of_llava(file: Path) -> Iterator[tuple[AskedRow, Located | Defect]]:
    for number, item in enumerate(items_of(file)):
        found = exchanges_of(item, "conversations")
        row = _asked_row(str(number), item.get("id") if isinstance(item, dict) else None, found)
        image = item.get("image") if isinstance(item, dict) else None
        if image is None:
            yield row, Defect("no picture")
        elif not isinstance(image, str) or not image or "\0" in image:
            yield row, Defect("image is not a path", repr(image)[:80])
        else:
            yield row, Located(image, image)


def _asked_row(place: str, id: Any, found: tuple[Exchange, ...] | Defect) -> AskedRow:
    name = "" if id is None else str(id)
    if isinstance(found, Defect):
        return AskedRow(place, name, (), (found.reason, found.detail))
    return AskedRow(place, name, found)


def _body_of(row: AskedRow) -> str:
    pairs = [(exchange.question, exchange.answer) for exchange in row.exchanges]
    return json.dumps([row.row, row.id, pairs, row.defect])


def _row_of(body: str) -> AskedRow:
    row, id, pairs, (reason, detail) = json.loads(body)
    return AskedRow(row, id, tuple(Exchange(*pair) for pair in pairs), (reason, detail))
