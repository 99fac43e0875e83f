"""Find images that are the same or alike: their hashes, a cache of these, and groups of images across the splits.

An assembly decodes no image twice: what it computes of an image is kept in a file of the run directory, also if it is
killed. Which image is for validation depends on its own hash alone (schema.py), so that none changes its split when
others join in the next version. Of a group of images that look alike, those for training are left out if one is for
validation; that is how all that remain share a split. Groups of many images are ignored and reported: products on white
all look alike.
"""

from __future__ import annotations

import json
import os
import sqlite3
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from compact_hf.dataset.schema import split_of
from compact_hf.errors import JournalError, ReleaseError, UsageError
from compact_hf.images.codec import clean
from compact_hf.images.inspection import image_id_of
from compact_hf.images.phash import MAX_DISTANCE, Hashes, groups, nearest, perceptual_hash
from compact_hf.records import Reject, Row
from compact_hf.storage import on_network_file_system, prefetch


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture is known by.

    Attributes:
        ids (`frozenset[str]`): hashes of its bytes, as they are and without metadata.
        hash (`int`, *optional*): 64 bits of what it looks like (images/phash.py).
    """

    ids: frozenset[str]
    hash: int | None


def look_of(data: bytes) -> Look:
    """Look at a picture file.

    Raises:
        PictureError: the bytes are no picture, or cannot be decoded.
    """
    return Look(frozenset((image_id_of(data), image_id_of(clean(data)))), perceptual_hash(data))


class Looks:
    """Looks at the pictures of rows, each picture once.

    Args:
        seen (`Seen`): what was seen before, by the hash of a picture's bytes.
    """

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def at(self, rows: Iterable[Row | Reject]) -> Iterator[tuple[Row | Reject, Look | None]]:
        """Yield the rows in their order, each with the look of its picture, None where it has none.

        Raises:
            ReleaseError: a picture cannot be read any more, or is another one now.
            SourceError: its source is gone.
        """
        for row, body in self._seen.looked(rows, _picture_of, _looked):
            if body is None:
                yield row, None
            else:
                ids, hash = json.loads(body)
                yield row, Look(frozenset(ids), hash)


def _picture_of(row: Row | Reject) -> str | None:
    return None if isinstance(row, Reject) or row.read_picture is None else row.image_id


def _looked(row: Row | Reject) -> str:
    assert isinstance(row, Row)
    assert row.read_picture is not None
    try:
        look = look_of(row.read_picture())
    except OSError as error:
        raise ReleaseError(f"the picture of row {row.id} cannot be read any more ({error}); put it back") from error
    if row.image_id not in look.ids:  # or it would be kept as what this picture looks like
        raise ReleaseError(f"the picture of row {row.id} has changed since it was asked about; put it back")
    return json.dumps([sorted(look.ids), look.hash])


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


MAX_SHARE: Final = 0.01
"""Share of all pictures above which a group is not taken for copies of one picture."""
ALWAYS_A_GROUP: Final = 10
"""Pictures that may be a group whatever their share: in a small set one hundredth is less than a pair."""


@dataclass(frozen=True, slots=True)
class NearPictures:
    """Which pictures are like one of the validation split.

    Attributes:
        distance (`int`): bits in which neighbours' hashes may differ.
        pictures (`frozenset[str]`): ids of all pictures that were compared.
        left_out (`frozenset[str]`): ids of those for training in groups that have one for validation.
        validation (`Hashes`): of shape [n], hashes of the pictures for validation that are in no too large group.
        too_large (`tuple[int, ...]`): sizes of the groups that were left as they are, largest first.
    """

    distance: int
    pictures: frozenset[str]
    left_out: frozenset[str]
    validation: Hashes
    too_large: tuple[int, ...]

    def of(self, row: Row, look: Look | None) -> Reject | None:
        """Return why a row stays out, None if it does not; an instruction row is compared with each in validation."""
        reason = "picture is like one in the validation split"
        if row.k is not None:
            return Reject("assembly", reason, row.id, str(row.image_id)) if row.image_id in self.left_out else None
        if look is not None and look.hash is not None and nearest(look.hash, self.validation) <= self.distance:
            return Reject("instruction", reason, row.id, str(row.image_id))
        return None


def checked_distance(distance: int) -> int:
    """Return the distance as it is.

    Raises:
        UsageError: it is out of range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"got {distance} bits for similar pictures; it must be 0 to {MAX_DISTANCE}, 6 is usual")
    return distance


def near_pictures(hashes: Mapping[str, int | None], distance: int) -> NearPictures:
    """Group pictures; the order of `hashes` does not matter.

    Args:
        hashes (`Mapping[str, int | None]`): image id -> perceptual hash of the pictures of the compositional part, None
            where a picture looks like nothing.
        distance (`int`): 0 to 10 bits; two pictures are in one group if steps of at most so many lead across.
    """
    known = {image_id: hash for image_id, hash in hashes.items() if hash is not None}
    ids = list(known)
    group_of = dict(zip(ids, groups(list(known.values()), distance).tolist(), strict=True))
    sizes = Counter(group_of.values())
    limit = max(ALWAYS_A_GROUP, MAX_SHARE * len(hashes))
    held = [one for one in ids if split_of(0, one) == "validation" and sizes[group_of[one]] <= limit]
    straddling = {group_of[one] for one in held}
    return NearPictures(
        distance,
        pictures=frozenset(hashes),
        left_out=frozenset(one for one in ids if group_of[one] in straddling and split_of(0, one) != "validation"),
        validation=np.array(sorted({known[one] for one in held}), dtype=np.uint64),
        too_large=tuple(sorted((size for size in sizes.values() if size > limit), reverse=True)),
    )
