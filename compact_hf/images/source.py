"""Where pictures come from: the four names that a folder, drawn scenes and every other origin have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Source(Protocol):
    """A place that lists pictures by reference and hands out their bytes.

    Attributes:
        identity (`str`): what makes it this place and no other; part of a run's identity, never published.
        image_source (`str`): a name for it that may be published; never an absolute path.
        image_license (`str`): licence of its pictures, `unknown` where nobody said.
    """

    @property
    def identity(self) -> str: ...

    @property
    def image_source(self) -> str: ...

    @property
    def image_license(self) -> str: ...

    def refs(self) -> Iterator[str]:
        """Yield every picture's reference once, in an order that is the same each time.

        Raises:
            SourceError: the place cannot be read, or holds no pictures.
        """
        ...

    def stamp(self, ref: str) -> str:
        """Return a text that changes when the file at `ref` does, found without reading it; a look holds as long."""
        ...

    def read(self, ref: str) -> bytes:
        """Return the picture file's bytes.

        Raises:
            OSError: this one picture cannot be read.
            PictureError: there is no picture at this reference, and why.
            SourceError: the place cannot be read at all any more.
        """
        ...
