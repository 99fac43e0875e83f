"""Leave rows out: takedowns by id, images of other datasets such as benchmarks, and near duplicates across the splits.

Each row that stays out becomes a `Reject`, which the card counts as every other. An image counts as one of a dataset if
the bytes of its file are the same, with or without metadata, or if their perceptual hashes differ in at most
`SAME_WITHIN` bits. That finds what was compressed or scaled again. It does not find what was cropped, mirrored or
turned, and rarely takes something else for it that looks the same in 32 x 32 grey pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from compact_hf.dataset.image_similarity import Look, Looks, NearPictures, Seen, look_of, near_pictures
from compact_hf.errors import SourceError, UsageError
from compact_hf.images.address import HUB, Address
from compact_hf.images.codec import PictureError
from compact_hf.images.hub_dataset import DatasetPictures
from compact_hf.images.phash import Hashes, nearest
from compact_hf.images.source import Source
from compact_hf.records import Reject, Row
from compact_hf.runs.sources import open_source
from compact_hf.storage import prefetch

SAME_WITHIN: Final = 4
"""Bits, of 64, in which the hashes of one picture may differ after it was compressed or scaled again."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """Pictures of other data sets, and how they are recognised.

    Attributes:
        ids (`frozenset[str]`): hashes of their bytes, as they are and without metadata.
        hashes (`Hashes`): of shape [n], what they look like.
    """

    ids: frozenset[str]
    hashes: Hashes

    def holds(self, look: Look) -> bool:
        """Whether a picture is one of these."""
        alike = look.hash is not None and nearest(look.hash, self.hashes) <= SAME_WITHIN
        return alike or not self.ids.isdisjoint(look.ids)


def pictures_of(datasets: Sequence[str]) -> Excluded:
    """Look at all pictures of some data sets; what stays in memory are 300 bytes of each.

    Args:
        datasets (`Sequence[str]`): each a folder of pictures, a release, or `org/name[@revision]` on the Hub.

    Raises:
        SourceError: one of them cannot be read, or holds no pictures.
        UsageError: one is not the address of a data set.
    """
    ids: set[str] = set()
    hashes: set[int] = set()
    for text in datasets:
        for look in _looks_at(_opened(text), text):
            ids |= look.ids
            if look.hash is not None:
                hashes.add(look.hash)
    return Excluded(frozenset(ids), np.array(sorted(hashes), dtype=np.uint64))


def ids_in(file: Path) -> frozenset[str]:
    """Return the ids in a file: those of rows or of pictures, one a line, with comments after `#`.

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
        ids (`frozenset[str]`): of rows or of pictures.
        pictures (`Excluded`, *optional*): of other data sets; where there are none, no picture is looked at.
    """

    def __init__(self, ids: frozenset[str], pictures: Excluded | None) -> None:
        self._ids = ids
        self._met: set[str] = set()
        self._pictures = pictures

    @property
    def has_pictures(self) -> bool:
        """Whether pictures have to be looked at."""
        return self._pictures is not None

    @property
    def unmet(self) -> list[str]:
        """The ids that no row or picture has had, sorted."""
        return sorted(self._ids - self._met)

    def of(self, row: Row, look: Look | None) -> Reject | None:
        """Return why a row stays out, None if it does not.

        Args:
            row (`Row`): the row.
            look (`Look`, *optional*): its picture's, where pictures are looked at and it has one.
        """
        if met := self._ids & {row.id, row.image_id}:
            self._met |= met
            return Reject("assembly", "excluded by id", row.id, ", ".join(sorted(met)))
        if self._pictures is not None and look is not None and self._pictures.holds(look):
            return Reject("assembly", "picture of an excluded data set", row.id, str(row.image_id))
        return None


def _opened(text: str) -> Source:
    path = Path(text)
    if path.is_dir() and next(path.rglob("*.parquet"), None) is not None:
        return DatasetPictures(Address(str(path.resolve()), on_hub=False))
    if not path.exists() and not path.is_absolute() and text.partition("@")[0].count("/") == 1:
        return open_source(f"{HUB}{text}")
    return open_source(text)


def _looks_at(source: Source, told: str) -> Iterator[Look]:
    def looked(ref: str) -> Look | None:
        try:
            return look_of(source.read(ref))
        except (FileNotFoundError, PictureError):
            return None  # a row without a picture, or one that no release can hold, as it cannot be decoded
        except OSError as error:
            raise SourceError(
                f"{ref} in {told} cannot be read ({error.strerror or error}), so it could not be left out; mend it"
            ) from error

    for _, look in prefetch(source.refs(), looked):
        if look is not None:
            yield look


class Hygiene:
    """Decides row by row.

    Args:
        exclusions (`Exclusions`): what is left out on request.
        seen (`Seen`): where looks at pictures are kept.
        distance (`int`, *optional*): bits in which the hashes of pictures that look alike may differ; None does not
            compare the splits.
    """

    def __init__(self, exclusions: Exclusions, seen: Seen, *, distance: int | None) -> None:
        self._exclusions = exclusions
        self._distance = distance
        self._near: NearPictures | None = None
        self._looks = Looks(seen)

    def compare(self, conversations: Callable[[], Iterator[Row | Reject]]) -> None:
        """Find the conversations' pictures that look alike, before `kept`; nothing to do without a distance.

        Raises:
            ReleaseError, SourceError: a picture cannot be read any more.
        """
        if self._distance is None:
            return
        hashes = {
            str(row.image_id): look.hash
            for row, look in self._looks.at(conversations())
            if isinstance(row, Row) and look is not None and self._exclusions.of(row, look) is None
        }
        self._near = near_pictures(hashes, self._distance)

    def kept(self, rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
        """Yield the rows that stay, and a reject for each that does not.

        Raises:
            ReleaseError, SourceError: a picture cannot be read any more.
        """
        looking = self._distance is not None or self._exclusions.has_pictures
        looked: Iterable[tuple[Row | Reject, Look | None]] = (
            self._looks.at(rows) if looking else ((row, None) for row in rows)
        )
        for row, look in looked:
            if isinstance(row, Reject):
                yield row
            elif reject := self._exclusions.of(row, look) or (self._near.of(row, look) if self._near else None):
                yield reject
            # What has come into the runs since the pictures were compared is left for the next release.
            elif self._near is None or row.k is None or row.image_id in self._near.pictures:
                yield row

    def notes(self) -> Iterator[str]:
        """Yield what people should know at the end, each as one line."""
        for unmet in self._exclusions.unmet:
            yield f"{unmet} is to be left out, and is the id of no row or picture here"
        if self._near is not None and self._near.too_large:
            sizes = ", ".join(map(str, self._near.too_large[:5]))
            yield (
                f"{len(self._near.too_large)} groups of pictures that look alike are over 1% of all and stay in both "
                f"splits ({sizes} pictures); lower --group-similar if they are no copies"
            )
