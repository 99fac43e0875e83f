"""Step 1, capability sampling: which k an image gets, and which combination to ask for next (paper, section 3.2).

Pure: what comes out is a function of the seed, the image and what this image was asked before, whatever others do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.records import digest

Combination = tuple[str, ...]

MAX_K: Final = len(CAPABILITIES)


def draw_k(seed: int, image_id: str, ks: Sequence[int]) -> int:
    """Return the image's k, uniform over `ks`."""
    return random.Random(digest("k", seed, image_id)).choice(sorted(ks))


def draw_combinations(
    seed: int, image_id: str, k: int, previous: Sequence[Combination], count: int
) -> tuple[Combination, ...]:
    """Return the next `count` combinations to ask an image for, fewer where fewer are left.

    Each has k distinct capabilities in canonical order and is none of `previous`. Capabilities that this image was not
    asked for yet come first, then the least asked ones, so that its questions cover different atoms; among equals the
    seed decides. For small or large k all are used up before the rounds end.
    """
    result: list[Combination] = []
    while len(result) < count and (combination := _draw_combination(seed, image_id, k, [*previous, *result])):
        result.append(combination)
    return tuple(result)


def _draw_combination(seed: int, image_id: str, k: int, previous: Sequence[Combination]) -> Combination | None:
    usage = Counter(name for combination in previous for name in combination)
    unasked = [name for name in CAPABILITIES if not usage[name]]
    # Fast path: combinations of unasked capabilities are new and least used, so the others need not be compared.
    candidates = list(combinations(unasked, k)) if len(unasked) >= k else _least_used(k, usage, previous)
    if not candidates:
        return None
    return random.Random(digest("combination", seed, image_id, k, len(previous))).choice(candidates)


def _least_used(k: int, usage: Counter[str], previous: Sequence[Combination]) -> list[Combination]:
    """Return the new combinations whose capabilities were asked least, in canonical order."""
    excluded = set(previous)
    available = [combination for combination in _combinations(k) if combination not in excluded]
    sums = [sum(map(usage.__getitem__, combination)) for combination in available]
    min_sum = min(sums, default=0)
    least_used = [combination for combination, total in zip(available, sums, strict=True) if total == min_sum]
    # How the uses are spread decides among equal sums only once most combinations are used up.
    spreads = [sorted(map(usage.__getitem__, combination)) for combination in least_used]
    min_spread = min(spreads, default=[])
    return [combination for combination, spread in zip(least_used, spreads, strict=True) if spread == min_spread]


@cache
def _combinations(k: int) -> tuple[Combination, ...]:
    return tuple(combinations(CAPABILITIES, k))
