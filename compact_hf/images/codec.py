"""Decode, scale and strip images: the one codec that screening, training, evaluation and teachers share.

Only the four decoders that are needed are ever tried, on files without their metadata (containers.py), and whatever
Pillow raises on bad input becomes one error with a short fixed reason. Orientation is always applied.
"""

from __future__ import annotations

import math
import struct
from io import BytesIO
from typing import Any, Final

from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from compact_hf.errors import SourceError, UsageError
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


_TEACHER_QUALITY: Final = 90
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
    image.save(out, format="JPEG", quality=_TEACHER_QUALITY)
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


_STRIPPED_QUALITY: Final = 95
_LOSSLESS_WEBP: Final = b"VP8L"
_LONGEST_WEBP: Final = 16383


def clean(data: bytes) -> bytes:
    """Return the same picture without EXIF, XMP, IPTC, comments, thumbnails and whatever follows its end.

    The compressed pixels stay untouched wherever they can. The picture is decoded and written anew, in the same
    format, only where it has to be: turned the right way up (EXIF orientation), the first frame of an animation,
    sixteen-bit grey (as eight-bit grey), a file without a proper end; and a GIF becomes a PNG, as does the rare
    animation that is larger than a still WebP can be. The same bytes in give the same bytes out, and cleaning twice
    changes nothing.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file; `look` has found that it decodes.

    Raises:
        PictureError: the bytes are no picture, or it has to be decoded and cannot be.
    """
    file = stripped(data)
    if file.complete and file.orientation == 1:
        return file.data
    return _written_anew(file)


def _written_anew(file: Bare) -> bytes:
    image = loaded(file)
    options: dict[str, Any] = {"format": "PNG"}
    if file.format == "JPEG":
        options = {"format": "JPEG", "quality": _STRIPPED_QUALITY, "subsampling": 0}
    elif file.format == "WEBP" and max(image.size) <= _LONGEST_WEBP:
        options = {"format": "WEBP", "quality": _STRIPPED_QUALITY, "lossless": _LOSSLESS_WEBP in file.data}
    out = BytesIO()
    image.save(out, **options, icc_profile=image.info.get("icc_profile"))
    return out.getvalue()
