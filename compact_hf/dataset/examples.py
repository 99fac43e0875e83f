"""Selects sample images to look at, by hash, so that the selection is the same every time.

It takes a stream of images, without their bytes, and keeps a few of them, spread as evenly as possible over the
sections (k = 1, k = 2, ...).
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
"""Largest number of images on a contact sheet: with more, the PNG would be too tall to open."""


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which images to select, and how many.

    Attributes:
        filters (`Mapping[str, Any]`): conditions that the method understands, such as
            `{"k": 3, "capability": "counting"}`.
        count (`int`): largest number of images, 1 to 120.
        seed (`int`): random seed of the selection.

    Raises:
        UsageError: `count` is out of range.
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    count: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SAMPLES:
            raise UsageError(f"n is {self.count}: it must be 1 to {MAX_SAMPLES} images")

    def rank(self, *parts: object) -> int:
        """Return a pseudorandom sort key; the same seed and parts always give the same key."""
        return int(digest("sample", self.seed, *parts), 16)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be shown.

    Attributes:
        sample (`Sample`): the texts to show with the image.
        read_image (`Callable[[], bytes]`): reads the image file.
    """

    sample: Sample
    read_image: Callable[[], bytes] = field(repr=False)

    @property
    def section(self) -> Section:
        return self.sample.section


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The selected samples.

    Attributes:
        items (`tuple[SheetItem, ...]`): the images, in the order of their sections.
        teachers (`tuple[str, ...]`): sorted names of the teachers that wrote the questions.
        verifiers (`tuple[str, ...]`): sorted names of the verifiers.
    """

    items: tuple[SheetItem, ...]
    teachers: tuple[str, ...]
    verifiers: tuple[str, ...]


@dataclass(slots=True)
class Reservoir:
    """Keeps the candidates with the lowest ranks of each group, at most `query.count` per group.

    Attributes:
        query (`SampleQuery`): the query, whose `count` is the limit.
    """

    query: SampleQuery
    _by_group: dict[Hashable, list[tuple[int, int, Candidate]]] = field(default_factory=dict)
    _added: int = 0

    def add(self, rank: int, candidate: Candidate, group: Hashable) -> None:
        """Add a candidate.

        Args:
            rank (`int`): pseudorandom sort key; the candidates with the lowest ranks are kept.
            candidate (`Candidate`): the image.
            group (`Hashable`): the section or subset of the image; `query.count` candidates are kept for each.
        """
        self._added += 1
        heap = self._by_group.setdefault(group, [])
        entry = -rank, self._added, candidate  # negated: heappushpop then drops the highest rank
        if len(heap) < self.query.count:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def is_full(self, group: Hashable) -> bool:
        """Return whether a group already has `query.count` candidates.

        Args:
            group (`Hashable`): the group, as in `add`.
        """
        return len(self._by_group.get(group, ())) >= self.query.count

    def read_samples(self) -> SampleSet:
        """Select images as evenly over the sections as possible, and read their files."""
        # `pick` takes the first ones of each section, so those with the lowest ranks come first.
        ranked = (candidate for heap in self._by_group.values() for _, _, candidate in sorted(heap, key=_entry_rank))
        chosen = pick(ranked, self.query.count)
        return SampleSet(
            tuple(candidate.sample.make_item(candidate.read_image()) for candidate in chosen),
            tuple(sorted({candidate.sample.teacher for candidate in chosen} - {""})),
            tuple(sorted({candidate.sample.verifier for candidate in chosen} - {""})),
        )


def _entry_rank(entry: tuple[int, int, Candidate]) -> int:
    return -entry[0]
