"""Images that look alike: in goes an image file, out comes 64 bits that copies share but for a few; and groups.

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

from compact_hf.images.codec import decode, flatten_on_white, strip_metadata

HASH_BITS: Final = 64
MAX_DISTANCE: Final = 10
"""Bits in which hashes may differ at most; beyond it images meet that have nothing in common."""

Hashes = npt.NDArray[np.uint64]

_DCT_SIZE: Final = 32  # pixels that are transformed
_NUM_FREQUENCIES: Final = 8  # frequencies of each direction
_SCALE: Final = 1 << 14  # of the cosines, as whole numbers
_MIN_CONTRAST: Final = 4  # grey levels (of 256) between which there is nothing to see
_CHUNK_ROWS: Final = 256  # rows of a table of distances that are in memory at once


def perceptual_hash(data: bytes) -> int | None:
    """Return 64 bits that say what an image looks like, None where it is all of one colour and looks like nothing.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.

    Raises:
        ImageError: the bytes are no image, or cannot be decoded.
    """
    gray = flatten_on_white(decode(strip_metadata(data), target_edge=4 * _DCT_SIZE)).convert("L")
    pixels = np.asarray(gray.resize((_DCT_SIZE, _DCT_SIZE), Image.Resampling.BOX), dtype=np.int64)
    if np.ptp(pixels) < _MIN_CONTRAST:
        return None
    matrix = _dct_matrix()
    frequencies = (matrix @ pixels @ matrix.T).ravel()
    # The first is the brightness of the whole, by far the largest.
    bits = frequencies > np.median(frequencies[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def min_distance(hash: int, hashes: Hashes) -> int:
    """Return in how many bits a hash differs from the nearest of `hashes` (shape [n]), or `HASH_BITS` without any."""
    return int(np.bitwise_count(hashes ^ np.uint64(hash)).min(initial=HASH_BITS))


def group_by_distance(hashes: Sequence[int], max_distance: int) -> npt.NDArray[np.int64]:
    """Return for each hash the number of its group: two are in one if steps of at most `max_distance` bits lead across.

    Numbers are equal within a group and say nothing else. Not each is compared with each: cut into `max_distance` + 1
    bands, hashes within `max_distance` bits agree in one band at least, so only those that do are compared.

    Args:
        hashes (`Sequence[int]`): n of them, in any order, with repetitions.
        max_distance (`int`): 0 to `MAX_DISTANCE`.
    """
    unique, inverse = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    labels = np.arange(len(unique))
    members: dict[int, list[int]] = {index: [index] for index in range(len(unique))}
    for first, second in _iter_close_pairs(unique, max_distance):
        differs = labels[first] != labels[second]
        for a, b in zip(first[differs].tolist(), second[differs].tolist(), strict=True):
            small, large = sorted((int(labels[a]), int(labels[b])), key=lambda group: len(members[group]))
            if small != large:
                labels[members[small]] = large
                members[large] += members.pop(small)
    group_ids: npt.NDArray[np.int64] = labels[inverse]
    return group_ids


def _iter_close_pairs(hashes: Hashes, max_distance: int) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield pairs of places of hashes that are near each other, all of which come at least once."""
    bounds = np.linspace(0, HASH_BITS, max_distance + 2).astype(np.uint64)
    for start, end in pairwise(bounds):
        width = end - start
        band = (hashes >> start) & np.uint64((1 << int(width)) - 1)
        order = np.argsort(band, kind="stable")
        borders = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, borders):
            for offset in range(0, len(bucket) if len(bucket) > 1 else 0, _CHUNK_ROWS):
                rows = bucket[offset : offset + _CHUNK_ROWS]
                distances = np.bitwise_count(hashes[rows][:, None] ^ hashes[bucket[offset:]][None, :])
                i, j = np.nonzero(distances <= max_distance)
                yield rows[i], bucket[offset:][j]


@cache
def _dct_matrix() -> npt.NDArray[np.int64]:
    """The first `_NUM_FREQUENCIES` rows of the transform's matrix, of shape [_NUM_FREQUENCIES, _DCT_SIZE]."""
    frequency, pixel = np.arange(_NUM_FREQUENCIES)[:, None], np.arange(_DCT_SIZE)[None, :]
    angles = np.pi * frequency * (2 * pixel + 1) / (2 * _DCT_SIZE)
    matrix: npt.NDArray[np.int64] = np.rint(np.cos(angles) * _SCALE).astype(np.int64)
    return matrix
