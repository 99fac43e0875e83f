"""Chooses which accepted questions to keep so that k, capabilities and pairs of capabilities are as even as possible.

The input is the combination of capabilities of each image's accepted questions. Two or three questions are kept of each
image that has more than two. The choice is deterministic and needs no seed: it uses integer arithmetic only and depends
only on the questions, visited in the order of image ids.
"""

from __future__ import annotations

import heapq
import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from compact_hf.methods.compact.catalog import Choice, QuestionCatalog, make_catalog
from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.sampling import MAX_K, Combination
from compact_hf.reports.table import NotebookSummary, Table

MIN_TURNS: Final = PAPER.min_turns
MAX_TURNS: Final = PAPER.max_turns


@dataclass(frozen=True, slots=True)
class Evenness:
    """How evenly questions are distributed.

    Attributes:
        questions (`int`): number of questions.
        ks, capabilities, pairs (`float`): evenness of the ks, the capabilities and the pairs of capabilities that
            occur: the entropy of their distribution divided by that of a uniform one, 0 to 1; 1 if at most one occurs.
    """

    questions: int
    ks: float
    capabilities: float
    pairs: float


@dataclass(frozen=True, slots=True)
class Balance(NotebookSummary):
    """The result of balancing.

    Attributes:
        before (`Evenness`): of all accepted questions.
        after (`Evenness`): of the questions that were kept.
    """

    before: Evenness
    after: Evenness

    def summary(self) -> Iterator[str | Table]:
        """Yield a table of both."""
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


def balance_questions(images: Mapping[str, Sequence[Combination]]) -> Choice:
    """Choose two or three questions of each image.

    How many depends only on k. The numbers of questions of each k are made as equal, and as high, as two or three per
    image allow, so images of a frequent k keep two and images of a rare k keep three.

    Which questions is decided by a greedy search. Each image first gives up the question whose capabilities are needed
    most often. It then exchanges questions for those it gave up as long as this lowers the objective: the sum of
    squared counts of the capabilities plus that of the pairs, each divided by its squared mean.

    Dropping more third questions would gain little: with accept rates of 0.45 to 0.95 per capability, 0.0007 of the
    pairs' evenness for a quarter of the questions.

    Args:
        images (`Mapping[str, Sequence[Combination]]`): image id -> the combination of each accepted question. The
            questions of an image have the same k. The order of the images does not matter.

    Returns:
        Image id -> positions of the questions to keep, ascending. An image with at most two questions keeps all of
        them.
    """
    catalog = make_catalog(images)
    targets = _target_counts(catalog)
    # All questions count as kept at first: passes 1 and 2 only remove.
    spread = _Spread(catalog, targets)
    selection = _Selection(catalog)
    # Pass 1: each image gives up its surplus, until it has at most three questions.
    for image in range(len(catalog)):
        questions = list(catalog.get_questions(image))
        while len(questions) > MAX_TURNS:
            spread.remove(questions, spread.find_heaviest(questions))
        selection[image] = questions
    # Pass 2: images of frequent ks also give up their third question, until each k has its target.
    for k, target in targets.items():
        _reduce_to_target(k, target, catalog, selection, spread)
    # Pass 3: exchanges. Each lowers an integer objective that is never negative, so the loop ends.
    surplus = array("I", (image for image in range(len(catalog)) if len(catalog.get_questions(image)) > MIN_TURNS))
    while sum(_swap(image, catalog, selection, spread) for image in surplus):
        pass
    choice = Choice(catalog)
    for image in range(len(catalog)):
        choice.take(image, selection[image])
    return choice


def measure_evenness(questions: Iterable[Combination]) -> Evenness:
    """Return how evenly the ks, capabilities and pairs of questions are distributed.

    Args:
        questions (`Iterable[Combination]`): the combination of each question.
    """
    # There are at most 1,023 combinations, so everything else is counted from these, not from the questions.
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
    """Return the entropy of counts divided by that of a uniform distribution, 1 if there are fewer than two counts."""
    # Sorted, and summed by `fsum`: the result does not depend on the order in which counts were made.
    values = sorted(counts)
    total = sum(values)
    if len(values) < 2:
        return 1.0
    return math.fsum(count / total * math.log(total / count) for count in values) / math.log(len(values))


