"""Pictures that look alike: in goes a picture file, out comes 64 bits that copies share but for a few; and groups.

The hash is that of the low frequencies (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010, section 3.2): 32 x 32 grey pixels, their discrete cosine transform, and whether each of the 64 lowest frequencies
is above the median. In whole numbers throughout, so that no machine's rounding decides a bit. It finds what was
compressed again, scaled or recoloured a little; not what was cropped, mirrored, turned or drawn over. Regular patterns
such as chessboards have hardly any low frequencies, and their copies may be missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compact_hf.images.codec import loaded, on_white, stripped

BITS: Final = 64
MAX_DISTANCE: Final = 10
"""Bits in which hashes may differ at most; beyond it pictures meet that have nothing in common."""

Hashes = npt.NDArray[np.uint64]

_EDGE: Final = 32  # pixels that are transformed
_KEPT: Final = 8  # frequencies of each direction
_SCALE: Final = 1 << 14  # of the cosines, as whole numbers
_FLAT: Final = 4  # grey levels (of 256) between which there is nothing to see
_AT_ONCE: Final = 256  # rows of a table of distances that are in memory at once


def perceptual_hash(data: bytes) -> int | None:
    """Return 64 bits that say what a picture looks like, None where it is all of one colour and looks like nothing.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.

    Raises:
        PictureError: the bytes are no picture, or cannot be decoded.
    """
    seen = on_white(loaded(stripped(data), at_least=4 * _EDGE)).convert("L")
    pixels = np.asarray(seen.resize((_EDGE, _EDGE), Image.Resampling.BOX), dtype=np.int64)
    if np.ptp(pixels) < _FLAT:
        return None
    cosines = _cosines()
    frequencies = (cosines @ pixels @ cosines.T).ravel()
    # The first is the brightness of the whole, by far the largest.
    above = frequencies > np.median(frequencies[1:])
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def nearest(hash: int, known: Hashes) -> int:
    """Return in how many bits a hash differs from the nearest of `known` (shape [n]), `BITS` where there are none."""
    return int(np.bitwise_count(known ^ np.uint64(hash)).min(initial=BITS))


def groups(hashes: Sequence[int], distance: int) -> npt.NDArray[np.int64]:
    """Return for each hash the number of its group: two are in one if steps of at most `distance` bits lead across.

    Numbers are equal within a group and say nothing else. Not each is compared with each: cut into `distance` + 1
    bands, hashes within `distance` bits agree in one band at least, so only those that do are compared.

    Args:
        hashes (`Sequence[int]`): n of them, in any order, with repetitions.
        distance (`int`): 0 to `MAX_DISTANCE`.
    """
    different, place = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    label = np.arange(len(different))
    members: dict[int, list[int]] = {number: [number] for number in range(len(different))}
    for one, other in _near(different, distance):
        apart = label[one] != label[other]
        for left, right in zip(one[apart].tolist(), other[apart].tolist(), strict=True):
            small, large = sorted((int(label[left]), int(label[right])), key=lambda group: len(members[group]))
            if small != large:
                label[members[small]] = large
                members[large] += members.pop(small)
    numbers: npt.NDArray[np.int64] = label[place]
    return numbers


def _near(hashes: Hashes, distance: int) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield pairs of places of hashes that are near each other, all of which come at least once."""
    cuts = np.linspace(0, BITS, distance + 2).astype(np.uint64)
    for start, end in pairwise(cuts):
        width = end - start
        band = (hashes >> start) & np.uint64((1 << int(width)) - 1)
        order = np.argsort(band, kind="stable")
        borders = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, borders):
            for at in range(0, len(bucket) if len(bucket) > 1 else 0, _AT_ONCE):
                some = bucket[at : at + _AT_ONCE]
                apart = np.bitwise_count(hashes[some][:, None] ^ hashes[bucket[at:]][None, :])
                one, other = np.nonzero(apart <= distance)
                yield some[one], bucket[at:][other]


@cache
def _cosines() -> npt.NDArray[np.int64]:
    """The first `_KEPT` rows of the transform's matrix, of shape [_KEPT, _EDGE]."""
    frequency, pixel = np.arange(_KEPT)[:, None], np.arange(_EDGE)[None, :]
    angles = np.pi * frequency * (2 * pixel + 1) / (2 * _EDGE)
    whole: npt.NDArray[np.int64] = np.rint(np.cos(angles) * _SCALE).astype(np.int64)
    return whole
