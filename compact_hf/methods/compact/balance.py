"""Balance: in go the combinations of each image's accepted questions, out comes which of them to take.

Of an image with more than two questions two or three are taken, so that over the whole dataset k, capabilities and
pairs of capabilities come out as even as the questions allow. Pure, without a seed, in whole numbers: what is taken is
a function of what there is, gone over in the order of image ids.
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


def balance_questions(images: Mapping[str, Sequence[Combination]]) -> Choice:
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
    catalog = make_catalog(images)
    targets = _target_counts(catalog)
    spread = _Spread(catalog, targets)
    selection = _Selection(catalog)
    for image in range(len(catalog)):
        questions = list(catalog.get_questions(image))
        while len(questions) > MAX_TURNS:
            spread.remove(questions, spread.find_heaviest(questions))
        selection[image] = questions
    for k, target in targets.items():
        _reduce_to_target(k, target, catalog, selection, spread)
    surplus = array("I", (image for image in range(len(catalog)) if len(catalog.get_questions(image)) > MIN_TURNS))
    while sum(_swap(image, catalog, selection, spread) for image in surplus):
        pass
    choice = Choice(catalog)
    for image in range(len(catalog)):
        choice.take(image, selection[image])
    return choice


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


def _target_counts(catalog: QuestionCatalog) -> dict[int, int]:
    """Return how many questions of each k to take.

    Each k can have between two and three for each image. All ks get the same number, or the nearest to it that they can
    have; the most even number, and of several the highest, is where one more makes the sum of squares by the square of
    the sum grow, which it goes on doing from there.
    """
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
        squares = [sum(count**2 for count in counts) for counts in (lower, higher)]
        return squares[1] * sum(lower) ** 2 > squares[0] * sum(higher) ** 2

    return clip(bisect_right(range(1, max(maximum.values(), default=0) + 1), False, key=is_too_high))


class _Selection:
    """The questions that each image keeps, at most three, in an order that exchanges leave as it is."""

    def __init__(self, catalog: QuestionCatalog) -> None:
        self._slots = array("I", [0]) * (MAX_TURNS * len(catalog))  # numbers of questions from 1, 0 for none

    def __getitem__(self, image: int) -> list[int]:
        return [slot - 1 for slot in self._slots[MAX_TURNS * image : MAX_TURNS * (image + 1)] if slot]

    def __setitem__(self, image: int, questions: Sequence[int]) -> None:
        slots = [question + 1 for question in questions] + [0] * (MAX_TURNS - len(questions))
        self._slots[MAX_TURNS * image : MAX_TURNS * (image + 1)] = array("I", slots)


def _reduce_to_target(k: int, target: int, catalog: QuestionCatalog, selection: _Selection, spread: _Spread) -> None:
    """Let images of this k give up their third question, the most frequent first, until the level is reached."""
    excess = -target
    candidates: dict[int, array[int]] = {}  # number of a combination -> its questions
    for image in reversed(range(len(catalog))):
        if catalog.get_k(image) != k:
            continue
        questions = selection[image]
        excess += len(questions)
        for question in questions if len(questions) > MIN_TURNS else ():
            candidates.setdefault(catalog.combination_numbers[question], array("I")).append(question)
    # Weights only shrink as questions are given up, so what is on top and has not shrunk is the heaviest.
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
            if len(questions) > MIN_TURNS:
                spread.remove(questions, question)
                selection[image] = questions
                excess -= 1


def _swap(image: int, catalog: QuestionCatalog, selection: _Selection, spread: _Spread) -> bool:
    """Exchange one question for another that was given up, the exchange that evens most, if any does."""
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
    """How often each capability and pair is needed by what is taken; `targets` has how many questions it will be."""

    def __init__(self, catalog: QuestionCatalog, targets: Mapping[int, int]) -> None:
        self._combination_numbers = catalog.combination_numbers
        capabilities = sorted({capability for combination in catalog.combinations for capability in combination})
        pairs = sorted({pair for combination in catalog.combinations for pair in combinations(combination, 2)})
        cell_index = {cell: index for index, cell in enumerate([*capabilities, *pairs])}
        # Of each combination: its cells, and its capabilities as bits.
        self._cells = [
            [cell_index[cell] for cell in (*names, *combinations(names, 2))] for names in catalog.combinations
        ]
        self._bits = [sum(1 << cell_index[name] for name in names) for names in catalog.combinations]
        # The squares of n counts by the square of their mean are n^2 / total^2 of them: here as whole numbers.
        totals = {size: sum(math.comb(k, size) * target for k, target in targets.items()) or 1 for size in (1, 2)}
        capability_unit, pair_unit = (len(capabilities) * totals[2]) ** 2, (len(pairs) * totals[1]) ** 2
        self._units = [capability_unit] * len(capabilities) + [pair_unit] * len(pairs)
        self._own_weights = [capability_unit * k + pair_unit * math.comb(k, 2) for k in range(MAX_K + 1)]
        self._counts = [0] * len(cell_index)  # in units
        for number, count in Counter(catalog.combination_numbers).items():
            self._update(number, count)

    def weigh(self, number: int) -> int:
        """Return how often what a combination needs is needed, in units."""
        return sum(map(self._counts.__getitem__, self._cells[number]))

    def find_heaviest(self, questions: Sequence[int]) -> int:
        """Return the question whose loss evens most, the last one of equals."""
        return max(questions, key=lambda question: (self.weigh(self._combination_numbers[question]), question))

    def remove(self, questions: list[int], question: int) -> None:
        """Take a question away."""
        questions.remove(question)
        self._update(self._combination_numbers[question], -1)

    def find_swap(self, questions: Sequence[int], others: Sequence[int]) -> tuple[int, int] | None:
        """Return the exchange of one of the questions for one of the others that evens most, None if none does."""
        numbers = self._combination_numbers
        weighed_others = [(self.weigh(numbers[other]), self._bits[numbers[other]], other) for other in others]
        best_delta, best_swap = 0, None
        for old in questions if others else ():
            old_bits = self._bits[numbers[old]]
            weight = self.weigh(numbers[old]) - self._own_weights[old_bits.bit_count()]
            for new_weight, new_bits, new in weighed_others:
                # Half of what the sums of squares change by; what both need stays as it is.
                delta = new_weight - weight - self._own_weights[(old_bits & new_bits).bit_count()]
                if delta < best_delta:
                    best_delta, best_swap = delta, (old, new)
        return best_swap

    def replace(self, old: int, new: int) -> None:
        """Exchange one question for another."""
        self._update(self._combination_numbers[old], -1)
        self._update(self._combination_numbers[new], 1)

    def _update(self, number: int, delta: int) -> None:
        for cell in self._cells[number]:
            self._counts[cell] += delta * self._units[cell]
