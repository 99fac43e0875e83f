"""Samples to look at: which images are wanted, and a choice among them by hash, so that it is the same every time.

In: images as they stream by, without their bytes. Out: a few of them, as evenly over the sections (k = 1, k = 2, ...)
as there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compact_hf.errors import UsageError
from compact_hf.methods.row_kind import Sample
from compact_hf.records import digest
from compact_hf.reports.contact_sheet import Section, SheetItem, pick

MAX_SAMPLES: Final = 120
"""Images on a sheet, at most: more are no longer looked at, and a PNG would be too tall to open."""


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which images are wanted, and how many.

    Attributes:
        filters (`Mapping[str, Any]`): what a method is asked for, such as `{"k": 3, "capability": "counting"}`.
        count (`int`): how many images at most.
        seed (`int`): decides which.

    Raises:
        UsageError: no such count.
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    count: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SAMPLES:
            raise UsageError(f"got n = {self.count}; give 1 to {MAX_SAMPLES} pictures")

    def rank(self, *parts: object) -> int:
        """Return a number by which the same things always come in the same, shuffled order."""
        return int(digest("sample", self.seed, *parts), 16)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be shown, and what reads its file."""

    sample: Sample
    read_image: Callable[[], bytes] = field(repr=False)

    @property
    def section(self) -> Section:
        return self.sample.section


@dataclass(frozen=True, slots=True)
class SampleSet:
    """What was chosen: the images, ordered by section, and the teachers and verifiers, sorted."""

    items: tuple[SheetItem, ...]
    teachers: tuple[str, ...]
    verifiers: tuple[str, ...]


@dataclass(slots=True)
class Reservoir:
    """Keeps of each group the candidates with the lowest ranks; memory holds `query.count` of each group."""

    query: SampleQuery
    _by_group: dict[Hashable, list[tuple[int, int, Candidate]]] = field(default_factory=dict)
    _added: int = 0

    def add(self, rank: int, candidate: Candidate, group: Hashable) -> None:
        """Take one into account.

        Args:
            rank (`int`): the lowest ones are kept.
            group (`Hashable`): what of it is enough by itself: a section, or a subset.
        """
        self._added += 1
        heap = self._by_group.setdefault(group, [])
        entry = -rank, self._added, candidate
        if len(heap) < self.query.count:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def is_full(self, group: Hashable) -> bool:
        """Whether no more of this group can be shown than there are already."""
        return len(self._by_group.get(group, ())) >= self.query.count

    def read_samples(self) -> SampleSet:
        """Read the images that were chosen, as evenly over the sections as there are."""
        ranked = (candidate for heap in self._by_group.values() for _, _, candidate in sorted(heap, key=_entry_rank))
        chosen = pick(ranked, self.query.count)
        return SampleSet(
            tuple(candidate.sample.make_item(candidate.read_image()) for candidate in chosen),
            tuple(sorted({candidate.sample.teacher for candidate in chosen} - {""})),
            tuple(sorted({candidate.sample.verifier for candidate in chosen} - {""})),
        )


def _entry_rank(entry: tuple[int, int, Candidate]) -> int:
    return -entry[0]
