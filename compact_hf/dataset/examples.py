"""Samples to look at: which images are wanted, and a choice among them by hash, so that it is the same every time.

In: images as they stream by, without their bytes. Out: a few of them, as evenly over k as there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import UnknownCapabilityError, UsageError
from compact_hf.records import Reject, Turn, digest
from compact_hf.reports.contact_sheet import SheetItem, pick
from compact_hf.reports.theme import get_label

MAX_SAMPLES: Final = 120
"""Images on a sheet, at most: more are no longer looked at, and a PNG would be too tall to open."""
_MAX_DRAFTS: Final = 4


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which images are wanted, and how many.

    Attributes:
        k (`int`, *optional*): only those of this k.
        capability (`str`, *optional*): only questions that are to need it.
        count (`int`): how many images at most.
        seed (`int`): decides which.

    Raises:
        UsageError: no such k, capability or count.
    """

    k: int | None = None
    capability: str | None = None
    count: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SAMPLES:
            raise UsageError(f"got n = {self.count}; give 1 to {MAX_SAMPLES} pictures")
        if self.k is not None and not 1 <= self.k <= len(CAPABILITIES):
            raise UsageError(f"got k = {self.k}; a question needs 1 to {len(CAPABILITIES)} capabilities")
        if self.capability is not None and self.capability not in CAPABILITIES:
            raise UnknownCapabilityError(self.capability, tuple(CAPABILITIES))

    def select_turns(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """Return the questions that are wanted."""
        return tuple(turn for turn in turns if self.capability in (None, *turn.capabilities))

    def select_drafts(self, rejects: Sequence[Reject]) -> tuple[Reject, ...]:
        """Return the dropped drafts that are wanted, a few of them: the first of each reason before its second."""
        drafts = [reject for reject in rejects if _is_draft(reject) and self.capability in (None, *reject.capabilities)]
        repeat_counts = [
            sum(earlier.reason == reject.reason for earlier in drafts[:index]) for index, reject in enumerate(drafts)
        ]
        return tuple(drafts[index] for index in sorted(range(len(drafts)), key=repeat_counts.__getitem__)[:_MAX_DRAFTS])

    def rank(self, *parts: object) -> int:
        """Return a number by which the same things always come in the same, shuffled order."""
        return int(digest("sample", self.seed, *parts), 16)

    def describe(self) -> str:
        """Return in words what is wanted of questions, such as `of k = 3 that are to need counting`."""
        parts = [f"of k = {self.k}"] if self.k is not None else []
        parts += [f"that are to need {get_label(self.capability)}"] if self.capability is not None else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that may be shown.

    Attributes:
        k, turns, caption, rejects: as for `SheetItem`.
        teacher, verifier (`str`): who wrote and who checked it.
        read_image (`Callable[[], bytes]`): reads the image's file.
    """

    k: int
    turns: tuple[Turn, ...]
    caption: str
    teacher: str
    verifier: str
    read_image: Callable[[], bytes] = field(repr=False)
    rejects: tuple[Reject, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleSet:
    """What was chosen: the images, ordered by k, and who wrote and who checked the questions, sorted."""

    items: tuple[SheetItem, ...]
    teachers: tuple[str, ...]
    verifiers: tuple[str, ...]


@dataclass(slots=True)
class Reservoir:
    """Keeps of each k the samples with the lowest ranks; memory holds `query.count` of each k."""

    query: SampleQuery
    _by_k: dict[int, list[tuple[int, int, Sample]]] = field(default_factory=dict)
    _added: int = 0

    def add(self, rank: int, sample: Sample) -> None:
        self._added += 1
        heap = self._by_k.setdefault(sample.k, [])
        entry = -rank, self._added, sample
        if len(heap) < self.query.count:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def is_full(self, k: int) -> bool:
        """Whether no more of this k can be shown than there are already."""
        return len(self._by_k.get(k, ())) >= self.query.count

    def read_samples(self) -> SampleSet:
        """Read the images that were chosen, as evenly over k as there are."""
        candidates = (sample for heap in self._by_k.values() for _, _, sample in sorted(heap, key=_entry_rank))
        samples = pick(candidates, self.query.count)
        return SampleSet(
            tuple(SheetItem(item.read_image(), item.k, item.turns, item.caption, item.rejects) for item in samples),
            tuple(sorted({item.teacher for item in samples})),
            tuple(sorted({item.verifier for item in samples})),
        )


def has_draft(rejects: Sequence[Reject]) -> bool:
    """Whether a draft is among what was dropped, not only images and refusals to write one."""
    return any(map(_is_draft, rejects))


def _is_draft(reject: Reject) -> bool:
    """A teacher that declined wrote none, and what is dropped at other stages is an image or somebody's question."""
    return reject.stage in ("generation", "verification") and bool(reject.subject)


def _entry_rank(entry: tuple[int, int, Sample]) -> int:
    return -entry[0]
