"""Finds identical and similar images: hashes of images, a cache of the hashes, and groups of images across the splits.

No image is decoded twice: the hashes of an image are stored in a file of the run directory as soon as they are
computed, so they also survive a kill. The split of an image depends only on the hash of its own bytes (schema.py), so
no image changes its split when the next version adds others. If a group of similar images contains a validation image,
its training images are excluded; what remains of the group is then in one split. Very large groups are reported and
kept: product photos on a white background, for example, all look similar.
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
    """The hashes by which copies of an image are recognised.

    Attributes:
        ids (`frozenset[str]`): hashes of the file's bytes, both as they are and without metadata.
        hash (`int`, *optional*): perceptual hash of 64 bits (images/phash.py); None for an image of a single colour.
    """

    ids: frozenset[str]
    hash: int | None


Fingerprints = tuple[ImageFingerprint, ...]
"""The fingerprints of a row's images, in order; empty if it has no image, or if images are not read."""


def fingerprint_image(data: bytes) -> ImageFingerprint:
    """Compute the fingerprint of an encoded image.

    Args:
        data (`bytes`): the image file.

    Returns:
        Its fingerprint.

    Raises:
        ImageError: the bytes are not an image, or cannot be decoded.
    """
    # Both hashes: another dataset may contain the original file, or the one that a release cleaned.
    return ImageFingerprint(
        frozenset((compute_image_id(data), compute_image_id(clean_image(data)))), perceptual_hash(data)
    )


class FingerprintReader:
    """Computes the fingerprints of the images of rows, once per image.

    Args:
        fingerprint_cache (`FingerprintCache`): the fingerprints that are known, by the hash of the image's bytes.
    """

    def __init__(self, fingerprint_cache: FingerprintCache) -> None:
        self._fingerprint_cache = fingerprint_cache

    def iter_fingerprints(self, rows: Iterable[Row | Reject]) -> Iterator[tuple[Row | Reject, Fingerprints]]:
        """Yield the rows in their order, each with the fingerprints of its images.

        Args:
            rows (`Iterable[Row | Reject]`): the rows; a reject comes with no fingerprints.

        Raises:
            ReleaseError: an image cannot be read any more, or has changed.
            SourceError: an image source cannot be read any more.
        """
        # Rows are split into images, so that threads work on images and rows of many images do not block others.
        looks = (look for row in rows for look in _iter_looks(row))
        # Invariant: holds the fingerprints of the current row, up to the last image that was read.
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
    """One image of a row, or the row itself if it has no image."""

    row: Row | Reject
    index: int = 0
    is_last: bool = True


def _iter_looks(row: Row | Reject) -> Iterator[_Look]:
    """Yield one item per image of a row, and one item for a row without images."""
    count = 0 if isinstance(row, Reject) else len(row.read_images)
    if not count:
        yield _Look(row)
    for index in range(count):
        yield _Look(row, index, index == count - 1)


def _image_id(look: _Look) -> str | None:
    row = look.row
    return None if isinstance(row, Reject) or not row.read_images else row.image_ids[look.index]


def _read_fingerprint(look: _Look) -> str:
    """Read an image and return its fingerprint as the JSON that the cache stores: `[ids, hash]`."""
    row = look.row
    assert isinstance(row, Row)
    try:
        fingerprint = fingerprint_image(row.read_images[look.index]())
    except OSError as error:
        raise ReleaseError(
            f"the image of row {row.id} cannot be read any more ({error}): restore it, or run the same command again"
        ) from error
    if row.image_ids[look.index] not in fingerprint.ids:  # else the cache would store a wrong fingerprint
        raise ReleaseError(f"the image of row {row.id} has changed since it was inspected: run the same command again")
    return json.dumps([sorted(fingerprint.ids), fingerprint.hash])


T = TypeVar("T")