def _target_counts(catalog: QuestionCatalog) -> dict[int, int]:
    """Return how many questions of each k to keep.

    The bounds for each k are two and three questions per image. All ks get the same target, clipped to their bounds.
    The target is the one that minimises (sum of squared counts) / (sum of counts)^2, the largest in a tie. From there
    on this ratio only grows with the target, so bisection finds it.
    """
    # k -> bounds of the number of its questions.
    minimum: Counter[int] = Counter()
    maximum: Counter[int] = Counter()
    for image in range(len(catalog)):
        if k := catalog.get_k(image):
            count = len(catalog.get_questions(image))
            minimum[k] += min(MIN_TURNS, count)
            maximum[k] += min(MAX_TURNS, count)

    def clip(target: int) -> dict[int, int]:
        return {k: max(minimum[k], min(target, maximum[k])) for k in sorted(maximum)}

    def is_too_high(target: int) -> bool:
        lower, higher = clip(target - 1).values(), clip(target).values()
        # Compares the two ratios multiplied by both denominators, so that everything stays an integer.
        squares = [sum(count**2 for count in counts) for counts in (lower, higher)]
        return squares[1] * sum(lower) ** 2 > squares[0] * sum(higher) ** 2

    # The range starts at 1, so the index of the first target that is too high is the last one that is not.
    return clip(bisect_right(range(1, max(maximum.values(), default=0) + 1), False, key=is_too_high))


class _Selection:
    """The questions that each image keeps, at most three; exchanging a question does not change the order."""

    def __init__(self, catalog: QuestionCatalog) -> None:
        # Shape (images * MAX_TURNS,): the number of the question + 1, or 0 for an empty slot.
        self._slots = array("I", [0]) * (MAX_TURNS * len(catalog))

    def __getitem__(self, image: int) -> list[int]:
        return [slot - 1 for slot in self._slots[MAX_TURNS * image : MAX_TURNS * (image + 1)] if slot]

    def __setitem__(self, image: int, questions: Sequence[int]) -> None:
        slots = [question + 1 for question in questions] + [0] * (MAX_TURNS - len(questions))
        self._slots[MAX_TURNS * image : MAX_TURNS * (image + 1)] = array("I", slots)


def _reduce_to_target(k: int, target: int, catalog: QuestionCatalog, selection: _Selection, spread: _Spread) -> None:
    """Drop the third question of images of this k, the most frequent combinations first, until the target is met."""
    # Number of kept questions of this k minus the target, once the loop has added all images.
    excess = -target
    candidates: dict[int, array[int]] = {}  # combination number -> questions with it that can be dropped
    # Reversed, so that `pop` below takes the questions of the first images first.
    for image in reversed(range(len(catalog))):
        if catalog.get_k(image) != k:
            continue
        questions = selection[image]
        excess += len(questions)
        for question in questions if len(questions) > MIN_TURNS else ():
            candidates.setdefault(catalog.combination_numbers[question], array("I")).append(question)
    # Lazy heap: weights only shrink as questions are dropped. If the weight of the top entry is up to date, it is the
    # heaviest; otherwise it is pushed back with its new weight.
    heap = [(-spread.weigh(number), catalog.combinations[number], number) for number in candidates]
    heapq.heapify(heap)
    while excess:
        weight, combination, number = heap[0]
        if weight != -spread.weigh(number):
            heapq.heapreplace(heap, (-spread.weigh(number), combination, number))
        elif not candidates[number]:
            heapq.heappop(heap)
        else:
            question = candidates[number].pop()
            image = catalog.find_image_of(question)
            questions = selection[image]
            # Otherwise the image's third question was dropped before.
            if len(questions) > MIN_TURNS:
                spread.remove(questions, question)
                selection[image] = questions
                excess -= 1


def _swap(image: int, catalog: QuestionCatalog, selection: _Selection, spread: _Spread) -> bool:
    """Exchange one question of an image for one that it gave up, choosing the exchange that improves the balance most.

    Returns:
        False if no exchange improves the balance.
    """
    questions = selection[image]
    exchange = spread.find_swap(questions, [other for other in catalog.get_questions(image) if other not in questions])
    if exchange is None:
        return False
    old, new = exchange
    spread.replace(old, new)
    questions[questions.index(old)] = new
    selection[image] = questions
    return True


