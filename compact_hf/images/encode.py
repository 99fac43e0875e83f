"""Pictures as teachers get them: in goes a file's bytes, out comes a small upright RGB JPEG."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from PIL import Image

from compact_hf.errors import UsageError
from compact_hf.images.codec import loaded, opened, stripped
from compact_hf.images.containers import Bare

_QUALITY: Final = 90
# Bytes per pixel; more is a JPEG of a quality that a teacher does not see.
_LIGHT: Final = 0.5


MAX_EDGE: Final = 1024
"""Pixels on the longer edge of a picture that is sent, unless told otherwise."""


def checked_edge(max_edge: int) -> int:
    """Return a size for pictures that are sent, if it is one.

    Raises:
        UsageError: it is not at least one pixel.
    """
    if max_edge < 1:
        raise UsageError(f"got a max-edge of {max_edge} pixels; it must be at least 1")
    return max_edge


def for_teacher(data: bytes, max_edge: int = MAX_EDGE) -> bytes:
    """Return the picture as a JPEG without metadata, upright, transparency on white.

    A JPEG that is all that already, and light, stays as it is: nothing is lost, and nothing has to be decoded.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.
        max_edge (`int`, *optional*, defaults to 1024): pixels that the longer edge has at most; smaller pictures
            keep their size.

    Raises:
        PictureError: the bytes are no picture, or cannot be decoded.
    """
    file = stripped(data)
    if _can_be_sent(file, max_edge):
        return file.data
    image = on_white(loaded(file, at_least=max_edge))
    # As sharp as bicubic where pictures get smaller, in less time: of a photograph this is half of the work.
    image.thumbnail((max_edge, max_edge), Image.Resampling.HAMMING)
    out = BytesIO()
    image.save(out, format="JPEG", quality=_QUALITY)
    return out.getvalue()


def _can_be_sent(file: Bare, max_edge: int) -> bool:
    if file.format != "JPEG" or not file.complete or file.orientation != 1:
        return False
    image = opened(file)
    light = len(file.data) <= image.width * image.height * _LIGHT
    return image.mode == "RGB" and max(image.size) <= max_edge and light


def on_white(image: Image.Image) -> Image.Image:
    """Return the picture as RGB, what is transparent in it as white."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("RGB")
