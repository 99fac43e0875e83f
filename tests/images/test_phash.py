"""Tests perceptual hashes: those of copies are close, others are not, and groups do not depend on the order."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compact_hf.images.phash import HASH_BITS, MAX_DISTANCE, group_by_distance, min_distance, perceptual_hash

from .made import encode, make_exif, make_image, photographs

HASHES = st.integers(0, 2**HASH_BITS - 1)
# Regular patterns have hardly any low frequencies, and the last image has fewer pixels than the hash uses.
LOW_DETAIL = ("chessboard_GRAY.png", "chessboard_RGB.png", "no_time_for_that_tiny.gif")


def hamming_distance(first: int | None, second: int | None) -> int:
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


@st.composite
def hash_clusters(draw: st.DrawFn) -> list[int]:
    """Draw hashes of which many differ in a few bits, which random hashes never do."""
    hashes = draw(st.lists(HASHES, min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 30))):
        bits = draw(st.sets(st.integers(0, HASH_BITS - 1), max_size=6))
        hashes.append(draw(st.sampled_from(hashes)) ^ sum(1 << bit for bit in bits))
    return hashes


def partition(numbers: list[int]) -> set[frozenset[int]]:
    return {frozenset(index for index, value in enumerate(numbers) if value == number) for number in numbers}


def group_by_brute_force(hashes: list[int], distance: int) -> set[frozenset[int]]:
    numbers = list(range(len(hashes)))
    for i, first in enumerate(hashes):
        for j, second in enumerate(hashes[:i]):
            if hamming_distance(first, second) <= distance:
                numbers = [numbers[i] if number == numbers[j] else number for number in numbers]
    return partition(numbers)


@given(hash_clusters(), st.integers(0, MAX_DISTANCE))
def test_groups_are_those_that_comparing_each_with_each_finds(hashes: list[int], distance: int) -> None:
    assert partition(group_by_distance(hashes, distance).tolist()) == group_by_brute_force(hashes, distance)


@given(hash_clusters(), st.integers(0, MAX_DISTANCE), st.randoms())
def test_groups_do_not_depend_on_the_order(hashes: list[int], distance: int, random: Random) -> None:
    order = list(range(len(hashes)))
    random.shuffle(order)
    shuffled = group_by_distance([hashes[index] for index in order], distance).tolist()
    groups = {frozenset(order[index] for index in group) for group in partition(shuffled)}
    assert groups == partition(group_by_distance(hashes, distance).tolist())


@given(HASHES, st.lists(HASHES, max_size=10))
def test_the_nearest_is_the_least_distance(hash: int, known: list[int]) -> None:
    expected = min((hamming_distance(hash, known_hash) for known_hash in known), default=HASH_BITS)
    assert min_distance(hash, np.array(known, dtype=np.uint64)) == expected


def test_many_hashes_are_grouped_without_comparing_each_with_each() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 50_000, dtype=np.uint64).tolist()
    near_copies = [hash ^ 0b101 for hash in hashes[:1000]]
    assert (
        len(set(group_by_distance(hashes + near_copies, 6).tolist())) == 50_000
    )  # comparing all pairs would be 1.3 billion comparisons


@pytest.mark.parametrize(
    "path", [path for path in photographs() if path.name not in LOW_DETAIL], ids=lambda path: path.name
)
def test_a_photograph_compressed_or_scaled_again_is_near_and_turned_is_far(path: Path) -> None:
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((512, 512))
    hash = perceptual_hash(encode(image, "PNG"))
    half = image.resize((image.width // 2, image.height // 2))
    assert hamming_distance(hash, perceptual_hash(encode(image, "JPEG", quality=40))) <= 4
    assert hamming_distance(hash, perceptual_hash(encode(image, "WEBP", quality=60))) <= 4
    assert hamming_distance(hash, perceptual_hash(encode(half, "JPEG", quality=75))) <= 4
    rotated = image.transpose(Image.Transpose.ROTATE_90)
    assert hamming_distance(hash, perceptual_hash(encode(rotated, "PNG"))) > MAX_DISTANCE


def test_orientation_counts_as_it_is_seen() -> None:
    stored = make_image().transpose(Image.Transpose.ROTATE_90)  # orientation 6 undoes this rotation
    upright_hash = perceptual_hash(encode(stored, "JPEG", exif=make_exif(6), quality=95))
    assert hamming_distance(upright_hash, perceptual_hash(encode(make_image(), "JPEG", quality=95))) <= 4


def test_a_picture_of_one_color_looks_like_nothing() -> None:
    assert perceptual_hash(encode(Image.new("RGB", (64, 48), "teal"), "PNG")) is None
