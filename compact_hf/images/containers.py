"""Removes the metadata of JPEG, PNG, WebP and GIF files without decoding their pixels.

The file is read segment by segment. The segments that a decoder needs are copied byte for byte; the others (EXIF, XMP,
IPTC, comments, thumbnails, data after the end) are left out. Decoders only see the result, so broken or malicious
metadata cannot make them fail. GIFs and animated WebPs are returned unchanged and marked as incomplete, so that the
codec (codec.py) encodes their first frame again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF"]

_JPEG_START: Final = b"\xff\xd8\xff"
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"

# A marker is FF and a code. In a scan, FF00 is an escaped FF byte, FFD0 to FFD7 are restart markers; FFFF is padding.
_JPEG_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_TEM, _SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _APP15, _COM = (
    0x01, 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE,
)  # fmt: skip
# The application segments that are kept, by their first bytes: JFIF header, colour profile, Adobe's colour transform.
# Without them decoders show other colours.
_JPEG_SEGMENTS: Final = {_APP0: b"JFIF\0", _APP2: b"ICC_PROFILE\0", _APP14: b"Adobe"}

# The chunks that are kept: pixels, palette, transparency and colour space.
_PNG_CHUNKS: Final = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT"}
)
# Bytes 24 and 25 of a PNG: bit depth and color type, 0 for grey and 2 for RGB.
_GREY16, _RGB16, _GREY2, _GREY4 = b"\x10\x00", b"\x10\x02", b"\x02\x00", b"\x04\x00"
_WEBP_CHUNKS: Final = frozenset({b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"})
_WEBP_ANIMATED, _WEBP_METADATA = 0x02, 0x08 | 0x04  # flags in the first byte of VP8X; metadata is EXIF and XMP
_EXIF_PREFIX: Final = b"Exif\0\0"
_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, slots=True)
class StrippedImage:
    """An image file without its metadata.

    Attributes:
        format (`str`): file format by the first bytes; the file name is not used.
        data (`bytes`): the file without metadata.
        orientation (`int`): EXIF orientation of the original file, 1 to 8. `data` no longer contains it.
        is_complete (`bool`): whether `data` has a proper end and is a single still image that all readers show in the
            same way. If so, it can be published without encoding it again.
        num_scans (`int`): number of scans of a JPEG, each of which covers the whole image; 1 for other formats.
    """

    format: ImageFormat
    data: bytes
    orientation: int
    is_complete: bool
    num_scans: int = 1


def strip(data: bytes) -> StrippedImage | None:
    """Return the image file without its metadata, or None if `data` does not start like a supported format.

    Args:
        data (`bytes`): contents of the file.
    """
    if data.startswith(_JPEG_START):
        return _strip_jpeg(data)
    if data.startswith(_PNG_START):
        return _strip_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _strip_webp(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return StrippedImage("GIF", data, orientation=1, is_complete=False)
    return None


def _strip_jpeg(data: bytes) -> StrippedImage:
    """Copy the needed segments and all scans up to the end-of-image marker."""
    segments, orientation, num_scans, pos = [b"\xff\xd8"], None, 0, 2
    while match := _JPEG_MARKER.search(data, pos):
        marker, pos = match[1][0], match.end()
        if marker == _EOI:
            segments.append(b"\xff\xd9")
            return StrippedImage("JPEG", b"".join(segments), orientation or 1, is_complete=True, num_scans=num_scans)
        if marker in (_SOI, _TEM):
            continue
        # A segment's length is in its first two bytes and includes them.
        start, length = pos, int.from_bytes(data[pos : pos + 2])
        pos += max(length, 2)
        content = data[start + 2 : pos]
        if marker == _APP1 and content.startswith(_EXIF_PREFIX) and orientation is None:
            orientation = _read_orientation(content.removeprefix(_EXIF_PREFIX))
        if _is_needed_in_jpeg(marker, content):
            segments.append(bytes((0xFF, marker)) + data[start:pos])
        if marker == _SOS:
            num_scans += 1
            # Compressed pixels follow the header of a scan and have no length: they end at the next marker.
            next_marker = _JPEG_MARKER.search(data, pos)
            end = next_marker.start() if next_marker else len(data)
            segments.append(data[pos:end])
            pos = end
    return StrippedImage("JPEG", b"".join(segments), orientation or 1, is_complete=False, num_scans=num_scans)


def _is_needed_in_jpeg(marker: int, content: bytes) -> bool:
    """Return whether a segment is kept: all but comments and application segments other than `_JPEG_SEGMENTS`."""
    if marker in _JPEG_SEGMENTS:
        return content.startswith(_JPEG_SEGMENTS[marker])
    return not (_APP0 <= marker <= _APP15 or marker == _COM)


def _strip_png(data: bytes) -> StrippedImage:
    """Copy the needed chunks up to IEND, and decide whether Pillow alone would show the same pixels as the codec."""
    chunks, orientation, has_end, kind_of_pixels = [_PNG_START], 1, False, data[24:26]
    # 16-bit grey turns white when a reader converts it to RGB with Pillow.
    is_misread = kind_of_pixels == _GREY16
    for kind, content, chunk in _iter_png_chunks(data):
        if kind == b"eXIf":
            orientation = _read_orientation(content)
        elif kind == b"tRNS" and kind_of_pixels == _RGB16:
            # Pillow compares this 16-bit color with pixels of eight bits, which are all that it reads: for black, it
            # would make dark pixels transparent.
            continue
        elif kind in _PNG_CHUNKS:
            chunks.append(chunk)
            # Pillow compares this grey value with pixels that it has scaled to eight bits.
            is_misread |= kind == b"tRNS" and kind_of_pixels in (_GREY2, _GREY4)
        if kind == b"IEND":
            has_end = True
            break
    return StrippedImage("PNG", b"".join(chunks), orientation, is_complete=has_end and not is_misread)


def _iter_png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (type, content, whole chunk) for each chunk; of a truncated last chunk the bytes that exist."""
    pos = len(_PNG_START)
    while pos + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, pos)
        yield kind, data[pos + 8 : pos + 8 + length], data[pos : pos + 12 + length]
        pos += 12 + length


