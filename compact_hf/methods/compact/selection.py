"""Selection: a part of what runs hold, chosen on purpose: in go each image's questions, out comes which to take.

One run so gives many releases without asking a teacher again: of another range of k, without a capability, with a
forced distribution of k, or smaller ones. Pure: what is taken is a function of the selection and of what there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final

from compact_hf.capabilities import canonicalize
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.methods.compact.balance import MIN_TURNS
from compact_hf.methods.compact.catalog import Choice, Positions, QuestionCatalog, make_catalog
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.methods.compact.reasons import SelectionReason
from compact_hf.methods.compact.rows import with_turns
from compact_hf.methods.compact.sampling import MAX_K, Combination
from compact_hf.records import Reject, Row, digest, is_validation_image
from compact_hf.reports.theme import get_label

LLAVA_K_SHARES: Final[Mapping[int, float]] = {1: 0.28, 2: 0.49, 3: 0.23}
"""LLaVA-665K's questions by k as a release of k = 1, 2, 3 can have them: the only shares of these three with the mean
of 1.95 and the 77% of k <= 2 that the paper reports. There Gemini judged k, and found 0 and more than 3 too."""

_ALL_KS: Final = 0
"""Stands for every k where one number is wanted of all together."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the questions in the runs a release takes.

    Attributes:
        ks (`tuple[int, ...]`): questions of these k only; empty takes every k.
        without (`tuple[str, ...]`): no question that needs one of these capabilities. An image that so keeps fewer
            than two of its questions is left out, as in the paper.
        k_shares (`Mapping[int, float]`): k -> its share of the training questions, adding up to 1; other ks are left
            out. Empty leaves them as they are.
        questions (`int`, *optional*): exactly so many training questions. The last image may give fewer than it has.
        conversations (`int`, *optional*): exactly so many training images instead, each with all its questions.
        seed (`int`): decides which, where not all are wanted. With the same seed a smaller selection lies in a larger
            one that is equal in all else.

    Validation questions, which the hash of their image sets apart, follow in proportion.

    Raises:
        UsageError: a number is out of range, or two of them say the same thing.
        UnknownCapabilityError: one of `without` is not one of the ten.
    """

    ks: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    k_shares: Mapping[int, float] = field(default_factory=dict)
    questions: int | None = None
    conversations: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        canonicalize(self.without)
        if invalid := [k for k in (*self.ks, *self.k_shares) if not 1 <= k <= MAX_K]:
            raise UsageError(f"got k = {invalid[0]}; k is 1 to {MAX_K}")
        shares = self.k_shares.values()
        if shares and (min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
            raise UsageError(
                f"the shares by k are {_format_shares(self.k_shares)}; give shares above 0 that add up to 1"
            )
        if self.ks and self.k_shares:
            raise UsageError("shares by k say already which ks there are; give them or ks, not both")
        if self.questions is not None and self.conversations is not None:
            raise UsageError("give a number of questions or of conversations, not both")
        if (size := self.size) is not None and size < 1:
            raise UsageError(f"asked for {size} {self.unit}; give 1 or more")

    @property
    def size(self) -> int | None:
        """How many units are wanted, None for as many as there are."""
        return self.questions if self.conversations is None else self.conversations

    @property
    def unit(self) -> str:
        """What is counted: `questions`, or `conversations` where their number is given."""
        return "questions" if self.conversations is None else "conversations"

    def describe(self) -> tuple[str, ...]:
        """Return what was selected, for people, a phrase each."""
        phrases = []
        if self.ks:
            phrases.append(f"questions of k = {', '.join(map(str, sorted(self.ks)))} only")
        if self.without:
            phrases.append(f"none that needs {' or '.join(get_label(name) for name in canonicalize(self.without))}")
        if self.k_shares:
            phrases.append(f"shares by k forced to {_format_shares(self.k_shares)}")
        if self.size is not None:
            phrases.append(f"{self.size:,} {self.unit} for training, drawn with seed {self.seed}")
        return tuple(phrases)

    def choose(self, rows: Iterable[Row | Reject]) -> Callable[[Iterable[Row | Reject]], Iterator[Row | Reject]]:
        """See `RowSelection.choose`."""
        return partial(apply_selection, positions_by_image=select_questions(group_questions(rows), self))


def select_questions(images: Mapping[str, Sequence[Combination]], selection: Selection) -> Choice:
    """Choose which questions of which images to take.

    Images come in the order of a hash of their id and the seed, and give their questions until the number is reached.

    Args:
        images (`Mapping[str, Sequence[Combination]]`): image id -> the combination of each of its questions; those of
            an image have one k. The order of the images does not matter.

    Returns:
        Image id -> positions of the questions to take, ascending, for the images that are taken.

    Raises:
        ReleaseError: there are fewer than are wanted.
    """
    catalog = make_catalog(images)
    eligible = _find_eligible(catalog, selection)
    if selection.size is None and not selection.k_shares:
        return eligible

    def get_group(image: int) -> int:
        return (catalog.get_k(image) or _ALL_KS) if selection.k_shares else _ALL_KS

    def count_units(questions: Sequence[int]) -> int:
        return len(questions) if selection.conversations is None else 1

    available: Counter[int] = Counter()
    for image in eligible.get_images():
        if not is_validation_image(catalog.get_id(image)):
            available[get_group(image)] += count_units(list(eligible.get_taken(image)))
    remaining = _allocate(available, selection)
    result = Choice(catalog)
    for image in _shuffle(catalog, eligible, selection.seed):
        if not remaining[group := get_group(image)]:
            continue
        questions = list(eligible.get_taken(image))
        if not is_validation_image(catalog.get_id(image)):
            if selection.conversations is None:
                questions = questions[: remaining[group]]
            remaining[group] -= count_units(questions)
        result.take(image, questions)
    return result


def _shuffle(catalog: QuestionCatalog, eligible: Choice, seed: int) -> Iterator[int]:
    """Yield the images that are eligible in the order of a hash of their id and the seed."""
    import numpy as np

    images = np.fromiter(eligible.get_images(), np.uint32)
    digests = (digest("selection", seed, catalog.get_id(image)) for image in eligible.get_images())
    halves = np.fromiter(
        ((int(text[:16], 16), int(text[16:], 16)) for text in digests), np.dtype((np.uint64, 2)), len(images)
    )
    return map(int, images[np.lexsort((halves[:, 1], halves[:, 0]))])


def apply_selection(
    rows: Iterable[Row | Reject], positions_by_image: Mapping[str, Positions]
) -> Iterator[Row | Reject]:
    """Yield the rows with the turns that `positions_by_image` names, and a reject for each other question."""
    for row in rows:
        if not isinstance(row, QuestionRow):
            yield row
            continue
        positions = positions_by_image.get(str(row.image_id), ())
        for index, turn in enumerate(row.turns):
            if index not in positions:
                yield Reject("assembly", SelectionReason.NOT_SELECTED, turn.question, "", turn.capabilities)
        if positions:
            yield with_turns(row, [row.turns[index] for index in positions])


def group_questions(rows: Iterable[Row | Reject]) -> QuestionCatalog:
    """Return image id -> the combination of each of its questions."""
    catalog = QuestionCatalog()
    for row in rows:
        if isinstance(row, QuestionRow):
            catalog.append(str(row.image_id), (turn.capabilities for turn in row.turns))
    return catalog.sort()


def count_by_k(
    images: Mapping[str, Sequence[Combination]], positions_by_image: Mapping[str, Positions]
) -> Counter[int]:
    """Return k -> the number of training questions among those that are taken."""
    train_ids = (image_id for image_id in positions_by_image if not is_validation_image(image_id))
    return Counter(
        chain.from_iterable([len(images[image_id][0])] * len(positions_by_image[image_id]) for image_id in train_ids)
    )


def _find_eligible(catalog: QuestionCatalog, selection: Selection) -> Choice:
    """Return the questions that are of the ks that are wanted and need nothing that is not."""
    ks, without = {*selection.ks, *selection.k_shares}, set(selection.without)
    is_allowed = [without.isdisjoint(combination) for combination in catalog.combinations]
    eligible = Choice(catalog)
    for image in range(len(catalog)):
        if ks and catalog.get_k(image) not in ks:
            continue
        questions = catalog.get_questions(image)
        allowed = [question for question in questions if is_allowed[catalog.combination_numbers[question]]]
        if len(allowed) >= min(MIN_TURNS, len(questions)):
            eligible.take(image, allowed)
    return eligible


def _allocate(available: Mapping[int, int], selection: Selection) -> dict[int, int]:
    """Return how many units of each k to take; of all together where shares do not matter.

    By Webster's method, which makes shares whole numbers so that none gets fewer when there are more in all.
    """
    shares = dict(selection.k_shares) or {_ALL_KS: 1.0}
    counts = dict.fromkeys(shares, 0)
    while selection.size is None or sum(counts.values()) < selection.size:
        k = max(shares, key=lambda k: shares[k] / (2 * counts[k] + 1))
        if selection.size is None and counts[k] == available.get(k, 0):
            break
        counts[k] += 1
    shortfall = {k: count - available.get(k, 0) for k, count in counts.items() if count > available.get(k, 0)}
    if shortfall:
        message = ", ".join(
            f"{counts[k]:,}{f' of k = {k}' if k else ''} are wanted and {available.get(k, 0):,} are there: "
            f"{missing:,} too few"
            for k, missing in shortfall.items()
        )
        raise ReleaseError(
            f"the runs hold too few {selection.unit} for training ({message}); generate more pictures, or select fewer"
        )
    return counts


def _format_shares(shares: Mapping[int, float]) -> str:
    return ", ".join(f"{share:.0%} k = {k}" for k, share in sorted(shares.items()))
