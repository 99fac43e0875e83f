"""Defines the interface of image sources, such as directories, datasets and drawn scenes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

MAX_EDGE: Final = 1024
"""Default maximum length, in pixels, of the longer edge of images that are sent to teachers."""


class ImageSource(Protocol):
    """Lists images by reference and reads their encoded bytes.

    Attributes:
        identity (`str`): a text that identifies the source, such as an absolute path. It is part of a run's identity
            and is never published.
    """

    @property
    def identity(self) -> str: ...

    def refs(self) -> Iterator[str]:
        """Yield the reference of each image once, in an order that is always the same.

        Raises:
            SourceError: the source cannot be read or has no images.
        """
        ...

    def describe_skipped(self) -> str:
        """Return a line about the files that the last call of `refs` has skipped, an empty string if there are none."""
        ...

    def block(self, ref: str) -> str:
        """Return a name that is shared by all images that are read together, or `ref` if each is read separately."""
        ...

    def origin(self, ref: str) -> tuple[str, str]:
        """Return the origin and the license of an image.

        The origin is a name that may be published, never an absolute path. An unknown license is `unknown`.
        """
        ...

    def partial_hash(self, ref: str) -> str:
        """Return a text that is the same for images with the same bytes, from as few of them as possible.

        Raises:
            OSError, SourceError: as for `read`.
        """
        ...

    def stamp(self, ref: str) -> str:
        """Return a text that changes when the file at `ref` changes, without reading the file.

        The result of an inspection is reused as long as the stamp stays the same.
        """
        ...

    def read(self, ref: str) -> bytes:
        """Return the image file's bytes.

        Raises:
            OSError: this image cannot be read; others may be readable.
            ImageError: there is no image at this reference; the error has the reason.
            SourceError: the source as a whole can no longer be read.
        """
        ...
