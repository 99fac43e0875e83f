"""Looking at an image once: in goes a source and a reference, out comes a Image, or a Reject with its reason."""

from __future__ import annotations

import hashlib
from typing import Final

from compact_hf.images.codec import ImageError, decode, open_header, strip_metadata
from compact_hf.images.reasons import ImageReason
from compact_hf.images.source import ImageSource
from compact_hf.records import ImageInfo, Reject

MIN_EDGE: Final = 16
"""Pixels that the shorter edge must have: below are tracking pixels and spacers, with nothing to ask about."""

_ROTATED_ORIENTATIONS: Final = (5, 6, 7, 8)


def compute_image_id(data: bytes) -> str:
    """Return the id of an image file: the first 32 hex digits of the SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def inspect_image(source: ImageSource, ref: str) -> ImageInfo | Reject:
    """Read and decode an image, and say what it is.

    It is decoded to its last byte, so that a file that was cut shows here and not after it was paid for. Width and
    height are as people see it, EXIF orientation applied; of an animation the first frame counts.

    Args:
        source (`ImageSource`): where the image comes from.
        ref (`str`): one of `source.refs()`.

    Returns:
        The `ImageInfo`, or a `Reject` of stage `picture` whose reason is `unreadable file`, `empty file`,
        `not a picture`, `corrupt picture`, `too many pixels`, `too small`, or what the source says of it.

    Raises:
        SourceError: the source as a whole cannot be read any more.
    """
    try:
        data = source.read(ref)
        file = strip_metadata(data)
        width, height = open_header(file).size
        # An eighth of a JPEG takes as many bytes to decode as the whole, and a fraction of the time.
        decode(file, target_edge=1)
    except OSError as error:
        return Reject("picture", ImageReason.UNREADABLE, ref, error.strerror or type(error).__name__)
    except ImageError as error:
        return Reject("picture", error.reason, ref, error.detail)
    if min(width, height) < MIN_EDGE:
        return Reject(
            "picture", ImageReason.TOO_SMALL, ref, f"{width} x {height}, at least {MIN_EDGE} on the shorter edge"
        )
    if file.orientation in _ROTATED_ORIENTATIONS:
        width, height = height, width
    return ImageInfo(compute_image_id(data), ref, width, height, *source.origin(ref))
