"""Computes how complex questions are, as in the paper's figures, from the number of questions per combination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from compact_hf.capabilities import CAPABILITIES, canonicalize


@dataclass(frozen=True, slots=True)
class CapabilityPair:
    """The number of questions that need both of two capabilities.

    Attributes:
        one, other (`str`): the capabilities, in canonical order.
        questions (`int`): number of questions that need both.
    """

    one: str
    other: str
    questions: int


@dataclass(frozen=True, slots=True)
class Complexity:
    """Figures about what questions need (paper, section 2 and figure 2).

    Attributes:
        questions (`int`): number of questions.
        mean_k (`float | None`): None if there is no question.
        mode_k (`int | None`): the most frequent k, the smaller one in a tie; None if there is no question.
        at_most_2, none_needed (`float | None`): shares, 0 to 1, of questions with k <= 2, and with k = 0.
        by_k (`dict[int, int]`): k -> number of questions, from 0 to the largest k that occurs.
        by_capability (`dict[str, int]`): capability -> number of questions that need it; all ten capabilities.
        by_pair (`tuple[CapabilityPair, ...]`): pairs of capabilities that a question needs, the most frequent first.
    """

    questions: int
    mean_k: float | None
    mode_k: int | None
    at_most_2: float | None
    none_needed: float | None
    by_k: dict[int, int]
    by_capability: dict[str, int]
    by_pair: tuple[CapabilityPair, ...]


def measure_complexity(combination_counts: Mapping[tuple[str, ...], int]) -> Complexity:
    """Return the figures for questions.

    Args:
        combination_counts (`Mapping[tuple[str, ...], int]`): combination of capabilities, in any order, empty if none
            is needed -> number of questions that need exactly these.

    Raises:
        UnknownCapabilityError: a name is not one of the ten capabilities.
    """
    ks: Counter[int] = Counter()
    capabilities: Counter[str] = Counter()
    pairs: Counter[tuple[str, ...]] = Counter()
    for names, count in combination_counts.items():
        combination = canonicalize(names)
        ks[len(combination)] += count
        for name in combination:
            capabilities[name] += count
        for pair in combinations(combination, 2):
            pairs[pair] += count
    total = ks.total()
    return Complexity(
        questions=total,
        mean_k=sum(k * count for k, count in ks.items()) / total if total else None,
        mode_k=min(ks, key=lambda k: (-ks[k], k), default=None),
        at_most_2=sum(ks[k] for k in (0, 1, 2)) / total if total else None,
        none_needed=ks[0] / total if total else None,
        # Every k up to the largest, so that a chart has no gaps; empty without questions.
        by_k={k: ks[k] for k in range(max(ks, default=-1) + 1)},
        by_capability={name: capabilities[name] for name in CAPABILITIES},
        by_pair=tuple(
            CapabilityPair(first, second, count)
            for (first, second), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        ),
    )
