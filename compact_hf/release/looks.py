"""What tells whether two pictures are the same or alike: in go pictures' bytes, out come hashes, a few read ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from compact_hf.errors import ReleaseError
from compact_hf.images.clean import clean
from compact_hf.images.look import image_id_of
from compact_hf.images.perceptual import perceptual_hash
from compact_hf.records import Reject, Row
from compact_hf.release.ahead import with_results


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture is known by.

    Attributes:
        ids (`frozenset[str]`): hashes of its bytes, as they are and without metadata.
        hash (`int`, *optional*): 64 bits of what it looks like (images/perceptual.py).
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
    """Looks at the pictures of rows, each picture once; what is kept of each are about 500 bytes."""

    def __init__(self) -> None:
        self._known: dict[str, Look] = {}

    def at(self, rows: Iterable[Row | Reject]) -> Iterator[tuple[Row | Reject, Look | None]]:
        """Yield the rows in their order, each with the look of its picture, None where it has none.

        Raises:
            ReleaseError: a picture cannot be read any more.
            SourceError: it is another one now, or its source is gone.
        """
        for row, look in with_results(rows, self._at):
            if isinstance(row, Row) and row.image_id is not None and look is not None:
                self._known[row.image_id] = look
            yield row, look

    def _at(self, row: Row | Reject) -> Look | None:
        if isinstance(row, Reject) or row.read_picture is None or row.image_id is None:
            return None
        if row.image_id in self._known:
            return self._known[row.image_id]
        try:
            return look_of(row.read_picture())
        except OSError as error:
            raise ReleaseError(f"the picture of row {row.id} cannot be read any more ({error}); put it back") from error
