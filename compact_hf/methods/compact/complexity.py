"""How complex questions are: how often each combination of capabilities is needed in, the paper's figures out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from compact_hf.capabilities import CAPABILITIES, canonicalize


@dataclass(frozen=True, slots=True)
class CapabilityPair:
    """How many questions need both of two capabilities, in canonical order."""

    one: str
    other: str
    questions: int


@dataclass(frozen=True, slots=True)
class Complexity:
    """Questions by what they need (paper, section 2 and figure 2).

    Attributes:
        questions (`int`): how many there are.
        mean_k (`float | None`): None without any question.
        mode_k (`int | None`): the k that most questions have, the smaller in a tie.
        at_most_2, none_needed (`float | None`): shares, 0 to 1, of questions with k <= 2, and with k = 0.
        by_k (`dict[int, int]`): k -> questions, from 0 to the largest that there is.
        by_capability (`dict[str, int]`): capability -> questions that need it; all ten.
        by_pair (`tuple[CapabilityPair, ...]`): pairs that some question needs, most frequent first.
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
    """Return the figures of questions.

    Args:
        combination_counts: combination of capabilities, in any order, empty for none -> how many questions need
            exactly these.

    Raises:
        UnknownCapabilityError: a name is not one of the ten.
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
        by_k={k: ks[k] for k in range(max(ks, default=-1) + 1)},
        by_capability={name: capabilities[name] for name in CAPABILITIES},
        by_pair=tuple(
            CapabilityPair(first, second, count)
            for (first, second), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        ),
    )
