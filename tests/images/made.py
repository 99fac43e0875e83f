"""Makes small image files of all kinds, and lists the photographs that ship with scikit-image and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
ORIENTATION = 0x0112
SECRET = b"GPS 48.8583 N 2.2945 E"


def make_image(mode: str = "RGB", *, seed: int = 0) -> Image.Image:
    """Return an image of 48 x 32 pixels without symmetries, so that every rotation of it differs."""
    noise = np.random.default_rng(seed).integers(0, 40, (HEIGHT, WIDTH, 3))
    ramp = np.linspace(0, 200, WIDTH)[None, :, None] * np.linspace(0.2, 1, HEIGHT)[:, None, None]
    pixels = Image.fromarray((noise + ramp * [1, 0.6, 0.3]).astype("uint8"))
    if mode not in ("RGBA", "LA"):
        return pixels.convert(mode)
    pixels.putalpha(Image.linear_gradient("L").resize(pixels.size))
    return pixels.convert(mode)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def make_exif(orientation: int = 1) -> Image.Exif:
    """Return EXIF data as a camera writes it: an orientation and the place where the image was taken."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = SECRET.decode()
    return exif


def make_animation(format: str, **options: Any) -> bytes:
    return encode(make_image(), format, save_all=True, append_images=[make_image(seed=1)], duration=50, **options)


def rgb_jpeg() -> bytes:
    """Return a JPEG that stores RGB instead of YCbCr, which only its Adobe segment indicates."""
    data = encode(make_image(), "JPEG", keep_rgb=True)
    return data.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0").replace(b"R\0G\0B\0", b"\1\0\2\0\3\0")


def deep_grey() -> bytes:
    """Return a 16-bit grey PNG, as used for X-rays, whose values cover the whole range."""
    return encode(Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype("uint16")), "PNG")


KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(make_image(), "JPEG", exif=make_exif(), comment=SECRET),
    "jpeg grey": lambda: encode(make_image("L"), "JPEG", exif=make_exif()),
    "jpeg cmyk": lambda: encode(make_image("CMYK"), "JPEG"),
    "jpeg progressive": lambda: encode(make_image(), "JPEG", progressive=True, exif=make_exif(), xmp=b"<x>" + SECRET),
    "jpeg rgb": rgb_jpeg,
    "jpeg restarts": lambda: encode(make_image(), "JPEG", restart_marker_blocks=1),
    "png": lambda: encode(make_image(), "PNG", exif=make_exif()),
    "png grey": lambda: encode(make_image("L"), "PNG"),
    "png palette": lambda: encode(make_image("P"), "PNG", transparency=3),
    "png alpha": lambda: encode(make_image("RGBA"), "PNG"),
    "png grey alpha": lambda: encode(make_image("LA"), "PNG"),
    "png black and white": lambda: encode(make_image("1"), "PNG"),
    "png animated": lambda: make_animation("PNG"),
    "webp": lambda: encode(make_image(), "WEBP", exif=make_exif(), xmp=SECRET),
    "webp simple": lambda: encode(make_image(), "WEBP"),
    "webp lossless": lambda: encode(make_image("RGBA"), "WEBP", lossless=True, exact=True, exif=make_exif()),
}
"""Kinds of files whose compressed pixels stay unchanged."""

REENCODED: dict[str, Callable[[], bytes]] = {
    "png deep grey": deep_grey,
    "webp animated": lambda: make_animation("WEBP", exif=make_exif(), xmp=SECRET),
    "gif animated": lambda: make_animation("GIF", comment=SECRET),
}
"""Kinds of files that have to be encoded again before they are published."""


def photographs() -> list[Path]:
    """Return the images in the wheels of scikit-image and scikit-learn; neither package is imported."""
    paths: list[Path] = []
    for package, directory in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        files = sorted((Path(spec.origin).parent / directory).iterdir())
        paths += [path for path in files if path.suffix in (".png", ".jpg", ".gif")]
    return paths


class BytesSource:
    """An image source of one image with the given bytes."""

    identity = "bytes"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def refs(self) -> Iterator[str]:
        yield "it"

    def origin(self, ref: str) -> tuple[str, str]:
        return "bytes", "CC0-1.0"

    def read(self, ref: str) -> bytes:
        return self._data
