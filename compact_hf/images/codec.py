"""Decodes, scales and cleans images: the only place that decides which pixels a file has.

Screening, training, evaluation, teachers, the Space, cards, contact sheets and perceptual hashes use it. The decoders
only see files whose metadata has been removed (containers.py). All exceptions that Pillow raises on bad input become an
`ImageError` with a short fixed reason. `decode_rgb` returns RGB with eight bits, by these rules:

    orientation               that of EXIF is applied; one that is only in XMP is ignored
    animation                 the first frame of a GIF or WebP; of an animated PNG the image that other readers show
    transparency              on white: RGBA, LA, palettes with transparent entries, and a transparent colour, which
                              is ignored in RGB of 16 bits: Pillow reads only the upper eight
    1, L, P                   black and white, grey and palettes as the colours that they stand for
    16 bits a channel (PNG)   the upper eight bits. Pillow does so for colours, but it turns grey above 255 white
    CMYK and YCCK (JPEG)      Pillow's conversion, without a colour profile
    colour profile (ICC)      never applied; it stays in published files
    TIFF, BMP, HEIC, AVIF...  refused. A TIFF may be Lab, or have 32-bit or float values, which have no agreed range,
                              so that the owner has to convert it. This is a decision of this package
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
"""Maximum number of pixels of an image that is decoded; as RGB it takes 300 MB.

Larger files are decompression bombs, or have far more detail than a teacher sees at 1024 pixels.
"""

MAX_SCANS: Final = 100
"""Maximum number of scans of a JPEG that is decoded; encoders write about ten.

A scan of 60 bytes can cover the whole image, so a file of 200 KB could take minutes.
"""

# The decoders are called directly, because Image.open tries forty formats and applies its own limit on large images.
_DECODERS: Final[dict[ImageFormat, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
# Bytes 4 to 11 of HEIC and AVIF files (ISO/IEC 23008-12): the box `ftyp` with the major brand.
_HEIF_STARTS: Final = frozenset(b"ftyp" + brand for brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif"))
# The first four bytes of TIFF and BigTIFF files, in either byte order.
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What Pillow raises on bad files: OSError for a truncated or corrupt stream, SyntaxError for a bad header or chunk,
# ValueError for impossible values, EOFError for a missing frame, struct.error and IndexError for a chunk after the
# pixels that is too short for its type.
_DECODE_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)
# Pillow itself checks GIF frames that are larger than the GIF's canvas. The second is a warning, which is only raised
# when the warning filter is "error".
_BOMB_ERRORS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# The entries of `info` that are needed to interpret the pixels. All others are dropped, because Pillow writes comments
# that it has read into the files that it saves.
_PIXEL_INFO_KEYS: Final = ("icc_profile", "transparency")

# Bits per pixel of a PNG -> what Pillow multiplies its grey values by.
_GREY_SCALES: Final = {2: 85, 4: 17}

# EXIF orientation -> the operation that turns the image upright; 1 is upright already (EXIF 2.3, tag 0x0112).
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
    """Raised for bytes that cannot be decoded as an image.

    Attributes:
        reason (`str`): one of `ImageReason`, or of `RowReason` if there is no image.
        detail (`str`): description of what was found, for messages.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def strip_metadata(data: bytes) -> StrippedImage:
    """Return the image file without its metadata, not decoded.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.

    Raises:
        ImageError: `data` is empty, or is in none of these formats.
    """
    if not data:
        raise ImageError(ImageReason.EMPTY, "0 bytes")
    file = strip(data)
    if file is None:
        raise ImageError(ImageReason.NO_IMAGE, f"{len(data)} bytes, {_describe_kind(data)}")
    return file


def _describe_kind(data: bytes) -> str:
    """Return what a file is that the codec does not read, and what to do."""
    # Telephones and converters also name such files .jpg.
    if data[4:12] in _HEIF_STARTS:
        return "a HEIC or AVIF file, convert it to JPEG"
    # `datasets` stores arrays of floats and of more than 8 bits as TIFF.
    if data.startswith(_TIFF_STARTS):
        return "a TIFF file, convert it to PNG with 8 or 16 bits"
    return "not a JPEG, PNG, WebP or GIF file"


