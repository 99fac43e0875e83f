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
from compact_hf.images.containers import ImageFormat, StrippedImage, strip
from compact_hf.images.reasons import ImageReason
from compact_hf.images.source import MAX_EDGE

MAX_PIXELS: Final = 100_000_000
"""Largest image that is decoded; it takes 300 MB. More is a decompression bomb or no use to a 1024-pixel teacher."""

# Called directly: Image.open would try forty formats, and warn of large images instead of leaving that to us.
_DECODERS: Final[dict[ImageFormat, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
# What Pillow raises on bad files: OSError where a stream is cut or broken, SyntaxError for a bad header or chunk,
# ValueError for impossible values, EOFError where a frame is missing, struct.error and IndexError where a chunk behind
# the pixels is shorter than its kind.
_DECODE_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)
# A GIF's frame may be larger than the GIF; Pillow checks that itself. The warning is raised only where warnings are.
_BOMB_ERRORS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What the pixels mean, and nothing else: Pillow writes comments that it has read into whatever it saves.
_PIXEL_INFO_KEYS: Final = ("icc_profile", "transparency")

_TRANSPOSES: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(SourceError):
    """These bytes cannot be shown as an image.

    Attributes:
        reason (`str`): an `ImageReason`.
        detail (`str`): what was found, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def strip_metadata(data: bytes) -> StrippedImage:
    """Return the image file without its metadata.

    Raises:
        ImageError: `empty file` or `not a picture`.
    """
    if not data:
        raise ImageError(ImageReason.EMPTY, "0 bytes")
    file = strip(data)
    if file is None:
        raise ImageError(ImageReason.NO_IMAGE, f"{len(data)} bytes that are no JPEG, PNG, WebP or GIF")
    return file


def open_header(file: StrippedImage) -> ImageFile.ImageFile:
    """Return the image with its size known and its pixels not yet decoded, orientation not yet applied.

    Raises:
        ImageError: `corrupt picture` or `too many pixels`.
    """
    try:
        image = _DECODERS[file.format](BytesIO(file.data))
    except _DECODE_ERRORS as error:
        raise _corrupt_error(file, error) from error
    except _BOMB_ERRORS as error:
        raise ImageError(ImageReason.TOO_LARGE, str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(ImageReason.TOO_LARGE, f"{image.width} x {image.height}, at most {MAX_PIXELS} in all")
    return image


def decode(file: StrippedImage, *, target_edge: int | None = None) -> Image.Image:
    """Return the first frame's pixels, the right way up, with colour profile and transparent colour alone as `info`.

    Args:
        file (`StrippedImage`): from `strip_metadata`.
        target_edge (`int`, *optional*): the longer edge in pixels that is enough; a larger JPEG is decoded at a half,
            a quarter or an eighth of its size where that still leaves so many, which is several times faster.

    Raises:
        ImageError: `corrupt picture` or `too many pixels`.
    """
    image = open_header(file)
    if target_edge is not None:
        scale = min(1.0, target_edge / max(image.size))
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    try:
        image.load()
    except _DECODE_ERRORS as error:
        raise _corrupt_error(file, error) from error
    except _BOMB_ERRORS as error:
        raise ImageError(ImageReason.TOO_LARGE, str(error)) from error
    image.info = {name: image.info[name] for name in _PIXEL_INFO_KEYS if name in image.info}
    pixels = _to_eight_bit(image)
    return pixels.transpose(_TRANSPOSES[file.orientation]) if file.orientation in _TRANSPOSES else pixels


def _corrupt_error(file: StrippedImage, error: BaseException) -> ImageError:
    return ImageError(ImageReason.CORRUPT, f"{file.format}: {error or type(error).__name__}")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey as eight-bit grey: Pillow's own conversion clips it to white."""
    if not image.mode.startswith("I"):
        return image
    return image.point(lambda value: value * (1 / 256) + 0).convert("L")


_TEACHER_QUALITY: Final = 90
# Bytes per pixel; more is a JPEG of a quality that a teacher does not see.
_MAX_BYTES_PER_PIXEL: Final = 0.5


def check_max_edge(max_edge: int) -> int:
    """Return a size for images that are sent, if it is one.

    Raises:
        UsageError: it is not at least one pixel.
    """
    if max_edge < 1:
        raise UsageError(f"got a max-edge of {max_edge} pixels; it must be at least 1")
    return max_edge


def encode_for_teacher(data: bytes, max_edge: int = MAX_EDGE) -> bytes:
    """Return the image as a JPEG without metadata, upright, transparency on white.

    A JPEG that is all that already, and light, stays as it is: nothing is lost, and nothing has to be decoded.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.
        max_edge (`int`, *optional*, defaults to 1024): pixels that the longer edge has at most; smaller images
            keep their size.

    Raises:
        ImageError: the bytes are no image, or cannot be decoded.
    """
    file = strip_metadata(data)
    if _is_sendable(file, max_edge):
        return file.data
    image = flatten_on_white(decode(file, target_edge=max_edge))
    # As sharp as bicubic where images get smaller, in less time: of a photograph this is half of the work.
    image.thumbnail((max_edge, max_edge), Image.Resampling.HAMMING)
    out = BytesIO()
    image.save(out, format="JPEG", quality=_TEACHER_QUALITY)
    return out.getvalue()


def _is_sendable(file: StrippedImage, max_edge: int) -> bool:
    if file.format != "JPEG" or not file.is_complete or file.orientation != 1:
        return False
    image = open_header(file)
    is_small = len(file.data) <= image.width * image.height * _MAX_BYTES_PER_PIXEL
    return image.mode == "RGB" and max(image.size) <= max_edge and is_small


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Return the image as RGB, what is transparent in it as white."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


_REENCODE_QUALITY: Final = 95
_LOSSLESS_WEBP_TAG: Final = b"VP8L"
_MAX_WEBP_EDGE: Final = 16383


def clean_image(data: bytes) -> bytes:
    """Return the same image without EXIF, XMP, IPTC, comments, thumbnails and whatever follows its end.

    The compressed pixels stay untouched wherever they can. The image is decoded and written anew, in the same
    format, only where it has to be: turned the right way up (EXIF orientation), the first frame of an animation,
    sixteen-bit grey (as eight-bit grey), a file without a proper end; and a GIF becomes a PNG, as does the rare
    animation that is larger than a still WebP can be. The same bytes in give the same bytes out, and cleaning twice
    changes nothing.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file; `inspect_image` has found that it decodes.

    Raises:
        ImageError: the bytes are no image, or it has to be decoded and cannot be.
    """
    file = strip_metadata(data)
    if file.is_complete and file.orientation == 1:
        return file.data
    return _reencode(file)


def _reencode(file: StrippedImage) -> bytes:
    image = decode(file)
    options: dict[str, Any] = {"format": "PNG"}
    if file.format == "JPEG":
        options = {"format": "JPEG", "quality": _REENCODE_QUALITY, "subsampling": 0}
    elif file.format == "WEBP" and max(image.size) <= _MAX_WEBP_EDGE:
        options = {"format": "WEBP", "quality": _REENCODE_QUALITY, "lossless": _LOSSLESS_WEBP_TAG in file.data}
    out = BytesIO()
    image.save(out, **options, icc_profile=image.info.get("icc_profile"))
    return out.getvalue()
