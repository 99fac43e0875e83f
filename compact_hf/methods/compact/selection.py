"""Selects a part of the questions in runs, by k, by capability, by shares of k or by number.

This way one run gives many datasets without new requests to a teacher: with other values of k, without a capability,
with given shares of k, or smaller ones. The result depends only on the selection and on the questions.
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
"""Shares of k = 1, 2, 3 in LLaVA-665K's questions, for ablations with its distribution.

They are the only shares of these three values with the mean of 1.95 and the 77% of k <= 2 that the paper reports. In
the paper Gemini judged k, and also found k = 0 and k > 3.
"""

_ALL_KS: Final = 0
"""Key for all ks together, when their shares do not matter."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the questions in the runs a dataset contains.

    Validation questions, which are determined by the hash of their image, are selected in the same proportion.

    Attributes:
        ks (`tuple[int, ...]`): only questions of these k; empty selects every k.
        without (`tuple[str, ...]`): no questions that need one of these capabilities. An image that keeps fewer than
            two of its questions is left out, as in the paper.
        k_shares (`Mapping[int, float]`): k -> its share of the training questions; the shares add up to 1, and other ks
            are left out. Empty keeps the shares as they are.
        questions (`int`, *optional*): exact number of training questions. The last image may lose some of its
            questions.
        conversations (`int`, *optional*): exact number of training images instead, each with all its questions.
        seed (`int`): random seed for choosing images if not all are needed. With the same seed, a smaller selection is
            contained in a larger one that is otherwise equal.

    Raises:
        UsageError: a number is out of range, or two options contradict each other.
        UnknownCapabilityError: one of `without` is not one of the ten capabilities.
    """

    ks: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    k_shares: Mapping[int, float] = field(default_factory=dict)
    questions: int | None = None
    conversations: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        # Called for its check: it raises if a name is unknown.
        canonicalize(self.without)
        if invalid := [k for k in (*self.ks, *self.k_shares) if not 1 <= k <= MAX_K]:
            raise UsageError(f"k = {invalid[0]} is out of range: k is 1 to {MAX_K}")
        shares = self.k_shares.values()
        # The tolerance is for decimal fractions, whose sum is rarely exactly 1.
        if shares and (min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
            raise UsageError(
                f"invalid shares by k ({_format_shares(self.k_shares)}): give shares above 0 that add up to 1"
            )
        if self.ks and self.k_shares:
            raise UsageError(
                "both ks and shares by k are given (the shares determine the ks): give one of them, not both"
            )
        if self.questions is not None and self.conversations is not None:
            raise UsageError("both a number of questions and of conversations is given: give one of them, not both")
        if (size := self.size) is not None and size < 1:
            raise UsageError(f"{size} {self.unit} requested: give 1 or more")

    @property
    def size(self) -> int | None:
        """The requested number of units, None for all."""
        return self.questions if self.conversations is None else self.conversations

    @property
    def unit(self) -> str:
        """The unit of `size`: `conversations` if their number is given, otherwise `questions`."""
        return "questions" if self.conversations is None else "conversations"

    def describe(self) -> tuple[str, ...]:
        """Return what is selected, in words: one phrase per criterion, for the dataset card."""
        phrases = []
        if self.ks:
            phrases.append(f"questions of k = {', '.join(map(str, sorted(self.ks)))} only")
        if self.without:
            phrases.append(
                f"no questions that need {' or '.join(get_label(name) for name in canonicalize(self.without))}"
            )
        if self.k_shares:
            phrases.append(f"shares by k forced to {_format_shares(self.k_shares)}")
        if self.size is not None:
            phrases.append(f"{self.size:,} {self.unit} for training, drawn with seed {self.seed}")
        return tuple(phrases)

    def choose(self, rows: Iterable[Row | Reject]) -> Callable[[Iterable[Row | Reject]], Iterator[Row | Reject]]:
        """Decide which questions to keep; see `RowSelection.choose`.

        Args:
            rows (`Iterable[Row | Reject]`): all rows of the dataset, and the rejects.
        """
        # First pass here, second pass in the returned function: the rows themselves do not stay in memory.
        return partial(apply_selection, positions_by_image=select_questions(group_questions(rows), self))


def select_questions(images: Mapping[str, Sequence[Combination]], selection: Selection) -> Choice:
    """Choose questions according to a selection.

    Images are taken in the order of a hash of their id and the seed until the requested number is reached.

    Args:
        images (`Mapping[str, Sequence[Combination]]`): image id -> the combination of each of its questions, which all
            have the same k. The order of the images does not matter.
        selection (`Selection`): what to select.

    Returns:
        Image id -> positions of the chosen questions, ascending, for the chosen images.

    Raises:
        ReleaseError: there are fewer questions or images than requested.
    """
    catalog = make_catalog(images)
    eligible = _find_eligible(catalog, selection)
    # No number to reach: everything that is eligible is selected, without shuffling.
    if selection.size is None and not selection.k_shares:
        return eligible

    # With shares each k has a number of its own to reach; without them all images are one group.
    def get_group(image: int) -> int:
        return (catalog.get_k(image) or _ALL_KS) if selection.k_shares else _ALL_KS

    def count_units(questions: Sequence[int]) -> int:
        return len(questions) if selection.conversations is None else 1

    # group -> number of eligible training units. Validation images are taken along, but do not count.
    available: Counter[int] = Counter()
    for image in eligible.get_images():
        if not is_validation_image(catalog.get_id(image)):
            available[get_group(image)] += count_units(list(eligible.get_taken(image)))
    remaining = _allocate(available, selection)
    result = Choice(catalog)
    # Images are taken as long as their group needs units; a group that is full is skipped.
    for image in _shuffle(catalog, eligible, selection.seed):
        if not remaining[group := get_group(image)]:
            continue
        questions = list(eligible.get_taken(image))
        if not is_validation_image(catalog.get_id(image)):
            # The last image of a group may have more questions than are still needed.
            if selection.conversations is None:
                questions = questions[: remaining[group]]
            remaining[group] -= count_units(questions)
        result.take(image, questions)
    return result


def _shuffle(catalog: QuestionCatalog, eligible: Choice, seed: int) -> Iterator[int]:
    """Yield the numbers of the eligible images in the order of a hash of their id and the seed."""
    import numpy as np

    # Arrays of (images,) and (images, 2): millions of images are sorted without a list of strings.
    images = np.fromiter(eligible.get_images(), np.uint32)
    digests = (digest("selection", seed, catalog.get_id(image)) for image in eligible.get_images())
    # Sort by 128-bit digests in two halves; `lexsort` takes its last key as the primary one.
    halves = np.fromiter(
        ((int(text[:16], 16), int(text[16:], 16)) for text in digests), np.dtype((np.uint64, 2)), len(images)
    )
    return map(int, images[np.lexsort((halves[:, 1], halves[:, 0]))])


def apply_selection(
    rows: Iterable[Row | Reject], positions_by_image: Mapping[str, Positions]
) -> Iterator[Row | Reject]:
    """Yield the rows with the chosen turns, and a reject for each turn that was not chosen.

    Args:
        rows (`Iterable[Row | Reject]`): all rows and rejects; those of other methods pass unchanged.
        positions_by_image (`Mapping[str, Positions]`): image id -> positions of the chosen questions.
    """
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
    """Return the combinations of each image's questions, by image id.

    Args:
        rows (`Iterable[Row | Reject]`): rows and rejects; rows of other kinds are ignored.
    """
    catalog = QuestionCatalog()
    for row in rows:
        if isinstance(row, QuestionRow):
            catalog.append(str(row.image_id), (turn.capabilities for turn in row.turns))
    return catalog.sort()


def count_by_k(
    images: Mapping[str, Sequence[Combination]], positions_by_image: Mapping[str, Positions]
) -> Counter[int]:
    """Return k -> number of chosen training questions.

    Args:
        images (`Mapping[str, Sequence[Combination]]`): image id -> the combination of each of its questions.
        positions_by_image (`Mapping[str, Positions]`): image id -> positions of the chosen questions.
    """
    train_ids = (image_id for image_id in positions_by_image if not is_validation_image(image_id))
    return Counter(
        chain.from_iterable([len(images[image_id][0])] * len(positions_by_image[image_id]) for image_id in train_ids)
    )


def _find_eligible(catalog: QuestionCatalog, selection: Selection) -> Choice:
    """Return the questions that have a selected k and need no excluded capability."""
    ks, without = {*selection.ks, *selection.k_shares}, set(selection.without)
    # Indexed by combination number: at most 1,023 comparisons of sets, for any number of questions.
    is_allowed = [without.isdisjoint(combination) for combination in catalog.combinations]
    eligible = Choice(catalog)
    for image in range(len(catalog)):
        if ks and catalog.get_k(image) not in ks:
            continue
        questions = catalog.get_questions(image)
        allowed = [question for question in questions if is_allowed[catalog.combination_numbers[question]]]
        # A conversation that had a single question from the beginning (of augment) may keep it.
        if len(allowed) >= min(MIN_TURNS, len(questions)):
            eligible.take(image, allowed)
    return eligible


def _allocate(available: Mapping[int, int], selection: Selection) -> dict[int, int]:
    """Return the number of units to take of each k, or of all ks together if there are no shares.

    Shares become integers by Webster's method, with which no k gets fewer units if the total grows.
    """
    shares = dict(selection.k_shares) or {_ALL_KS: 1.0}
    # Each step gives one unit to the k with the largest share / (2 * count + 1). Without a size it ends when a k has no
    # unit left.
    counts = dict.fromkeys(shares, 0)
    while selection.size is None or sum(counts.values()) < selection.size:
        k = max(shares, key=lambda k: shares[k] / (2 * counts[k] + 1))
        if selection.size is None and counts[k] == available.get(k, 0):
            break
        counts[k] += 1
    # Checked at the end, so that the error names all ks that have too few units.
    shortfall = {k: count - available.get(k, 0) for k, count in counts.items() if count > available.get(k, 0)}
    if shortfall:
        message = ", ".join(
            f"{counts[k]:,}{f' of k = {k}' if k else ''} requested, {available.get(k, 0):,} available, "
            f"{missing:,} missing"
            for k, missing in shortfall.items()
        )
        raise ReleaseError(
            f"the runs have too few {selection.unit} for training ({message}): process more images, or select fewer"
        )
    return counts


def _format_shares(shares: Mapping[int, float]) -> str:
    return ", ".join(f"{share:.0%} k = {k}" for k, share in sorted(shares.items()))