def _strip_webp(data: bytes) -> StrippedImage:
    """Copy the needed RIFF chunks and clear the metadata flags; return an animated file unchanged."""
    body, orientation, num_frames, is_animated = bytearray(b"WEBP"), 1, 0, False
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    pos = 12
    while pos + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, pos)
        content = data[pos + 8 : min(pos + 8 + length, end)]
        if kind == b"EXIF":
            orientation = _read_orientation(content.removeprefix(_EXIF_PREFIX))
        elif kind == b"ANIM":
            is_animated = True
        elif kind in _WEBP_CHUNKS:
            num_frames += kind in (b"VP8 ", b"VP8L") and len(content) == length
            if kind == b"VP8X" and content:
                content = bytes((content[0] & ~_WEBP_METADATA,)) + content[1:]
            body += struct.pack("<4sI", kind, length) + content + b"\0" * (length % 2)
        pos += 8 + length + length % 2
    if is_animated:
        return StrippedImage("WEBP", data[:end], orientation, is_complete=False)
    return StrippedImage(
        "WEBP", b"RIFF" + struct.pack("<I", len(body)) + bytes(body), orientation, is_complete=num_frames == 1
    )


def _read_orientation(tiff: bytes) -> int:
    """Return the orientation in an EXIF block, or 1 if it has no valid one.

    Pillow is not used for this, because it warns and raises in many ways on invalid EXIF data.
    """
    byte_order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    ifd_start = int.from_bytes(tiff[4:8], byte_order)
    # A directory of the TIFF format is a number of entries, then 12 bytes per entry: tag, type, count, value.
    for entry in range(int.from_bytes(tiff[ifd_start : ifd_start + 2], byte_order)):
        field = tiff[ifd_start + 2 + 12 * entry : ifd_start + 14 + 12 * entry]
        if len(field) < 12:
            break
        if int.from_bytes(field[:2], byte_order) == _ORIENTATION_TAG:
            value = int.from_bytes(field[8:10], byte_order)
            return value if 1 <= value <= 8 else 1
    return 1
