"""Draws the k of each image and the combinations of capabilities to request (step 1, capability sampling; paper, 3.2).

All functions are pure: the result depends only on the seed, the image and the combinations already requested for it.
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
    """Return the k of an image, uniformly distributed over `ks`.

    Args:
        seed (`int`): random seed of the run.
        image_id (`str`): the id of the image.
        ks (`Sequence[int]`): the possible values.
    """
    # A generator for each draw, seeded by what is drawn: order of images, sharding and resuming do not change it.
    return random.Random(digest("k", seed, image_id)).choice(sorted(ks))


def draw_combinations(
    seed: int, image_id: str, k: int, previous: Sequence[Combination], count: int
) -> tuple[Combination, ...]:
    """Return the next combinations to request for an image.

    Each has k distinct capabilities in canonical order and is not in `previous`. Capabilities that were not requested
    for this image yet come first, then those requested least, so that its questions cover different capabilities. Ties
    are broken by the seed. For small or large k all combinations may be used up before the rounds are over.

    Args:
        seed (`int`): random seed of the run.
        image_id (`str`): the id of the image.
        k (`int`): number of capabilities in each combination.
        previous (`Sequence[Combination]`): the combinations already requested for this image.
        count (`int`): number of combinations to draw; the result has fewer if there are not enough left.
    """
    result: list[Combination] = []
    while len(result) < count and (combination := _draw_combination(seed, image_id, k, [*previous, *result])):
        result.append(combination)
    return tuple(result)


def _draw_combination(seed: int, image_id: str, k: int, previous: Sequence[Combination]) -> Combination | None:
    """Return one new combination of the least requested capabilities, None if all combinations are used up."""
    usage = Counter(name for combination in previous for name in combination)
    unasked = [name for name in CAPABILITIES if not usage[name]]
    # Fast path: combinations of unused capabilities are always new and least used, so no others need comparing.
    candidates = list(combinations(unasked, k)) if len(unasked) >= k else _least_used(k, usage, previous)
    if not candidates:
        return None
    return random.Random(digest("combination", seed, image_id, k, len(previous))).choice(candidates)


def _least_used(k: int, usage: Counter[str], previous: Sequence[Combination]) -> list[Combination]:
    """Return the new combinations whose capabilities were requested least, in canonical order."""
    excluded = set(previous)
    available = [combination for combination in _combinations(k) if combination not in excluded]
    sums = [sum(map(usage.__getitem__, combination)) for combination in available]
    min_sum = min(sums, default=0)
    least_used = [combination for combination, total in zip(available, sums, strict=True) if total == min_sum]
    # Ties between equal sums are broken by the distribution of uses (for example (1, 1) against (0, 2)), in
    # lexicographic order of the sorted counts. This only matters when most combinations are used up.
    spreads = [sorted(map(usage.__getitem__, combination)) for combination in least_used]
    min_spread = min(spreads, default=[])
    return [combination for combination, spread in zip(least_used, spreads, strict=True) if spread == min_spread]


@cache
def _combinations(k: int) -> tuple[Combination, ...]:
    # At most 252 combinations, for k = 5.
    return tuple(combinations(CAPABILITIES, k))
