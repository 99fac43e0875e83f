"""Excludes rows: takedowns by id, images of other datasets such as benchmarks, and near duplicates across the splits.

Each excluded row becomes a `Reject`, which the card counts like any other. An image belongs to an excluded dataset if a
file there has the same bytes, with or without metadata, or a perceptual hash that differs in at most
`MAX_COPY_DISTANCE` bits. This finds images that were compressed or scaled again, but not cropped, mirrored or rotated
ones. In rare cases it takes a different image for a copy, if the two look the same in 32 x 32 grey pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from compact_hf.dataset.image_similarity import (
    FingerprintCache,
    FingerprintReader,
    Fingerprints,
    ImageFingerprint,
    SimilarImages,
    find_similar_images,
    fingerprint_image,
)
from compact_hf.dataset.reasons import AssemblyReason
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.errors import SourceError, UsageError
from compact_hf.hub.ref import RepoRef
from compact_hf.images.address import HUB_PREFIX, Address
from compact_hf.images.codec import ImageError
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.phash import Hashes, min_distance
from compact_hf.images.source import ImageSource
from compact_hf.records import Reject, Row
from compact_hf.runs.sources import open_source
from compact_hf.storage import prefetch
from compact_hf.wording import format_count

MAX_COPY_DISTANCE: Final = 4
"""Bits, of 64, by which the hashes of an image may differ after it was compressed or scaled again."""


@dataclass(frozen=True, slots=True)
class ExcludedImages:
    """The images of other datasets, and how they are recognised.

    Attributes:
        ids (`frozenset[str]`): hashes of the files' bytes, both as they are and without metadata.
        hashes (`Hashes`): perceptual hashes, of shape `(n,)`.
        notes (`tuple[str, ...]`): lines about files that were skipped, whose images are not excluded.
    """

    ids: frozenset[str]
    hashes: Hashes
    notes: tuple[str, ...]

    def contains(self, fingerprint: ImageFingerprint) -> bool:
        """Return whether an image is a copy of one of these.

        Args:
            fingerprint (`ImageFingerprint`): fingerprint of the image.
        """
        is_similar = fingerprint.hash is not None and min_distance(fingerprint.hash, self.hashes) <= MAX_COPY_DISTANCE
        return is_similar or not self.ids.isdisjoint(fingerprint.ids)


def read_excluded_images(datasets: Sequence[str]) -> ExcludedImages:
    """Read all images of datasets that are to be excluded. About 300 bytes per image stay in memory.

    Args:
        datasets (`Sequence[str]`): each an image directory, a release, or `org/name[@revision]` on the Hub.

    Returns:
        Hashes of the images.

    Raises:
        SourceError: a dataset cannot be read, or contains no images.
        UsageError: an address is not that of a dataset.
    """
    ids: set[str] = set()
    hashes: set[int] = set()
    notes: list[str] = []
    for dataset in datasets:
        source = _open_images(dataset)
        for fingerprint in _iter_fingerprints(source, dataset):
            ids |= fingerprint.ids
            if fingerprint.hash is not None:
                hashes.add(fingerprint.hash)
        notes += filter(None, [source.describe_skipped()])
    return ExcludedImages(frozenset(ids), np.array(sorted(hashes), dtype=np.uint64), tuple(notes))


def read_ids(file: Path) -> frozenset[str]:
    """Return the ids of rows or images in a text file: one per line, with comments after `#`.

    Args:
        file (`Path`): the file, in UTF-8.

    Returns:
        The ids, in lower case.

    Raises:
        UsageError: the file cannot be read, or contains no ids.
    """
    try:
        # utf-8-sig skips the byte order mark that some Windows editors write before the first id.
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): give a text file with one id per line") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8: give a text file with one id per line") from None
    ids = frozenset(filter(None, (line.partition("#")[0].strip().lower() for line in lines)))
    if not ids:
        raise UsageError(f"{file} contains no ids: list ids of rows or images, one per line, or omit the option")
    return ids


class Exclusions:
    """Decides which rows are excluded on request, and records which of the given ids were found.

    Args:
        ids (`frozenset[str]`): ids of rows or images.
        images (`ExcludedImages`, *optional*): the images of other datasets. If None, no image is read.
    """

    def __init__(self, ids: frozenset[str], images: ExcludedImages | None) -> None:
        self._ids = ids
        self._matched_ids: set[str] = set()
        self._images = images

    @property
    def has_images(self) -> bool:
        """Whether the images of rows have to be read."""
        return self._images is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about files whose images are not excluded, because they were skipped."""
        return self._images.notes if self._images is not None else ()

    @property
    def unmatched_ids(self) -> list[str]:
        """The given ids, sorted, that no row or image had."""
        return sorted(self._ids - self._matched_ids)

    def find_reject(self, row: Row, fingerprints: Fingerprints) -> Reject | None:
        """Return the reject of an excluded row, or None if the row is kept.

        Args:
            row (`Row`): the row.
            fingerprints (`Fingerprints`): those of its images; empty if images are not read.
        """
        # By id first: it needs no image, and `notes` must know every id that matched.
        if matched := self._ids & {row.id, *row.image_ids}:
            self._matched_ids |= matched
            return row.reject("assembly", AssemblyReason.EXCLUDED_ID, ", ".join(sorted(matched)))
        if self._images is not None and any(map(self._images.contains, fingerprints)):
            return row.reject("assembly", AssemblyReason.EXCLUDED_IMAGE, str(row.image_id))
        return None