def open_header(file: StrippedImage) -> ImageFile.ImageFile:
    """Return the image after reading its header: the size is known, the pixels are not decoded yet.

    The EXIF orientation is not applied.

    Args:
        file (`StrippedImage`): result of `strip_metadata`.

    Raises:
        ImageError: the header is corrupt, or the image has more than `MAX_PIXELS` pixels or `MAX_SCANS` scans.
    """
    if file.num_scans > MAX_SCANS:
        raise ImageError(ImageReason.TOO_LARGE, f"{file.num_scans} scans, limit {MAX_SCANS}")
    try:
        image = _DECODERS[file.format](BytesIO(file.data))
    except _DECODE_ERRORS as error:
        raise _corrupt_error(file, error) from error
    except _BOMB_ERRORS as error:
        raise ImageError(ImageReason.TOO_LARGE, str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(ImageReason.TOO_LARGE, f"{image.width} x {image.height}, limit {MAX_PIXELS} pixels")
    return image


def decode(file: StrippedImage, *, target_edge: int | None = None) -> Image.Image:
    """Decode the first frame and return it upright; `info` only keeps the colour profile and the transparent colour.

    Args:
        file (`StrippedImage`): result of `strip_metadata`.
        target_edge (`int`, *optional*): length in pixels that the longer edge needs. A larger JPEG is decoded at 1/2,
            1/4 or 1/8 of its size as long as its longer edge keeps this length, which is several times faster. All
            other images are decoded at full size.

    Raises:
        ImageError: the file is corrupt, or the image has more than `MAX_PIXELS` pixels.
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
    if file.format == "PNG" and isinstance(pixels.info.get("transparency"), int):
        # Pillow has scaled the grey values of 2 and 4 bits, but not the transparent one.
        pixels.info["transparency"] *= _GREY_SCALES.get(file.data[24], 1)
    return pixels.transpose(_TRANSPOSES[file.orientation]) if file.orientation in _TRANSPOSES else pixels


def _corrupt_error(file: StrippedImage, error: BaseException) -> ImageError:
    return ImageError(ImageReason.CORRUPT, f"{file.format}: {error or type(error).__name__}")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8-bit grey, because Pillow's own conversion clips the values to white.

    A transparent value becomes an alpha channel, because others may have the same upper eight bits.
    """
    if not image.mode.startswith("I"):
        return image
    gray = image.point(lambda value: value * (1 / 256) + 0).convert("L")
    transparent = gray.info.pop("transparency", None)
    if transparent is None:
        return gray
    alpha = image.convert("I").point([255 * (value != transparent) for value in range(1 << 16)], "L")
    pixels = Image.merge("LA", (gray, alpha))
    pixels.info = gray.info
    return pixels


def decode_rgb(data: bytes) -> Image.Image:
    """Return the upright RGB pixels of an image file, by the rules in the module docstring.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.

    Raises:
        ImageError: `data` is not an image, or cannot be decoded.
    """
    return flatten_on_white(decode(strip_metadata(data)))


_TEACHER_QUALITY: Final = 90
# A JPEG with more bytes per pixel is encoded again, because teachers do not see the difference in quality.
_MAX_BYTES_PER_PIXEL: Final = 0.5


def check_max_edge(max_edge: int) -> int:
    """Return `max_edge` if it is a valid limit for the longer edge of images that are sent to teachers.

    Args:
        max_edge (`int`): the limit in pixels.

    Raises:
        UsageError: the limit is below one pixel.
    """
    if max_edge < 1:
        raise UsageError(f"max-edge is {max_edge} pixels: give at least 1")
    return max_edge


def encode_for_teacher(data: bytes, max_edge: int = MAX_EDGE) -> bytes:
    """Return the image as an upright RGB JPEG without metadata, with transparent areas in white.

    The pixels of a JPEG that meets all of this already, and has at most half a byte per pixel, are not decoded and stay
    unchanged.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.
        max_edge (`int`, *optional*, defaults to 1024): maximum length of the longer edge in pixels; smaller images
            keep their size.

    Raises:
        ImageError: `data` is not an image, or cannot be decoded.
    """
    file = strip_metadata(data)
    if _is_sendable(file, max_edge):
        return file.data
    image = flatten_on_white(decode(file, target_edge=max_edge))
    # Hamming is as sharp as bicubic for downscaling, and faster. Scaling is half of the time for a photograph.
    image.thumbnail((max_edge, max_edge), Image.Resampling.HAMMING)
    out = BytesIO()
    image.save(out, format="JPEG", quality=_TEACHER_QUALITY)
    return out.getvalue()


def _is_sendable(file: StrippedImage, max_edge: int) -> bool:
    """Return whether the file can be sent to a teacher without encoding it again."""
    if file.format != "JPEG" or not file.is_complete or file.orientation != 1:
        return False
    image = open_header(file)
    is_small = len(file.data) <= image.width * image.height * _MAX_BYTES_PER_PIXEL
    return image.mode == "RGB" and max(image.size) <= max_edge and is_small


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Return the image as RGB, with transparent areas in white."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


_REENCODE_QUALITY: Final = 95
_LOSSLESS_WEBP_TAG: Final = b"VP8L"
_MAX_WEBP_EDGE: Final = 16383  # pixels; a still WebP stores its width and height in 14 bits each


def clean_image(data: bytes) -> bytes:
    """Return the same image without EXIF, XMP, IPTC, comments, thumbnails and data after its end.

    The compressed pixels are copied unchanged if possible. The image is decoded and encoded again only if it has to be
    rotated (EXIF orientation), is animated (the first frame is kept), is 16-bit grey (it becomes 8-bit grey, with alpha
    if a value is transparent) or grey of 2 or 4 bits with a transparent value, is a GIF, or has no proper end. The
    format stays the same, except that GIFs, and animations larger than a still WebP can be, become PNGs. The function
    is deterministic, and cleaning an image twice gives the same bytes as cleaning it once.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file that `inspect_image` has accepted.

    Raises:
        ImageError: `data` is not an image, or it has to be decoded and cannot be.
    """
    file = strip_metadata(data)
    if file.is_complete and file.orientation == 1:
        return file.data
    return _reencode(file)


def _reencode(file: StrippedImage) -> bytes:
    """Decode the first frame and encode it in the same format; in PNG if that format cannot hold it."""
    image = decode(file)
    options: dict[str, Any] = {"format": "PNG"}
    if file.format == "JPEG":
        options = {"format": "JPEG", "quality": _REENCODE_QUALITY, "subsampling": 0}
    elif file.format == "WEBP" and max(image.size) <= _MAX_WEBP_EDGE:
        options = {"format": "WEBP", "quality": _REENCODE_QUALITY, "lossless": _LOSSLESS_WEBP_TAG in file.data}
    out = BytesIO()
    image.save(out, **options, icc_profile=image.info.get("icc_profile"))
    return out.getvalue()
