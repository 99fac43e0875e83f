"""Where images come from: what a folder, drawn scenes and every other origin have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

MAX_EDGE: Final = 1024
"""Pixels on the longer edge of an image that is sent to a teacher, unless another size is given."""


class ImageSource(Protocol):
    """A place that lists images by reference and hands out their bytes.

    Attributes:
        identity (`str`): what makes it this place and no other; part of a run's identity, never published.
    """

    @property
    def identity(self) -> str: ...

    def refs(self) -> Iterator[str]:
        """Yield every image's reference once, in an order that is the same each time.

        Raises:
            SourceError: the place cannot be read, or holds no images.
        """
        ...

    def block(self, ref: str) -> str:
        """Return a name that is the same for all images that are fetched in one piece, `ref` where each is alone."""
        ...

    def origin(self, ref: str) -> tuple[str, str]:
        """Return where an image comes from, by a name that may be published and is never an absolute path, and its
        licence, `unknown` where nobody said.
        """
        ...

    def stamp(self, ref: str) -> str:
        """Return a text that changes when the file at `ref` does, found without reading it; a look holds as long."""
        ...

    def read(self, ref: str) -> bytes:
        """Return the image file's bytes.

        Raises:
            OSError: this one image cannot be read.
            ImageError: there is no image at this reference, and why.
            SourceError: the place cannot be read at all any more.
        """
        ...
