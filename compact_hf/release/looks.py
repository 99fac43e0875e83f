"""What tells whether two pictures are the same or alike: in go pictures' bytes, out come hashes, a few read ahead.

A decoder lets go of Python's lock, so threads are enough to keep the cores busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from compact_hf.errors import ReleaseError
from compact_hf.images.clean import clean
from compact_hf.images.look import image_id_of
from compact_hf.images.perceptual import perceptual_hash
from compact_hf.records import Reject, Row

T = TypeVar("T")
U = TypeVar("U")

_READERS: Final = 4
_AHEAD: Final = 32


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


def with_results(items: Iterable[T], work: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Yield each item with what `work` makes of it, in order, a few being worked on ahead."""
    waiting: deque[tuple[T, Future[U]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="look") as pool:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) == _AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()
