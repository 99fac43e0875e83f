"""A reference implementation of balance and selection with dictionaries and tuples.

It is the code from before questions were stored as numbers, and the array-based one is compared with it. Only the
allocation by k is the package's own.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations

from compact_hf.methods.compact.balance import MAX_TURNS, MIN_TURNS
from compact_hf.methods.compact.catalog import Positions
from compact_hf.methods.compact.sampling import MAX_K, Combination
from compact_hf.methods.compact.selection import _ALL_KS, Selection, _allocate
from compact_hf.records import digest, is_validation_image


def balance_questions(images: Mapping[str, Sequence[Combination]]) -> dict[str, Positions]:
    """Choose two or three questions of each image."""
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


def select_questions(images: Mapping[str, Sequence[Combination]], selection: Selection) -> dict[str, Positions]:
    """Choose questions of images according to a selection."""
    eligible = _find_eligible(images, selection)
    if selection.size is None and not selection.k_shares:
        return eligible
    group_by_id = {image_id: len(images[image_id][0]) if selection.k_shares else _ALL_KS for image_id in eligible}
    train_ids = {image_id for image_id in eligible if not is_validation_image(image_id)}
    available: Counter[int] = Counter()
    for image_id in train_ids:
        available[group_by_id[image_id]] += len(eligible[image_id]) if selection.conversations is None else 1
    remaining = _allocate(available, selection)
    result: dict[str, Positions] = {}
    for image_id in sorted(eligible, key=lambda image_id: digest("selection", selection.seed, image_id)):
        if not remaining[group := group_by_id[image_id]]:
            continue
        result[image_id] = eligible[image_id]
        if image_id in train_ids and selection.conversations is None:
            result[image_id] = eligible[image_id][: remaining[group]]
        if image_id in train_ids:
            remaining[group] -= len(result[image_id]) if selection.conversations is None else 1
    return result


def _find_eligible(images: Mapping[str, Sequence[Combination]], selection: Selection) -> dict[str, Positions]:
    """Return the questions that have a selected k and need no excluded capability."""
    ks, without = {*selection.ks, *selection.k_shares}, set(selection.without)
    eligible: dict[str, Positions] = {}
    for image_id, questions in images.items():
        if ks and len(questions[0]) not in ks:
            continue
        positions = tuple(index for index, combination in enumerate(questions) if without.isdisjoint(combination))
        if len(positions) >= min(MIN_TURNS, len(questions)):
            eligible[image_id] = positions
    return eligible


def _target_counts(images: Iterable[Sequence[Combination]]) -> dict[int, int]:
    """Return how many questions of each k to keep; see `balance._target_counts`."""
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
    """Drop the third question of images of this k, the most frequent combinations first, until the target is met."""
    image_ids = [image_id for image_id in selection if images[image_id] and len(images[image_id][0]) == k]
    excess = sum(len(selection[image_id]) for image_id in image_ids) - target
    candidates: dict[Combination, list[tuple[str, int]]] = {}
    for image_id in reversed(image_ids):
        for position in selection[image_id] if len(selection[image_id]) > MIN_TURNS else ():
            candidates.setdefault(images[image_id][position], []).append((image_id, position))
    # Weights only shrink as questions are dropped, so a top entry with an up-to-date weight is the heaviest.
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
    """Counts how often the kept questions need each capability and each pair; see `balance._Spread`."""

    def __init__(self, questions: Iterable[Combination], targets: Mapping[int, int]) -> None:
        question_counts = Counter(questions)
        capabilities = sorted({capability for combination in question_counts for capability in combination})
        pairs = sorted({pair for combination in question_counts for pair in combinations(combination, 2)})
        cell_index = {cell: index for index, cell in enumerate([*capabilities, *pairs])}
        self._cells = {
            names: [cell_index[cell] for cell in (*names, *combinations(names, 2))] for names in question_counts
        }
        # Weights n^2 / total^2, scaled to integers; see `balance._Spread`.
        totals = {size: sum(math.comb(k, size) * target for k, target in targets.items()) or 1 for size in (1, 2)}
        capability_unit, pair_unit = (len(capabilities) * totals[2]) ** 2, (len(pairs) * totals[1]) ** 2
        self._units = [capability_unit] * len(capabilities) + [pair_unit] * len(pairs)
        self._own_weights = [capability_unit * k + pair_unit * math.comb(k, 2) for k in range(MAX_K + 1)]
        self._counts = [0] * len(cell_index)  # weighted counts, by cell
        for combination, count in question_counts.items():
            self._update(combination, count)

    def weight(self, combination: Combination) -> int:
        """Return the sum of the weighted counts of a combination's capabilities and pairs."""
        return sum(map(self._counts.__getitem__, self._cells[combination]))

    def find_heaviest(self, questions: Sequence[Combination], positions: Sequence[int]) -> int:
        """Return the position of the question whose removal improves the balance most, the last one in a tie."""
        return max(positions, key=lambda position: (self.weight(questions[position]), position))

    def remove(self, questions: Sequence[Combination], positions: list[int], position: int) -> None:
        """Remove a question."""
        positions.remove(position)
        self._update(questions[position], -1)

    def swap(self, questions: Sequence[Combination], positions: list[int]) -> bool:
        """Exchange the question and the one given up that improve the balance most; False if no exchange does."""
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
                # Half of the change of the objective. Cells that both combinations need do not change.
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
