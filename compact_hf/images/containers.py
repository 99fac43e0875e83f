"""Picture files as bytes: in goes a JPEG, PNG, WebP or GIF file, out comes the same picture without metadata.

Nothing is decoded here. The file is walked segment by segment, what a decoder needs is copied byte for byte, and the
rest (EXIF, XMP, IPTC, comments, thumbnails, further frames, whatever stands behind the end) is left out. Decoders
only ever see the result, so that no broken or hostile metadata can stop them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Format = Literal["JPEG", "PNG", "WEBP", "GIF"]

_JPEG_START: Final = b"\xff\xd8\xff"
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"

# A marker is FF and a code; FF00 is a stuffed FF, FFD0 to FFD7 are restarts inside a scan, FFFF is padding.
_JPEG_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_TEM, _SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _APP15, _COM = (
    0x01, 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE,
)  # fmt: skip
# The density's unit, JFIF's version, the colour profile and the colour transform: without them colours change.
_JPEG_KEPT: Final = {_APP0: b"JFIF\0", _APP2: b"ICC_PROFILE\0", _APP14: b"Adobe"}

_PNG_KEPT: Final = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT"}
)
_WEBP_KEPT: Final = frozenset({b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"})
_WEBP_ANIMATED, _WEBP_METADATA = 0x02, 0x08 | 0x04
_EXIF_PREFIX: Final = b"Exif\0\0"
_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, slots=True)
class Bare:
    """A picture file without its metadata.

    Attributes:
        format (`str`): what it is by its first bytes, whatever its name says.
        data (`bytes`): the file without metadata.
        orientation (`int`): EXIF orientation the file asked for, 1 to 8; `data` does not say it any more.
        complete (`bool`): `data` ends as it should and is one still picture that every reader shows alike, so that
            it may be published as it stands.
    """

    format: Format
    data: bytes
    orientation: int
    complete: bool


def bare(data: bytes) -> Bare | None:
    """Return the picture file without its metadata, or None where `data` starts like no picture we know."""
    if data.startswith(_JPEG_START):
        return _bare_jpeg(data)
    if data.startswith(_PNG_START):
        return _bare_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _bare_webp(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return Bare("GIF", data, orientation=1, complete=False)
    return None


def _bare_jpeg(data: bytes) -> Bare:
    kept, orientation, at = [b"\xff\xd8"], None, 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            kept.append(b"\xff\xd9")
            return Bare("JPEG", b"".join(kept), orientation or 1, complete=True)
        if marker in (_SOI, _TEM):
            continue
        start, length = at, int.from_bytes(data[at : at + 2])
        at += max(length, 2)
        content = data[start + 2 : at]
        if marker == _APP1 and content.startswith(_EXIF_PREFIX) and orientation is None:
            orientation = _orientation(content.removeprefix(_EXIF_PREFIX))
        if _needed_in_jpeg(marker, content):
            kept.append(bytes((0xFF, marker)) + data[start:at])
        if marker == _SOS:
            following = _JPEG_MARKER.search(data, at)
            end = following.start() if following else len(data)
            kept.append(data[at:end])
            at = end
    return Bare("JPEG", b"".join(kept), orientation or 1, complete=False)


def _needed_in_jpeg(marker: int, content: bytes) -> bool:
    if marker in _JPEG_KEPT:
        return content.startswith(_JPEG_KEPT[marker])
    return not (_APP0 <= marker <= _APP15 or marker == _COM)


def _bare_png(data: bytes) -> Bare:
    kept, orientation, ended = [_PNG_START], 1, False
    for kind, content, chunk in _png_chunks(data):
        if kind == b"eXIf":
            orientation = _orientation(content)
        elif kind in _PNG_KEPT:
            kept.append(chunk)
        if kind == b"IEND":
            ended = True
            break
    # Sixteen-bit grey (bit depth 16, colour type 0) turns white wherever Pillow makes RGB of it.
    deep_grey = data[24:26] == b"\x10\x00"
    return Bare("PNG", b"".join(kept), orientation, complete=ended and not deep_grey)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (kind, content, whole chunk); a last chunk that is cut is yielded as far as it goes."""
    at = len(_PNG_START)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length], data[at : at + 12 + length]
        at += 12 + length


def _bare_webp(data: bytes) -> Bare:
    body, orientation, pictures, animated = bytearray(b"WEBP"), 1, 0, False
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        content = data[at + 8 : min(at + 8 + length, end)]
        if kind == b"EXIF":
            orientation = _orientation(content.removeprefix(_EXIF_PREFIX))
        elif kind == b"ANIM":
            animated = True
        elif kind in _WEBP_KEPT:
            pictures += kind in (b"VP8 ", b"VP8L") and len(content) == length
            if kind == b"VP8X" and content:
                content = bytes((content[0] & ~_WEBP_METADATA,)) + content[1:]
            body += struct.pack("<4sI", kind, length) + content + b"\0" * (length % 2)
        at += 8 + length + length % 2
    if animated:
        return Bare("WEBP", data[:end], orientation, complete=False)
    return Bare("WEBP", b"RIFF" + struct.pack("<I", len(body)) + bytes(body), orientation, complete=pictures == 1)


def _orientation(tiff: bytes) -> int:
    """Return the orientation of an EXIF block, 1 where it says nothing sensible.

    Read here and not by Pillow, which warns and raises in many ways where a camera or an editor wrote nonsense.
    """
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    entries = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[entries : entries + 2], order)):
        field = tiff[entries + 2 + 12 * entry : entries + 14 + 12 * entry]
        if len(field) < 12:
            break
        if int.from_bytes(field[:2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(field[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1
