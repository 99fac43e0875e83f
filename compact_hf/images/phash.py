"""Computes perceptual hashes of images and groups images whose hashes are close.

The 64-bit hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section
3.2): the image is reduced to 32 x 32 grey pixels and transformed by a discrete cosine transform; each bit says whether
one of the 64 lowest frequencies is above the median. All arithmetic is in integers, so that the hash is the same on all
machines. It finds copies that were recompressed, scaled or slightly recoloured, but not copies that were cropped,
mirrored, rotated or overlaid. Regular patterns such as chessboards have few low frequencies; copies of them may be
missed.
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
"""Maximum number of bits in which the hashes of copies differ; larger limits also match unrelated images."""

Hashes = npt.NDArray[np.uint64]

_DCT_SIZE: Final = 32  # width and height of the transformed image in pixels
_NUM_FREQUENCIES: Final = 8  # lowest frequencies that are kept, per direction
_SCALE: Final = 1 << 14  # factor by which cosines are scaled to integers
_MIN_CONTRAST: Final = 4  # grey levels (of 256); images with a smaller range count as uniform
_CHUNK_ROWS: Final = 256  # rows of the distance matrix that are computed at once, to limit memory


def perceptual_hash(data: bytes) -> int | None:
    """Return the 64-bit perceptual hash of an image, or None if the image is uniform.

    Args:
        data (`bytes`): a JPEG, PNG, WebP or GIF file.

    Raises:
        ImageError: `data` is not an image, or cannot be decoded.
    """
    gray = flatten_on_white(decode(strip_metadata(data), target_edge=4 * _DCT_SIZE)).convert("L")
    pixels = np.asarray(gray.resize((_DCT_SIZE, _DCT_SIZE), Image.Resampling.BOX), dtype=np.int64)
    if np.ptp(pixels) < _MIN_CONTRAST:
        return None
    matrix = _dct_matrix()
    frequencies = (matrix @ pixels @ matrix.T).ravel()  # (8, 32) @ (32, 32) @ (32, 8) -> (64,)
    # The first frequency is the mean brightness. It is by far the largest and is left out of the median.
    bits = frequencies > np.median(frequencies[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def min_distance(hash: int, hashes: Hashes) -> int:
    """Return the smallest number of bits in which a hash differs from one of `hashes`.

    Args:
        hash (`int`): the hash to compare.
        hashes (`Hashes`): `(n,)`, the hashes to compare it with. If n is 0, the result is `HASH_BITS`.
    """
    return int(np.bitwise_count(hashes ^ np.uint64(hash)).min(initial=HASH_BITS))


def group_by_distance(hashes: Sequence[int], max_distance: int) -> npt.NDArray[np.int64]:
    """Return the number of the group of each hash.

    The groups are connected components: two hashes are in the same group if a chain of hashes leads from one to the
    other in which neighbours differ by at most `max_distance` bits. The numbers identify groups and have no other
    meaning. Not all pairs are compared: the 64 bits are split into `max_distance` + 1 bands; two hashes that differ in
    at most `max_distance` bits are equal in at least one band, so only hashes with an equal band are compared.

    Args:
        hashes (`Sequence[int]`): n hashes in any order; repetitions are allowed.
        max_distance (`int`): maximum number of differing bits, 0 to `MAX_DISTANCE`.

    Returns:
        Array `(n,)` of group numbers.
    """
    unique, inverse = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    labels = np.arange(len(unique))
    members: dict[int, list[int]] = {index: [index] for index in range(len(unique))}
    for first, second in _iter_close_pairs(unique, max_distance):
        differs = labels[first] != labels[second]
        # Union by size: the members of the smaller group get the label of the larger one.
        for a, b in zip(first[differs].tolist(), second[differs].tolist(), strict=True):
            small, large = sorted((int(labels[a]), int(labels[b])), key=lambda group: len(members[group]))
            if small != large:
                labels[members[small]] = large
                members[large] += members.pop(small)
    group_ids: npt.NDArray[np.int64] = labels[inverse]
    return group_ids


def _iter_close_pairs(hashes: Hashes, max_distance: int) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield arrays (i, j) of indices of close hashes. Each close pair is yielded at least once."""
    bounds = np.linspace(0, HASH_BITS, max_distance + 2).astype(np.uint64)
    for start, end in pairwise(bounds):
        # Sort the hashes by this band, and compare only the hashes within a bucket of equal bands.
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
    """Return the first rows of the DCT-II matrix, `(_NUM_FREQUENCIES, _DCT_SIZE)`, scaled to integers."""
    frequency, pixel = np.arange(_NUM_FREQUENCIES)[:, None], np.arange(_DCT_SIZE)[None, :]
    angles = np.pi * frequency * (2 * pixel + 1) / (2 * _DCT_SIZE)
    matrix: npt.NDArray[np.int64] = np.rint(np.cos(angles) * _SCALE).astype(np.int64)
    return matrix
