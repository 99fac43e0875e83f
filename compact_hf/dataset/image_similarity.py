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

from compact_hf.dataset.reasons import AssemblyReason
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.errors import JournalError, ReleaseError, UsageError
from compact_hf.images.codec import clean_image
from compact_hf.images.inspection import compute_image_id
from compact_hf.images.phash import MAX_DISTANCE, Hashes, group_by_distance, min_distance, perceptual_hash
from compact_hf.records import Reject, Row, is_validation_image
from compact_hf.storage import get_network_file_system, prefetch


@dataclass(frozen=True, slots=True)
class ImageFingerprint:
    """What an image is known by.

    Attributes:
        ids (`frozenset[str]`): hashes of its bytes, as they are and without metadata.
        hash (`int`, *optional*): 64 bits of what it looks like (images/phash.py).
    """

    ids: frozenset[str]
    hash: int | None


Fingerprints = tuple[ImageFingerprint, ...]
"""Those of a row's images, in order; empty if it has none, or if images are not inspected."""


def fingerprint_image(data: bytes) -> ImageFingerprint:
    """Look at an image file.

    Raises:
        ImageError: the bytes are no image, or cannot be decoded.
    """
    return ImageFingerprint(
        frozenset((compute_image_id(data), compute_image_id(clean_image(data)))), perceptual_hash(data)
    )


class FingerprintReader:
    """Looks at the images of rows, each image once.

    Args:
        fingerprint_cache (`FingerprintCache`): of images that were seen before, by the hash of their bytes.
    """

    def __init__(self, fingerprint_cache: FingerprintCache) -> None:
        self._fingerprint_cache = fingerprint_cache

    def iter_fingerprints(self, rows: Iterable[Row | Reject]) -> Iterator[tuple[Row | Reject, Fingerprints]]:
        """Yield the rows in their order, each with the fingerprints of its images.

        Raises:
            ReleaseError: an image cannot be read any more, or is another one now.
            SourceError: its source is gone.
        """
        looks = (look for row in rows for look in _iter_looks(row))
        fingerprints: list[ImageFingerprint] = []
        for look, body in self._fingerprint_cache.iter_cached(looks, _image_id, _read_fingerprint):
            if body is not None:
                ids, hash = json.loads(body)
                fingerprints.append(ImageFingerprint(frozenset(ids), hash))
            if look.is_last:
                yield look.row, tuple(fingerprints)
                fingerprints = []


@dataclass(frozen=True, slots=True)
class _Look:
    """One of a row's images, or the row where it has none."""

    row: Row | Reject
    index: int = 0
    is_last: bool = True


def _iter_looks(row: Row | Reject) -> Iterator[_Look]:
    count = 0 if isinstance(row, Reject) else len(row.read_images)
    if not count:
        yield _Look(row)
    for index in range(count):
        yield _Look(row, index, index == count - 1)


def _image_id(look: _Look) -> str | None:
    row = look.row
    return None if isinstance(row, Reject) or not row.read_images else row.image_ids[look.index]


def _read_fingerprint(look: _Look) -> str:
    row = look.row
    assert isinstance(row, Row)
    try:
        fingerprint = fingerprint_image(row.read_images[look.index]())
    except OSError as error:
        raise ReleaseError(f"the picture of row {row.id} cannot be read any more ({error}); put it back") from error
    if row.image_ids[look.index] not in fingerprint.ids:  # or it would be kept as what this image looks like
        raise ReleaseError(f"the picture of row {row.id} has changed since it was asked about; put it back")
    return json.dumps([sorted(fingerprint.ids), fingerprint.hash])


T = TypeVar("T")

