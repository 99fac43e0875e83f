"""What of a release's rows stays out for the sake of benchmarks, people's rights, and an honest validation split.

In: rows and rejects as assembly yields them. Out: the same, with a `Reject` in place of each row that stays out.
Without pictures to compare, no picture is looked at; with them, each is decoded once more, and never again (seen.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from compact_hf.dataset.exclusions import Exclusions
from compact_hf.dataset.image_similarity import NearPictures, near_pictures
from compact_hf.dataset.looks import Look, Looks
from compact_hf.dataset.seen import Seen
from compact_hf.records import Reject, Row


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
