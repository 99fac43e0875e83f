"""Balance: in go the combinations of each image's accepted questions, out comes which of them to take.

Of an image with more than two questions two or three are taken, so that over the whole data set k, capabilities and
pairs of capabilities come out as even as the questions allow. Pure, without a seed, in whole numbers: what is taken is
a function of what there is, gone over in the order of image ids.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Final

from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.sampling import MAX_K, Combination

FEWEST: Final = PAPER.min_turns
MOST: Final = PAPER.max_turns

Positions = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evenness:
    """How evenly questions are spread.

    Attributes:
        questions (`int`): how many there are.
        ks, atoms, pairs (`float`): over the ks, the capabilities and the pairs of capabilities that occur: the entropy
            of how often each does by that of an even spread, 0 to 1; 1 where at most one occurs.
    """

    questions: int
    ks: float
    atoms: float
    pairs: float


@dataclass(frozen=True, slots=True)
class Balance:
    """What balancing did: the evenness of all accepted questions, and of those that were taken."""

    before: Evenness
    after: Evenness


def balanced(images: Mapping[str, Sequence[Combination]]) -> dict[str, Positions]:
    """Choose two or three of each image's questions.

    How many follows from k alone: the number of questions of each k is brought as near to the others' as two or three
    an image allow, and as high, so that a frequent k keeps two where a rare one keeps three. Which follows from the
    rest: each image first gives up what is needed most often, then exchanges a question for one it gave up as long as
    that makes the squared counts of the atoms and of the pairs smaller, each sum taken by the square of its mean.
    Dropping further thirds would buy little: with accept rates of 0.45 to 0.95 by atom, 0.0007 of the pairs' evenness
    for a quarter of the questions.

    Args:
        images (`Mapping[str, Sequence[Combination]]`): image id -> the combination of each accepted question; those of
            an image have one k. The order of the images does not matter.

    Returns:
        Image id -> positions of the questions to take, ascending. An image with two or fewer keeps what it has.
    """
    levels = _levels(images.values())
    spread = _Spread(chain.from_iterable(images.values()), levels)
    taken = {image_id: list(range(len(images[image_id]))) for image_id in sorted(images)}
    surplus = [image_id for image_id in taken if len(taken[image_id]) > FEWEST]
    for image_id in surplus:
        while len(taken[image_id]) > MOST:
            spread.give_up(images[image_id], taken[image_id], spread.heaviest(images[image_id], taken[image_id]))
    for k, level in levels.items():
        _lower(k, level, images, taken, spread)
    while sum(spread.exchange(images[image_id], taken[image_id]) for image_id in surplus):
        pass
    return {image_id: tuple(sorted(positions)) for image_id, positions in taken.items()}


def evenness(questions: Iterable[Combination]) -> Evenness:
    """Return how even the ks, capabilities and pairs of these questions are."""
    asked = Counter(questions)
    ks: Counter[int] = Counter()
    atoms: Counter[str] = Counter()
    pairs: Counter[Combination] = Counter()
    for combination, count in asked.items():
        ks[len(combination)] += count
        for atom in combination:
            atoms[atom] += count
        for pair in combinations(combination, 2):
            pairs[pair] += count
    return Evenness(asked.total(), _entropy(ks.values()), _entropy(atoms.values()), _entropy(pairs.values()))


def _entropy(counts: Iterable[int]) -> float:
    found = sorted(counts)
    total = sum(found)
    if len(found) < 2:
        return 1.0
    return math.fsum(count / total * math.log(total / count) for count in found) / math.log(len(found))


def _levels(images: Iterable[Sequence[Combination]]) -> dict[int, int]:
    """Return how many questions of each k to take.

    Each k can have between two and three for each image. All ks get the same number, or the nearest to it that they can
    have; the most even number, and of several the highest, is where one more makes the sum of squares by the square of
    the sum grow, which it goes on doing from there.
    """
    least: Counter[int] = Counter()
    most: Counter[int] = Counter()
    for questions in filter(None, images):
        least[len(questions[0])] += min(FEWEST, len(questions))
        most[len(questions[0])] += min(MOST, len(questions))

    def cut(level: int) -> dict[int, int]:
        return {k: max(least[k], min(level, most[k])) for k in sorted(most)}

    def too_high(level: int) -> bool:
        lower, higher = cut(level - 1).values(), cut(level).values()
        squares = [sum(count**2 for count in counts) for counts in (lower, higher)]
        return squares[1] * sum(lower) ** 2 > squares[0] * sum(higher) ** 2

    return cut(bisect_right(range(1, max(most.values(), default=0) + 1), False, key=too_high))


def _lower(
    k: int, level: int, images: Mapping[str, Sequence[Combination]], taken: dict[str, list[int]], spread: _Spread
) -> None:
    """Let images of this k give up their third question, the most frequent first, until the level is reached."""
    of_k = [image_id for image_id in taken if images[image_id] and len(images[image_id][0]) == k]
    excess = sum(len(taken[image_id]) for image_id in of_k) - level
    holders: dict[Combination, list[tuple[str, int]]] = {}
    for image_id in reversed(of_k):
        for at in taken[image_id] if len(taken[image_id]) > FEWEST else ():
            holders.setdefault(images[image_id][at], []).append((image_id, at))
    # Weights only shrink as questions are given up, so what is on top and has not shrunk is the heaviest.
    heap = [(-spread.weight(combination), combination) for combination in holders]
    heapq.heapify(heap)
    while excess:
        weight, combination = heap[0]
        if weight != -spread.weight(combination):
            heapq.heapreplace(heap, (-spread.weight(combination), combination))
        elif not holders[combination]:
            heapq.heappop(heap)
        else:
            image_id, at = holders[combination].pop()
            if len(taken[image_id]) > FEWEST:
                spread.give_up(images[image_id], taken[image_id], at)
                excess -= 1


class _Spread:
    """How often each atom and each pair is needed by what is taken; `levels` says by how many questions in the end."""

    def __init__(self, questions: Iterable[Combination], levels: Mapping[int, int]) -> None:
        asked = Counter(questions)
        atoms = sorted({atom for combination in asked for atom in combination})
        pairs = sorted({pair for combination in asked for pair in combinations(combination, 2)})
        place = {cell: at for at, cell in enumerate([*atoms, *pairs])}
        self._cells = {needed: [place[cell] for cell in (*needed, *combinations(needed, 2))] for needed in asked}
        # The squares of n counts by the square of their mean are n^2 / total^2 of them: here as whole numbers.
        needs = {size: sum(math.comb(k, size) * level for k, level in levels.items()) or 1 for size in (1, 2)}
        of_atom, of_pair = (len(atoms) * needs[2]) ** 2, (len(pairs) * needs[1]) ** 2
        self._unit = [of_atom] * len(atoms) + [of_pair] * len(pairs)
        self._own = [of_atom * k + of_pair * math.comb(k, 2) for k in range(MAX_K + 1)]
        self._counts = [0] * len(place)  # in units
        for combination, count in asked.items():
            self._change(combination, count)

    def weight(self, combination: Combination) -> int:
        """Return how often what a question needs is needed, in units."""
        return sum(map(self._counts.__getitem__, self._cells[combination]))

    def heaviest(self, questions: Sequence[Combination], taken: Sequence[int]) -> int:
        """Return the position of the question whose loss evens most, the last one of equals."""
        return max(taken, key=lambda at: (self.weight(questions[at]), at))

    def give_up(self, questions: Sequence[Combination], taken: list[int], at: int) -> None:
        """Take a question away."""
        taken.remove(at)
        self._change(questions[at], -1)

    def exchange(self, questions: Sequence[Combination], taken: list[int]) -> bool:
        """Exchange one question for another that was given up, the exchange that evens most, if any does."""
        given_up = [(self.weight(questions[at]), at) for at in range(len(questions)) if at not in taken]
        best, move = 0, (0, 0)
        for out in taken if given_up else ():
            needed = set(questions[out])
            weight = self.weight(questions[out]) - self._own[len(needed)]
            for other, into in given_up:
                # Half of what the sums of squares change by; what both need stays as it is.
                change = other - weight - self._own[len(needed.intersection(questions[into]))]
                if change < best:
                    best, move = change, (out, into)
        if best == 0:
            return False
        out, into = move
        taken[taken.index(out)] = into
        self._change(questions[out], -1)
        self._change(questions[into], 1)
        return True

    def _change(self, combination: Combination, by: int) -> None:
        for cell in self._cells[combination]:
            self._counts[cell] += by * self._unit[cell]