FILE_NAME: Final = "looks.sqlite"
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS looks (picture TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID"


class FingerprintCache:
    """Fingerprints of images in a file of the run, so that assembly decodes no image twice.

    Args:
        directory (`Path`, *optional*): where the file lies. Without it looks are kept in memory, and so they are where
            nothing can be written, or on a network file system, on which SQLite's locks cannot be relied on.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._file = ":memory:"
        if directory is not None and os.access(directory, os.W_OK) and get_network_file_system(directory) is None:
            self._file = str(directory / FILE_NAME)
        self._db: sqlite3.Connection | None = None

    def iter_cached(
        self, items: Iterable[T], get_key: Callable[[T], str | None], inspect: Callable[[T], str | None]
    ) -> Iterator[tuple[T, str | None]]:
        """Yield each item, in order, with what a look at its image found.

        Args:
            get_key (`Callable[[T], str | None]`): what tells an item's image from others: the hash of its content, or
                its place and stamp. None where it has none; such an item comes with None.
            inspect (`Callable[[T], str | None]`): called in a thread for images that were not seen yet; JSON, or None
                for what is not to be kept. What it raises is raised here.

        Raises:
            JournalError: the file is damaged, or the disk is full.
        """

        def iter_entries() -> Iterator[tuple[T, str | None, str | None]]:
            for item in items:
                key = get_key(item)
                yield item, key, None if key is None else self._read(key)

        def inspect_missing(entry: tuple[T, str | None, str | None]) -> str | None:
            item, key, body = entry
            return body if body is not None or key is None else inspect(item)

        for (item, key, cached), body in prefetch(iter_entries(), inspect_missing):
            if key is not None and cached is None and body is not None:
                with self._open() as db:
                    db.execute("INSERT OR REPLACE INTO looks VALUES (?, ?)", (key, body))
            yield item, body

    def _read(self, key: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT body FROM looks WHERE picture = ?", (key,)).fetchone()
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


MAX_GROUP_SHARE: Final = 0.01
"""Share of all images above which a group is not taken for copies of one image."""
MIN_SIZE_LIMIT: Final = 10
"""Images that may be a group whatever their share: in a small set one hundredth is less than a pair."""


@dataclass(frozen=True, slots=True)
class SimilarImages:
    """Which images are like one of the validation split.

    Attributes:
        distance (`int`): bits in which neighbours' hashes may differ.
        image_ids (`frozenset[str]`): ids of all images that were compared.
        excluded_ids (`frozenset[str]`): ids of those for training in groups that have one for validation.
        validation_hashes (`Hashes`): of shape [n], hashes of the images for validation that are in no too large
            group.
        ignored_sizes (`tuple[int, ...]`): sizes of the groups that were left as they are, largest first.
    """

    distance: int
    image_ids: frozenset[str]
    excluded_ids: frozenset[str]
    validation_hashes: Hashes
    ignored_sizes: tuple[int, ...]

    def find_reject(self, row: Row, fingerprints: Fingerprints) -> Reject | None:
        """Return why a row stays out, None if it does not; an instruction row is compared with each in validation."""
        reason = AssemblyReason.LIKE_VALIDATION
        if row.source != INSTRUCTION:
            if self.excluded_ids.isdisjoint(row.image_ids):
                return None
            return Reject("assembly", reason, row.id, str(row.image_id))
        hashes = (fingerprint.hash for fingerprint in fingerprints if fingerprint.hash is not None)
        if any(min_distance(hash, self.validation_hashes) <= self.distance for hash in hashes):
            return Reject("instruction", reason, row.id, str(row.image_id))
        return None


def check_distance(distance: int) -> int:
    """Return the distance as it is.

    Raises:
        UsageError: it is out of range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"got {distance} bits for similar pictures; it must be 0 to {MAX_DISTANCE}, 6 is usual")
    return distance


def find_similar_images(hashes: Mapping[str, int | None], distance: int) -> SimilarImages:
    """Group images; the order of `hashes` does not matter.

    Args:
        hashes (`Mapping[str, int | None]`): image id -> perceptual hash of the images of all but the instruction
            part, None where an image looks like nothing.
        distance (`int`): 0 to 10 bits; two images are in one group if steps of at most so many lead across.
    """
    hash_by_id = {image_id: hash for image_id, hash in hashes.items() if hash is not None}
    ids = list(hash_by_id)
    group_by_id = dict(zip(ids, group_by_distance(list(hash_by_id.values()), distance).tolist(), strict=True))
    sizes = Counter(group_by_id.values())
    limit = max(MIN_SIZE_LIMIT, MAX_GROUP_SHARE * len(hashes))
    validation_ids = [id_ for id_ in ids if is_validation_image(id_) and sizes[group_by_id[id_]] <= limit]
    validation_groups = {group_by_id[id_] for id_ in validation_ids}
    return SimilarImages(
        distance,
        image_ids=frozenset(hashes),
        excluded_ids=frozenset(
            id_ for id_ in ids if group_by_id[id_] in validation_groups and not is_validation_image(id_)
        ),
        validation_hashes=np.array(sorted({hash_by_id[id_] for id_ in validation_ids}), dtype=np.uint64),
        ignored_sizes=tuple(sorted((size for size in sizes.values() if size > limit), reverse=True)),
    )
