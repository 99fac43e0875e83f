"""Balance: in go the combinations of each image's accepted questions, out comes which of them to take.

Of an image with more than two questions two or three are taken, so that over the whole dataset k, capabilities and
pairs of capabilities come out as even as the questions allow. Pure, without a seed, in whole numbers: what is taken is
a function of what there is, gone over in the order of image ids.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Final

from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.sampling import MAX_K, Combination
from compact_hf.reports.table import NotebookSummary, Table

MIN_TURNS: Final = PAPER.min_turns
MAX_TURNS: Final = PAPER.max_turns

Positions = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evenness:
    """How evenly questions are spread.

    Attributes:
        questions (`int`): how many there are.
        ks, capabilities, pairs (`float`): over the ks, the capabilities and the pairs of capabilities that occur: the
            entropy of how often each does by that of an even spread, 0 to 1; 1 where at most one occurs.
    """

    questions: int
    ks: float
    capabilities: float
    pairs: float


@dataclass(frozen=True, slots=True)
class Balance(NotebookSummary):
    """What balancing did: the evenness of all accepted questions, and of those that were taken."""

    before: Evenness
    after: Evenness

    def summary(self) -> Iterator[str | Table]:
        """Yield the table of both."""
        yield Table(
            ("evenness", "questions", "k", "capabilities", "pairs"),
            [
                (
                    label,
                    evenness.questions,
                    *(f"{share:.4f}" for share in (evenness.ks, evenness.capabilities, evenness.pairs)),
                )
                for label, evenness in (("before", self.before), ("after", self.after))
            ],
        )


def balance_questions(images: Mapping[str, Sequence[Combination]]) -> dict[str, Positions]:
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
    targets = _target_counts(images.values())
    spread = _Spread(chain.from_iterable(images.values()), targets)
    selection = {image_id: list(range(len(images[image_id]))) for image_id in sorted(images)}
    surplus = [image_id for image_id in selection if len(selection[image_id]) > MIN_TURNS]
    for image_id in surplus:
        while len(selection[image_id]) > MAX_TURNS:
            spread.remove(
                images[image_id], selection[image_id], spread.find_heaviest(images[image_id], selection[image_id])
            )
    for k, target in targets.items():
        _reduce_to_target(k, target, images, selection, spread)
    while sum(spread.swap(images[image_id], selection[image_id]) for image_id in surplus):
        pass
    return {image_id: tuple(sorted(positions)) for image_id, positions in selection.items()}


def measure_evenness(questions: Iterable[Combination]) -> Evenness:
    """Return how even the ks, capabilities and pairs of these questions are."""
    combination_counts = Counter(questions)
    ks: Counter[int] = Counter()
    capabilities: Counter[str] = Counter()
    pairs: Counter[Combination] = Counter()
    for combination, count in combination_counts.items():
        ks[len(combination)] += count
        for capability in combination:
            capabilities[capability] += count
        for pair in combinations(combination, 2):
            pairs[pair] += count
    return Evenness(
        combination_counts.total(), _entropy(ks.values()), _entropy(capabilities.values()), _entropy(pairs.values())
    )


def _entropy(counts: Iterable[int]) -> float:
    values = sorted(counts)
    total = sum(values)
    if len(values) < 2:
        return 1.0
    return math.fsum(count / total * math.log(total / count) for count in values) / math.log(len(values))


def _target_counts(images: Iterable[Sequence[Combination]]) -> dict[int, int]:
    """Return how many questions of each k to take.

    Each k can have between two and three for each image. All ks get the same number, or the nearest to it that they can
    have; the most even number, and of several the highest, is where one more makes the sum of squares by the square of
    the sum grow, which it goes on doing from there.
    """
    minimum: Counter[int] = Counter()
    maximum: Counter[int] = Counter()
    for questions in filter(None, images):
        minimum[len(questions[0])] += min(MIN_TURNS, len(questions))
        maximum[len(questions[0])] += min(MAX_TURNS, len(questions))

    def clip(target: int) -> dict[int, int]:
        return {k: max(minimum[k], min(target, maximum[k])) for k in sorted(maximum)}

    def is_too_high(target: int) -> bool:
        lower, higher = clip(target - 1).values(), clip(target).values()
        squares = [sum(count**2 for count in counts) for counts in (lower, higher)]
        return squares[1] * sum(lower) ** 2 > squares[0] * sum(higher) ** 2

    return clip(bisect_right(range(1, max(maximum.values(), default=0) + 1), False, key=is_too_high))


def _reduce_to_target(
    k: int, target: int, images: Mapping[str, Sequence[Combination]], selection: dict[str, list[int]], spread: _Spread
) -> None:
    """Let images of this k give up their third question, the most frequent first, until the level is reached."""
    image_ids = [image_id for image_id in selection if images[image_id] and len(images[image_id][0]) == k]
    excess = sum(len(selection[image_id]) for image_id in image_ids) - target
    candidates: dict[Combination, list[tuple[str, int]]] = {}
    for image_id in reversed(image_ids):
        for position in selection[image_id] if len(selection[image_id]) > MIN_TURNS else ():
            candidates.setdefault(images[image_id][position], []).append((image_id, position))
    # Weights only shrink as questions are given up, so what is on top and has not shrunk is the heaviest.
    heap = [(-spread.weight(combination), combination) for combination in candidates]
    heapq.heapify(heap)
    while excess:
        weight, combination = heap[0]
        if weight != -spread.weight(combination):
            heapq.heapreplace(heap, (-spread.weight(combination), combination))
        elif not candidates[combination]:
            heapq.heappop(heap)
        else:
            image_id, position = candidates[combination].pop()
            if len(selection[image_id]) > MIN_TURNS:
                spread.remove(images[image_id], selection[image_id], position)
                excess -= 1


class _Spread:
    """How often each capability and pair is needed by what is taken; `targets` has how many questions it will be."""

    def __init__(self, questions: Iterable[Combination], targets: Mapping[int, int]) -> None:
        question_counts = Counter(questions)
        capabilities = sorted({capability for combination in question_counts for capability in combination})
        pairs = sorted({pair for combination in question_counts for pair in combinations(combination, 2)})
        cell_index = {cell: index for index, cell in enumerate([*capabilities, *pairs])}
        self._cells = {
            names: [cell_index[cell] for cell in (*names, *combinations(names, 2))] for names in question_counts
        }
        # The squares of n counts by the square of their mean are n^2 / total^2 of them: here as whole numbers.
        totals = {size: sum(math.comb(k, size) * target for k, target in targets.items()) or 1 for size in (1, 2)}
        capability_unit, pair_unit = (len(capabilities) * totals[2]) ** 2, (len(pairs) * totals[1]) ** 2
        self._units = [capability_unit] * len(capabilities) + [pair_unit] * len(pairs)
        self._own_weights = [capability_unit * k + pair_unit * math.comb(k, 2) for k in range(MAX_K + 1)]
        self._counts = [0] * len(cell_index)  # in units
        for combination, count in question_counts.items():
            self._update(combination, count)

    def weight(self, combination: Combination) -> int:
        """Return how often what a question needs is needed, in units."""
        return sum(map(self._counts.__getitem__, self._cells[combination]))

    def find_heaviest(self, questions: Sequence[Combination], positions: Sequence[int]) -> int:
        """Return the position of the question whose loss evens most, the last one of equals."""
        return max(positions, key=lambda position: (self.weight(questions[position]), position))

    def remove(self, questions: Sequence[Combination], positions: list[int], position: int) -> None:
        """Take a question away."""
        positions.remove(position)
        self._update(questions[position], -1)

    def swap(self, questions: Sequence[Combination], positions: list[int]) -> bool:
        """Exchange one question for another that was given up, the exchange that evens most, if any does."""
        removed = [
            (self.weight(questions[position]), position)
            for position in range(len(questions))
            if position not in positions
        ]
        best_delta, best_swap = 0, (0, 0)
        for old in positions if removed else ():
            names = set(questions[old])
            weight = self.weight(questions[old]) - self._own_weights[len(names)]
            for new_weight, new in removed:
                # Half of what the sums of squares change by; what both need stays as it is.
                delta = new_weight - weight - self._own_weights[len(names.intersection(questions[new]))]
                if delta < best_delta:
                    best_delta, best_swap = delta, (old, new)
        if best_delta == 0:
            return False
        old, new = best_swap
        positions[positions.index(old)] = new
        self._update(questions[old], -1)
        self._update(questions[new], 1)
        return True

    def _update(self, combination: Combination, delta: int) -> None:
        for cell in self._cells[combination]:
            self._counts[cell] += delta * self._units[cell]
