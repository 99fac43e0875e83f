"""Count the rows of a dataset as they pass by, when they are written or checked, and what they came from.

Everything is measured, nothing is taken from a claim.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import combinations
from typing import Any, Final

from compact_hf.answers import normalise
from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.dataset.provenance import Provenance
from compact_hf.dataset.schema import configs_from_subsets
from compact_hf.records import Reject, Row
from compact_hf.reports.table import NotebookSummary, Table

_WORD: Final = re.compile(r"\w+")


@dataclass(slots=True)
class RowCounter:
    """Counts rows and rejects as they pass: kinds, not rows, so what grows are the different answers (short texts).

    Attributes:
        combinations (`Counter[tuple[str, ...]]`): capabilities in their order -> questions that need them.
        answers (`Counter[tuple[int, str]]`): (k, normalised answer) -> questions.
        openings (`Counter[str]`): first word, in small letters -> questions.
        ascii_count (`int`): questions that are written, with their answers, in ASCII alone.
        images (`Counter[tuple[str, str]]`): (image source, licence) -> rows with an image from there.
        rejects (`Counter[tuple[str, str]]`): (stage, reason) -> how many were dropped.
        teachers, verifiers, presets (`set[str]`): those that the rows name.
    """

    combinations: Counter[tuple[str, ...]] = field(default_factory=Counter)
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    openings: Counter[str] = field(default_factory=Counter)
    ascii_count: int = 0
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    presets: set[str] = field(default_factory=set)

    def add_reject(self, reject: Reject) -> None:
        self.rejects[reject.stage, reject.reason] += 1

    def add_row(self, row: Row) -> None:
        for turn in row.turns:
            self._add_turn(turn.capabilities, turn.question, turn.answer)
        if row.image_id is not None:
            self.images[row.image_source or "unknown", row.image_license or "unknown"] += 1
        self._add_provenance(row.teacher, row.verifier, row.preset_version)

    def add_record(self, record: Mapping[str, Any]) -> None:
        """Count a row as Parquet holds it; one without defects (row_checks.py)."""
        for turn in record["turns"]:
            self._add_turn(turn["capabilities"], turn["question"], turn["answer"])
        if record["image_id"] is not None:
            self.images[record["image_source"], record["image_license"]] += 1
        self._add_provenance(record["teacher"], record["verifier"], record["preset_version"])

    def merge(self, other: RowCounter) -> None:
        """Add what another one has counted."""
        self.combinations += other.combinations
        self.answers += other.answers
        self.openings += other.openings
        self.ascii_count += other.ascii_count
        self.images += other.images
        self.rejects += other.rejects
        self.teachers |= other.teachers
        self.verifiers |= other.verifiers
        self.presets |= other.presets

    def _add_turn(self, capabilities: Iterable[str], question: str, answer: str) -> None:
        combination = canonicalize(capabilities)
        self.combinations[combination] += 1
        self.answers[len(combination), normalise(answer)] += 1
        if word := _WORD.search(question):
            self.openings[word[0].lower()] += 1
        self.ascii_count += question.isascii() and answer.isascii()

    def _add_provenance(self, teacher: str | None, verifier: str | None, preset: str | None) -> None:
        self.teachers.update(filter(None, [teacher]))
        self.verifiers.update(filter(None, [verifier]))
        self.presets.update(filter(None, [preset]))


_LIBRARIES: Final = ("compact_hf", "datasets", "matplotlib", "pillow", "pyarrow")
_YES_NO: Final = ("yes", "no")
_TOP_ANSWERS: Final = 10
_TOP_OPENINGS: Final = 5


@dataclass(frozen=True, slots=True)
class SplitSize:
    """The files of one split of one subset.

    Attributes:
        rows (`int`): rows in all files together.
        files (`int`): number of files.
        nbytes (`int`): bytes as an Arrow table.
        file_bytes (`int`): bytes on the disk.
    """

    rows: int
    files: int
    nbytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class AnswerStats:
    """How varied answers are, all of which were normalised as they are compared (answers.py).

    Attributes:
        questions (`int`): how many answers there are.
        different (`int`): how many different ones.
        yes_no (`float`): the share, 0 to 1, that is yes or no.
        most (`str`): the most frequent answer, by the alphabet where several are.
        most_share, ten_share (`float`): its share, 0 to 1, and that of the ten most frequent ones together.
    """

    questions: int
    different: int
    yes_no: float
    most: str
    most_share: float
    ten_share: float


@dataclass(frozen=True, slots=True)
class DatasetStats(NotebookSummary):
    """Everything the card says about a release.

    Attributes:
        version (`str`): X.Y.Z.
        sizes (`dict[tuple[str, str], SplitSize]`): (subset, split) -> its files.
        row_counter (`RowCounter`): what was counted in the rows, and among what was dropped.
        license (`str`, *optional*): of the release as a whole, where its maker has said one.
        provenance (`Provenance`, *optional*): how it came about, where there are journals that say so.
    """

    version: str
    sizes: dict[tuple[str, str], SplitSize]
    row_counter: RowCounter
    license: str | None = None
    provenance: Provenance | None = None

    @property
    def configs(self) -> dict[str, tuple[str, ...]]:
        """Config -> its subsets."""
        return configs_from_subsets(subset for subset, _ in self.sizes)

    def summary(self) -> Iterator[str | Table]:
        """Yield the rows of each config, and what was dropped."""
        yield Table(
            ("config", "train", "validation"),
            [
                (name, self.rows(*subsets, split="train"), self.rows(*subsets, split="validation"))
                for name, subsets in self.configs.items()
            ],
        )
        yield Table(("dropped at", "reason", "count"), [(*key, count) for key, count in sorted(self.rejects.items())])

    def rows(self, *subsets: str, split: str | None = None) -> int:
        """Return the number of rows of these subsets (all without any), in one split or in both."""
        return sum(
            size.rows
            for (subset, split_name), size in self.sizes.items()
            if (not subsets or subset in subsets) and split in (None, split_name)
        )

    def file_bytes(self, *subsets: str) -> int:
        """Return the bytes on the disk of these subsets (all without any)."""
        return sum(size.file_bytes for (subset, _), size in self.sizes.items() if not subsets or subset in subsets)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Models that wrote the rows' questions, sorted."""
        return tuple(sorted(self.row_counter.teachers))

    @property
    def verifiers(self) -> tuple[str, ...]:
        """Models that checked them, sorted."""
        return tuple(sorted(self.row_counter.verifiers))

    @property
    def presets(self) -> tuple[str, ...]:
        """Settings with which the rows were made, sorted."""
        return tuple(sorted(self.row_counter.presets))

    @property
    def is_strict(self) -> bool:
        """Whether all rows went through the strict checks: answers confirmed, and not to be guessed blindly."""
        return all(preset.endswith("+strict") for preset in self.presets)

    @property
    def images(self) -> Counter[tuple[str, str]]:
        """(image source, licence) -> rows with an image from there."""
        return self.row_counter.images

    @property
    def licenses(self) -> Counter[str]:
        """Licence -> rows with an image under it."""
        counts: Counter[str] = Counter()
        for (_, license), count in self.row_counter.images.items():
            counts[license] += count
        return counts

    @property
    def rejects(self) -> Counter[tuple[str, str]]:
        """(stage, reason) -> how many were dropped."""
        return self.row_counter.rejects

    @property
    def questions_by_k(self) -> Counter[int]:
        """K -> number of questions."""
        counts: Counter[int] = Counter()
        for combination, count in self.row_counter.combinations.items():
            counts[len(combination)] += count
        return counts

    @property
    def capabilities(self) -> Counter[tuple[int, str]]:
        """(k, capability) -> number of questions that need it."""
        counts: Counter[tuple[int, str]] = Counter()
        for combination, count in self.row_counter.combinations.items():
            for name in combination:
                counts[len(combination), name] += count
        return counts

    @property
    def questions_by_capability(self) -> dict[str, int]:
        """Capability -> number of questions that need it, the most frequent first; all ten are there."""
        counts = {name: sum(self.capabilities[k, name] for k in self.questions_by_k) for name in CAPABILITIES}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def missing_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of capabilities that no question needs together."""
        present = {pair for combination in self.row_counter.combinations for pair in combinations(combination, 2)}
        return tuple(pair for pair in combinations(CAPABILITIES, 2) if pair not in present)

    @property
    def openings(self) -> tuple[tuple[str, float], ...]:
        """The most frequent first words of questions, each with its share, 0 to 1."""
        total = self.row_counter.openings.total()
        return tuple((word, count / total) for word, count in _rank_counts(self.row_counter.openings)[:_TOP_OPENINGS])

    @property
    def libraries(self) -> dict[str, str]:
        """Name -> version of what writes the files."""
        return {name: metadata.version(name) for name in _LIBRARIES}

    def answer_stats(self, k: int | None = None) -> AnswerStats:
        """Return how varied the answers to the questions of one k are, or to all; there must be some."""
        counts: Counter[str] = Counter()
        for (answer_k, answer), count in self.row_counter.answers.items():
            if k in (None, answer_k):
                counts[answer] += count
        return compute_answer_stats(counts)


def compute_answer_stats(counts: Counter[str]) -> AnswerStats:
    """Return how varied answers are.

    Args:
        counts: normalised answer -> how many questions have it; there must be some.
    """
    total, ranked = counts.total(), _rank_counts(counts)
    return AnswerStats(
        questions=total,
        different=len(counts),
        yes_no=sum(counts[answer] for answer in _YES_NO) / total,
        most=ranked[0][0],
        most_share=ranked[0][1] / total,
        ten_share=sum(count for _, count in ranked[:_TOP_ANSWERS]) / total,
    )


def _rank_counts(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return the counts, the highest first; what occurs as often by the alphabet, whatever was counted first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
