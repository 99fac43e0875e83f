"""Where pictures come from: what a folder, drawn scenes and every other origin have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class ImageSource(Protocol):
    """A place that lists pictures by reference and hands out their bytes.

    Attributes:
        identity (`str`): what makes it this place and no other; part of a run's identity, never published.
    """

    @property
    def identity(self) -> str: ...

    def refs(self) -> Iterator[str]:
        """Yield every picture's reference once, in an order that is the same each time.

        Raises:
            SourceError: the place cannot be read, or holds no pictures.
        """
        ...

    def block(self, ref: str) -> str:
        """Return a name that is the same for all pictures that are fetched in one piece, `ref` where each is alone."""
        ...

    def origin(self, ref: str) -> tuple[str, str]:
        """Return where a picture comes from, by a name that may be published and is never an absolute path, and its
        licence, `unknown` where nobody said.
        """
        ...

    def stamp(self, ref: str) -> str:
        """Return a text that changes when the file at `ref` does, found without reading it; a look holds as long."""
        ...

    def read(self, ref: str) -> bytes:
        """Return the picture file's bytes.

        Raises:
            OSError: this one picture cannot be read.
            ImageError: there is no picture at this reference, and why.
            SourceError: the place cannot be read at all any more.
        """
        ...
