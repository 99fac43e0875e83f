"""Picture bytes to pixels: in goes a file's bytes, out comes a decoded Pillow image the right way up.

Only the four decoders that are needed are ever tried, on files without their metadata (containers.py), and whatever
Pillow raises on bad input becomes one error with a short fixed reason.
"""

from __future__ import annotations

import math
import struct
from io import BytesIO
from typing import Final

from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from compact_hf.errors import SourceError
from compact_hf.images.containers import Bare, Format, bare

MAX_PIXELS: Final = 100_000_000
"""Largest picture that is decoded; it takes 300 MB. More is a decompression bomb or no use to a 1024-pixel teacher."""

# Called directly: Image.open would try forty formats, and warn of large pictures instead of leaving that to us.
_DECODERS: Final[dict[Format, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
# What Pillow raises on bad files: OSError where a stream is cut or broken, SyntaxError for a bad header or chunk,
# ValueError for impossible values, EOFError where a frame is missing, struct.error and IndexError where a chunk behind
# the pixels is shorter than its kind.
_BAD_FILE: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)
# A GIF's frame may be larger than the GIF; Pillow checks that itself. The warning is raised only where warnings are.
_BOMB: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What the pixels mean, and nothing else: Pillow writes comments that it has read into whatever it saves.
_MEANING: Final = ("icc_profile", "transparency")

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(SourceError):
    """These bytes cannot be shown as a picture.

    Attributes:
        reason (`str`): `empty file`, `not a picture`, `corrupt picture` or `too many pixels`.
        detail (`str`): what was found, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def stripped(data: bytes) -> Bare:
    """Return the picture file without its metadata.

    Raises:
        PictureError: `empty file` or `not a picture`.
    """
    if not data:
        raise PictureError("empty file", "0 bytes")
    found = bare(data)
    if found is None:
        raise PictureError("not a picture", f"{len(data)} bytes that are no JPEG, PNG, WebP or GIF")
    return found


def opened(picture: Bare) -> ImageFile.ImageFile:
    """Return the picture with its size known and its pixels not yet decoded, orientation not yet applied.

    Raises:
        PictureError: `corrupt picture` or `too many pixels`.
    """
    try:
        image = _DECODERS[picture.format](BytesIO(picture.data))
    except _BAD_FILE as error:
        raise _corrupt(picture, error) from error
    except _BOMB as error:
        raise PictureError("too many pixels", str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise PictureError("too many pixels", f"{image.width} x {image.height}, at most {MAX_PIXELS} in all")
    return image


def loaded(picture: Bare, *, at_least: int | None = None) -> Image.Image:
    """Return the first frame's pixels, the right way up, with colour profile and transparent colour alone as `info`.

    Args:
        picture (`Bare`): from `stripped`.
        at_least (`int`, *optional*): the longer edge in pixels that is enough; a larger JPEG is decoded at a half,
            a quarter or an eighth of its size where that still leaves so many, which is several times faster.

    Raises:
        PictureError: `corrupt picture` or `too many pixels`.
    """
    image = opened(picture)
    if at_least is not None:
        scale = min(1.0, at_least / max(image.size))
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    try:
        image.load()
    except _BAD_FILE as error:
        raise _corrupt(picture, error) from error
    except _BOMB as error:
        raise PictureError("too many pixels", str(error)) from error
    image.info = {name: image.info[name] for name in _MEANING if name in image.info}
    pixels = _eight_bit(image)
    return pixels.transpose(_UPRIGHT[picture.orientation]) if picture.orientation in _UPRIGHT else pixels


def _corrupt(picture: Bare, error: BaseException) -> PictureError:
    return PictureError("corrupt picture", f"{picture.format}: {error or type(error).__name__}")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey as eight-bit grey: Pillow's own conversion clips it to white."""
    if not image.mode.startswith("I"):
        return image
    return image.point(lambda value: value * (1 / 256) + 0).convert("L")
