"""Inspects an image: reads and decodes it once, and returns its id, size and origin, or the reason to reject it."""

from __future__ import annotations

import hashlib
from typing import Final

from compact_hf.images.codec import ImageError, decode, open_header, strip_metadata
from compact_hf.images.reasons import ImageReason
from compact_hf.images.source import MAX_EDGE, ImageSource
from compact_hf.records import ImageInfo, Reject

MIN_EDGE: Final = 16
"""Minimum length of the shorter edge in pixels. Smaller images are tracking pixels and spacers without content."""

MAX_ASPECT_RATIO: Final = MAX_EDGE // MIN_EDGE
"""Maximum ratio of the longer to the shorter edge.

A longer strip has less than `MIN_EDGE` pixels on the shorter edge once it is scaled to `MAX_EDGE` for a teacher, so
that nothing can be recognised. Cutting it into several images would show teachers other pixels than training sees.
"""

_ROTATED_ORIENTATIONS: Final = (5, 6, 7, 8)


def compute_image_id(data: bytes) -> str:
    """Return the id of an image file: the first 32 hex digits of the SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def inspect_image(source: ImageSource, ref: str) -> ImageInfo | Reject:
    """Read and decode an image, and return its description or the reason to reject it.

    The image is decoded to its last byte, so that a truncated file is found here and not after teachers have been paid
    for it. Width and height have the EXIF orientation applied. Of an animation, the first frame is used.

    Args:
        source (`ImageSource`): the source of the image.
        ref (`str`): one of `source.refs()`.

    Returns:
        The `ImageInfo`, or a `Reject` of the stage for images. Its reason is one of `ImageReason`, or the reason of the
        `ImageError` that the source raised.

    Raises:
        SourceError: the source as a whole can no longer be read.
    """
    try:
        data = source.read(ref)
        file = strip_metadata(data)
        width, height = open_header(file).size
        # Decoding a JPEG at 1/8 of its size also reads all of its bytes, in a fraction of the time.
        decode(file, target_edge=1)
    except OSError as error:
        return Reject("picture", ImageReason.UNREADABLE, ref, error.strerror or type(error).__name__)
    except ImageError as error:
        return Reject("picture", error.reason, ref, error.detail)
    if min(width, height) < MIN_EDGE:
        return Reject(
            "picture", ImageReason.TOO_SMALL, ref, f"{width} x {height}, minimum {MIN_EDGE} on the shorter edge"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return Reject(
            "picture",
            ImageReason.TOO_NARROW,
            ref,
            f"{width} x {height}, maximum {MAX_ASPECT_RATIO} times as long as wide",
        )
    if file.orientation in _ROTATED_ORIENTATIONS:
        width, height = height, width
    return ImageInfo(compute_image_id(data), ref, width, height, *source.origin(ref))
