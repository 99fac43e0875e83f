"""Pictures fit to be published: in goes a file's bytes, out comes the same picture without any metadata."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from compact_hf.images.codec import loaded, stripped
from compact_hf.images.containers import Bare

_QUALITY: Final = 95
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
        options = {"format": "JPEG", "quality": _QUALITY, "subsampling": 0}
    elif file.format == "WEBP" and max(image.size) <= _LONGEST_WEBP:
        options = {"format": "WEBP", "quality": _QUALITY, "lossless": _LOSSLESS_WEBP in file.data}
    out = BytesIO()
    image.save(out, **options, icc_profile=image.info.get("icc_profile"))
    return out.getvalue()
