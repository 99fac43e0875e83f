"""Leave rows out: takedowns by id, images of other datasets such as benchmarks, and near duplicates across the splits.

Each row that stays out becomes a `Reject`, which the card counts as every other. An image counts as one of a dataset if
the bytes of its file are the same, with or without metadata, or if their perceptual hashes differ in at most
`MAX_COPY_DISTANCE` bits. That finds what was compressed or scaled again. It does not find what was cropped, mirrored or
turned, and rarely takes something else for it that looks the same in 32 x 32 grey pixels.
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

MAX_COPY_DISTANCE: Final = 4
"""Bits, of 64, in which the hashes of one image may differ after it was compressed or scaled again."""


@dataclass(frozen=True, slots=True)
class ExcludedImages:
    """Images of other datasets, and how they are recognised.

    Attributes:
        ids (`frozenset[str]`): hashes of their bytes, as they are and without metadata.
        hashes (`Hashes`): of shape [n], what they look like.
    """

    ids: frozenset[str]
    hashes: Hashes

    def contains(self, fingerprint: ImageFingerprint) -> bool:
        """Whether an image is one of these."""
        is_similar = fingerprint.hash is not None and min_distance(fingerprint.hash, self.hashes) <= MAX_COPY_DISTANCE
        return is_similar or not self.ids.isdisjoint(fingerprint.ids)


def read_excluded_images(datasets: Sequence[str]) -> ExcludedImages:
    """Look at all images of some datasets; what stays in memory are 300 bytes of each.

    Args:
        datasets (`Sequence[str]`): each a folder of images, a release, or `org/name[@revision]` on the Hub.

    Raises:
        SourceError: one of them cannot be read, or holds no images.
        UsageError: one is not the address of a dataset.
    """
    ids: set[str] = set()
    hashes: set[int] = set()
    for dataset in datasets:
        for fingerprint in _iter_fingerprints(_open_images(dataset), dataset):
            ids |= fingerprint.ids
            if fingerprint.hash is not None:
                hashes.add(fingerprint.hash)
    return ExcludedImages(frozenset(ids), np.array(sorted(hashes), dtype=np.uint64))


def read_ids(file: Path) -> frozenset[str]:
    """Return the ids in a file: those of rows or of images, one a line, with comments after `#`.

    Raises:
        UsageError: the file cannot be read, or holds no ids.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read ({error.strerror}); give a text file with an id on each line"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8; give a text file with an id on each line") from None
    ids = frozenset(filter(None, (line.partition("#")[0].strip().lower() for line in lines)))
    if not ids:
        raise UsageError(f"{file} holds no ids; give those of rows or of pictures, one a line, or leave it out")
    return ids


class Exclusions:
    """Decides what stays out, and remembers which ids were met.

    Args:
        ids (`frozenset[str]`): of rows or of images.
        images (`ExcludedImages`, *optional*): of other datasets; where there are none, no image is looked at.
    """

    def __init__(self, ids: frozenset[str], images: ExcludedImages | None) -> None:
        self._ids = ids
        self._matched_ids: set[str] = set()
        self._images = images

    @property
    def has_images(self) -> bool:
        """Whether images have to be looked at."""
        return self._images is not None

    @property
    def unmatched_ids(self) -> list[str]:
        """The ids that no row or image has had, sorted."""
        return sorted(self._ids - self._matched_ids)

    def find_reject(self, row: Row, fingerprints: Fingerprints) -> Reject | None:
        """Return why a row stays out, None if it does not.

        Args:
            row (`Row`): the row.
            fingerprints (`Fingerprints`): its images', where images are looked at.
        """
        if matched := self._ids & {row.id, *row.image_ids}:
            self._matched_ids |= matched
            return Reject("assembly", AssemblyReason.EXCLUDED_ID, row.id, ", ".join(sorted(matched)))
        if self._images is not None and any(map(self._images.contains, fingerprints)):
            return Reject("assembly", AssemblyReason.EXCLUDED_IMAGE, row.id, str(row.image_id))
        return None


def _open_images(dataset: str) -> ImageSource:
    path = Path(dataset)
    if path.is_dir() and next(path.rglob("*.parquet"), None) is not None:
        return DatasetSource(Address(str(path.resolve()), on_hub=False))
    if not path.exists() and RepoRef.parse(dataset.partition("?")[0]):
        return open_source(f"{HUB_PREFIX}{dataset}")
    return open_source(dataset)


def _iter_fingerprints(source: ImageSource, dataset: str) -> Iterator[ImageFingerprint]:
    def read_fingerprint(ref: str) -> ImageFingerprint | None:
        try:
            return fingerprint_image(source.read(ref))
        except (FileNotFoundError, ImageError):
            return None  # a row without an image, or one that no release can hold, as it cannot be decoded
        except OSError as error:
            raise SourceError(
                f"{ref} in {dataset} cannot be read ({error.strerror or error}), so it could not be left out; mend it"
            ) from error

    for _, fingerprint in prefetch(source.refs(), read_fingerprint):
        if fingerprint is not None:
            yield fingerprint


class RowFilter:
    """Decides row by row.

    Args:
        exclusions (`Exclusions`): what is left out on request.
        fingerprint_cache (`FingerprintCache`): fingerprints of images that were seen before.
        distance (`int`, *optional*): bits in which the hashes of images that look alike may differ; None does not
            compare the splits.
    """

    def __init__(self, exclusions: Exclusions, fingerprint_cache: FingerprintCache, *, distance: int | None) -> None:
        self._exclusions = exclusions
        self._distance = distance
        self._similar_images: SimilarImages | None = None
        self._fingerprint_reader = FingerprintReader(fingerprint_cache)

    def compare_images(self, iter_rows: Callable[[], Iterator[Row | Reject]]) -> None:
        """Find the images that look alike in the rows of the runs, before `apply`; nothing to do without a distance.

        Raises:
            ReleaseError, SourceError: an image cannot be read any more.
        """
        if self._distance is None:
            return
        hashes = {
            image_id: fingerprint.hash
            for row, fingerprints in self._fingerprint_reader.iter_fingerprints(iter_rows())
            if isinstance(row, Row) and self._exclusions.find_reject(row, fingerprints) is None
            for image_id, fingerprint in zip(row.image_ids, fingerprints, strict=True)
        }
        self._similar_images = find_similar_images(hashes, self._distance)

    def apply(self, rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
        """Yield the rows that stay, and a reject for each that does not.

        Raises:
            ReleaseError, SourceError: an image cannot be read any more.
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
            # What has come into the runs since the images were compared is left for the next release.
            elif (
                self._similar_images is None
                or row.source == INSTRUCTION
                or self._similar_images.image_ids.issuperset(row.image_ids)
            ):
                yield row

    def notes(self) -> Iterator[str]:
        """Yield what people should know at the end, each as one line."""
        for unmatched_id in self._exclusions.unmatched_ids:
            yield f"{unmatched_id} is to be left out, and is the id of no row or picture here"
        if self._similar_images is not None and self._similar_images.ignored_sizes:
            sizes = ", ".join(map(str, self._similar_images.ignored_sizes[:5]))
            yield (
                f"{len(self._similar_images.ignored_sizes)} groups of pictures that look alike are over 1% of "
                "all and stay in both "
                f"splits ({sizes} pictures); lower --group-similar if they are no copies"
            )
