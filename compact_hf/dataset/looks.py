"""What tells whether two pictures are the same or alike: in go pictures' bytes, out come hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from compact_hf.dataset.seen import Seen
from compact_hf.errors import ReleaseError
from compact_hf.images.codec import clean
from compact_hf.images.inspection import image_id_of
from compact_hf.images.phash import perceptual_hash
from compact_hf.records import Reject, Row


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