def _open_images(dataset: str) -> ImageSource:
    """Open a dataset by its address: a directory of Parquet files, a repository, or any other image source."""
    path = Path(dataset)
    # A release: its images are in Parquet files, which an image directory does not search.
    if path.is_dir() and next(path.rglob("*.parquet"), None) is not None:
        return DatasetSource(Address(str(path.resolve()), on_hub=False))
    # `images/train` may be a path or a repository: an existing path wins. Options such as ?config= follow the name.
    if not path.exists() and RepoRef.parse(dataset.partition("?")[0]):
        return open_source(f"{HUB_PREFIX}{dataset}")
    return open_source(dataset)


def _iter_fingerprints(source: ImageSource, dataset: str) -> Iterator[ImageFingerprint]:
    """Yield the fingerprints of all images of a source that can be decoded."""

    def read_fingerprint(ref: str) -> ImageFingerprint | None:
        try:
            return fingerprint_image(source.read(ref))
        except (FileNotFoundError, ImageError):
            return None  # a row without an image, or an image that cannot be decoded and so cannot be in a release
        except OSError as error:
            raise SourceError(
                f"{ref} in {dataset} cannot be read, so it cannot be excluded ({error.strerror or error}): "
                "fix it and retry"
            ) from error

    for _, fingerprint in prefetch(source.refs(), read_fingerprint):
        if fingerprint is not None:
            yield fingerprint


class RowFilter:
    """Filters rows: exclusions on request, then training images that are similar to a validation image.

    Args:
        exclusions (`Exclusions`): what is excluded on request.
        fingerprint_cache (`FingerprintCache`): cache of the images' fingerprints.
        distance (`int`, *optional*): number of bits by which the hashes of similar images may differ. None: the splits
            are not compared.
    """

    def __init__(self, exclusions: Exclusions, fingerprint_cache: FingerprintCache, *, distance: int | None) -> None:
        self._exclusions = exclusions
        self._distance = distance
        self._similar_images: SimilarImages | None = None
        self._fingerprint_reader = FingerprintReader(fingerprint_cache)

    def compare_images(self, iter_rows: Callable[[], Iterator[Row | Reject]]) -> None:
        """Group the similar images of the runs. Call it before `apply`; without a distance it does nothing.

        Args:
            iter_rows (`Callable[[], Iterator[Row | Reject]]`): returns an iterator over the rows of the runs.

        Raises:
            ReleaseError: an image cannot be read any more, or has changed.
            SourceError: an image source cannot be read any more.
        """
        if self._distance is None:
            return
        hashes = {
            image_id: fingerprint.hash
            for row, fingerprints in self._fingerprint_reader.iter_fingerprints(iter_rows())
            # An excluded image is not in the release, so it must not exclude images that are similar to it.
            if isinstance(row, Row) and self._exclusions.find_reject(row, fingerprints) is None
            for image_id, fingerprint in zip(row.image_ids, fingerprints, strict=True)
        }
        self._similar_images = find_similar_images(hashes, self._distance)

    def apply(self, rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
        """Yield the rows that are kept, and a reject for each row that is not.

        Args:
            rows (`Iterable[Row | Reject]`): the rows; rejects among them are passed on.

        Raises:
            ReleaseError: an image cannot be read any more, or has changed.
            SourceError: an image source cannot be read any more.
        """
        needs_images = self._distance is not None or self._exclusions.has_images
        pairs: Iterable[tuple[Row | Reject, Fingerprints]] = (
            self._fingerprint_reader.iter_fingerprints(rows) if needs_images else ((row, ()) for row in rows)
        )
        for row, fingerprints in pairs:
            if isinstance(row, Reject):
                yield row
            elif reject := self._exclusions.find_reject(row, fingerprints) or (
                self._similar_images.find_reject(row, fingerprints) if self._similar_images else None
            ):
                yield reject
            # Rows of a running run that were added after the images were compared are left for the next release.
            elif (
                self._similar_images is None
                or row.source == INSTRUCTION
                or self._similar_images.image_ids.issuperset(row.image_ids)
            ):
                yield row

    def notes(self) -> Iterator[str]:
        """Yield notes for the user after the last row, one line each."""
        yield from self._exclusions.notes
        for unmatched_id in self._exclusions.unmatched_ids:
            yield f"excluded id {unmatched_id} matches no row or image"
        if self._similar_images is not None and self._similar_images.ignored_sizes:
            sizes = ", ".join(map(str, self._similar_images.ignored_sizes[:5]))
            groups = format_count(len(self._similar_images.ignored_sizes), "group")
            yield (
                f"kept in both splits: {groups} of similar images, each with more than 1% of all images ({sizes} "
                "images): lower --group-similar if they are not copies"
            )