class _Spread:
    """Counts how often the kept questions need each capability and each pair, as weighted integers.

    Args:
        catalog (`QuestionCatalog`): all questions; they all count as kept at first.
        targets (`Mapping[int, int]`): k -> number of questions that will be kept, which decides the weights.
    """

    def __init__(self, catalog: QuestionCatalog, targets: Mapping[int, int]) -> None:
        self._combination_numbers = catalog.combination_numbers
        # Cells are counted: first the capabilities that occur, then the pairs that occur.
        capabilities = sorted({capability for combination in catalog.combinations for capability in combination})
        pairs = sorted({pair for combination in catalog.combinations for pair in combinations(combination, 2)})
        cell_index = {cell: index for index, cell in enumerate([*capabilities, *pairs])}
        # Per combination: the indices of its cells (capabilities and pairs), and its capabilities as a bit mask.
        self._cells = [
            [cell_index[cell] for cell in (*names, *combinations(names, 2))] for names in catalog.combinations
        ]
        self._bits = [sum(1 << cell_index[name] for name in names) for names in catalog.combinations]
        # Dividing the squares of n counts by their squared mean multiplies them by n^2 / total^2. Both terms are scaled
        # by the squared totals of capabilities (size 1) and of pairs (size 2), so that all weights are integers.
        totals = {size: sum(math.comb(k, size) * target for k, target in targets.items()) or 1 for size in (1, 2)}
        capability_unit, pair_unit = (len(capabilities) * totals[2]) ** 2, (len(pairs) * totals[1]) ** 2
        self._units = [capability_unit] * len(capabilities) + [pair_unit] * len(pairs)
        # k -> how much one question adds to the weight of its own combination.
        self._own_weights = [capability_unit * k + pair_unit * math.comb(k, 2) for k in range(MAX_K + 1)]
        self._counts = [0] * len(cell_index)  # weighted counts, by cell
        for number, count in Counter(catalog.combination_numbers).items():
            self._update(number, count)

    def weigh(self, number: int) -> int:
        """Return the sum of the weighted counts of a combination's capabilities and pairs."""
        # Hot path, called for every question several times; `map` avoids a generator.
        return sum(map(self._counts.__getitem__, self._cells[number]))

    def find_heaviest(self, questions: Sequence[int]) -> int:
        """Return the question whose removal improves the balance most, the last one in a tie."""
        return max(questions, key=lambda question: (self.weigh(self._combination_numbers[question]), question))

    def remove(self, questions: list[int], question: int) -> None:
        """Remove a question from the list and from the counts."""
        questions.remove(question)
        self._update(self._combination_numbers[question], -1)

    def find_swap(self, questions: Sequence[int], others: Sequence[int]) -> tuple[int, int] | None:
        """Return the exchange (old, new) that improves the balance most, None if no exchange does."""
        numbers = self._combination_numbers
        # (weight, capabilities as bits, question), computed once for all of the image's kept questions.
        weighed_others = [(self.weigh(numbers[other]), self._bits[numbers[other]], other) for other in others]
        best_delta, best_swap = 0, None
        for old in questions if others else ():
            old_bits = self._bits[numbers[old]]
            # The weight that the old combination has without this question.
            weight = self.weigh(numbers[old]) - self._own_weights[old_bits.bit_count()]
            for new_weight, new_bits, new in weighed_others:
                # Half of the change of the objective. Cells that both combinations need do not change.
                delta = new_weight - weight - self._own_weights[(old_bits & new_bits).bit_count()]
                if delta < best_delta:
                    best_delta, best_swap = delta, (old, new)
        return best_swap

    def replace(self, old: int, new: int) -> None:
        """Exchange one question for another in the counts."""
        self._update(self._combination_numbers[old], -1)
        self._update(self._combination_numbers[new], 1)

    def _update(self, number: int, delta: int) -> None:
        """Add a number of questions with this combination to the counts."""
        for cell in self._cells[number]:
            self._counts[cell] += delta * self._units[cell]