# The names of the file, table and columns are those of existing run directories and do not change.
FILE_NAME: Final = "looks.sqlite"
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS looks (picture TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID"


class FingerprintCache:
    """Stores fingerprints of images in an SQLite file of the run directory, so that no image is decoded twice.

    Args:
        directory (`Path`, *optional*): directory of the file. Fingerprints are kept only in memory if it is None or not
            writable, or if it is on a network file system, where SQLite's locks are not reliable.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._file = ":memory:"
        # Runs may be mounted read-only; then the cache lasts as long as the process.
        if directory is not None and os.access(directory, os.W_OK) and get_network_file_system(directory) is None:
            self._file = str(directory / FILE_NAME)
        self._db: sqlite3.Connection | None = None

    def iter_cached(
        self, items: Iterable[T], get_key: Callable[[T], str | None], inspect: Callable[[T], str | None]
    ) -> Iterator[tuple[T, str | None]]:
        """Yield each item, in order, with the cached result for its image.

        Args:
            items (`Iterable[T]`): the items.
            get_key (`Callable[[T], str | None]`): returns the key of an item's image: the hash of its content, or its
                path with size and time of change; None for an item without an image, which is yielded with None.
            inspect (`Callable[[T], str | None]`): called in a thread for images that are not in the cache; returns a
                result as JSON, or None for one that must not be stored. Its exceptions are raised here.

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

        # The database is read and written in the thread of the caller; only `inspect` runs in others.
        for (item, key, cached), body in prefetch(iter_entries(), inspect_missing):
            if key is not None and cached is None and body is not None:
                with self._open() as db:
                    # REPLACE: the same image may be in several rows that were read ahead at the same time.
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
                # Autocommit: each result is stored at once, and a kill loses none of them.
                self._db = sqlite3.connect(self._file, isolation_level=None, timeout=10, check_same_thread=False)
                # Closes the file when the cache is garbage-collected; callers have nothing to close.
                weakref.finalize(self, self._db.close)
                # WAL: a reader does not block the writer. NORMAL: a power cut may lose the last results, but not damage
                # the file.
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute(_SCHEMA)
            yield self._db
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"{self._file} cannot be used ({error}): free some disk space, or delete this cache file"
            ) from error


MAX_GROUP_SHARE: Final = 0.01
"""A group with more than this share of all images is not regarded as copies of one image."""
MIN_SIZE_LIMIT: Final = 10
"""Groups of up to this size are never too large: in a small set, 1% of the images is less than a pair."""


@dataclass(frozen=True, slots=True)
class SimilarImages:
    """The training images that are similar to an image of the validation split.

    Attributes:
        distance (`int`): number of bits by which the hashes of two similar images may differ.
        image_ids (`frozenset[str]`): ids of all images that were compared.
        excluded_ids (`frozenset[str]`): ids of the training images in groups that contain a validation image.
        validation_hashes (`Hashes`): perceptual hashes of the validation images, of shape `(n,)`, except those in
            groups that are too large.
        ignored_sizes (`tuple[int, ...]`): sizes of the groups that are too large and therefore kept, largest first.
    """

    distance: int
    image_ids: frozenset[str]
    excluded_ids: frozenset[str]
    validation_hashes: Hashes
    ignored_sizes: tuple[int, ...]

    def find_reject(self, row: Row, fingerprints: Fingerprints) -> Reject | None:
        """Return the reject of a row that is similar to a validation image, or None if the row is kept.

        Rows of the runs were grouped beforehand; an instruction row is compared with every validation image.

        Args:
            row (`Row`): the row.
            fingerprints (`Fingerprints`): those of its images.
        """
        reason = AssemblyReason.LIKE_VALIDATION
        # Rows of runs: the groups are known, so no distance has to be computed.
        if row.source != INSTRUCTION:
            if self.excluded_ids.isdisjoint(row.image_ids):
                return None
            return row.reject("assembly", reason, str(row.image_id))
        hashes = (fingerprint.hash for fingerprint in fingerprints if fingerprint.hash is not None)
        if any(min_distance(hash, self.validation_hashes) <= self.distance for hash in hashes):
            return row.reject("instruction", reason, str(row.image_id))
        return None


def check_distance(distance: int) -> int:
    """Return the distance unchanged.

    Args:
        distance (`int`): number of bits.

    Raises:
        UsageError: it is not in the range 0 to 10.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"the distance of similar images is {distance} bits: use 0 to {MAX_DISTANCE}, commonly 6")
    return distance


def find_similar_images(hashes: Mapping[str, int | None], distance: int) -> SimilarImages:
    """Group similar images, and find the training images in groups with a validation image.

    The order of `hashes` does not matter.

    Args:
        hashes (`Mapping[str, int | None]`): perceptual hash of each image, by image id, without the instruction part;
            None for an image of a single colour.
        distance (`int`): 0 to 10 bits. Two images are in the same group if a chain of images connects them in which
            neighbours differ by at most this number of bits.

    Returns:
        The result of the comparison.
    """
    # Images of a single colour have no hash and are in no group: all of them would be similar.
    hash_by_id = {image_id: hash for image_id, hash in hashes.items() if hash is not None}
    ids = list(hash_by_id)
    group_by_id = dict(zip(ids, group_by_distance(list(hash_by_id.values()), distance).tolist(), strict=True))
    sizes = Counter(group_by_id.values())
    limit = max(MIN_SIZE_LIMIT, MAX_GROUP_SHARE * len(hashes))
    # Images in too large groups are left out here, so their groups exclude nothing below.
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
