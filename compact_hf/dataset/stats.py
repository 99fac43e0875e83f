"""Count the rows of a dataset as they pass by, when they are written or checked, and what they came from.

Everything is measured, nothing is taken from a claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final, TypeVar

from compact_hf.dataset.provenance import Provenance
from compact_hf.dataset.row_kinds import get_row_kind
from compact_hf.dataset.schema import configs_from_subsets
from compact_hf.methods.row_kind import Record, RowStatistics
from compact_hf.records import Reject
from compact_hf.reports.table import NotebookSummary, Table

S = TypeVar("S", bound=RowStatistics)


@dataclass(slots=True)
class RowCounter:
    """Counts rows and rejects as they pass: kinds, not rows.

    Attributes:
        sources (`Counter[str]`): method, or `instruction` -> rows.
        images (`Counter[tuple[str, str]]`): (image source, licence) -> rows with an image from there.
        rejects (`Counter[tuple[str, str]]`): (stage, reason) -> how many were dropped.
        teachers, verifiers, presets (`set[str]`): those that the rows name.
        statistics (`dict[type[RowStatistics], RowStatistics]`): class -> what it has counted in rows of its kinds.
    """

    sources: Counter[str] = field(default_factory=Counter)
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    presets: set[str] = field(default_factory=set)
    statistics: dict[type[RowStatistics], RowStatistics] = field(default_factory=dict)

    def add_reject(self, reject: Reject) -> None:
        self.rejects[reject.stage, reject.reason] += 1

    def add(self, record: Record) -> None:
        """Count a row as Parquet holds it; one without defects (row_checks.py). Its images are not looked at."""
        self.sources[record["source"]] += 1
        if record["image_id"] is not None:
            self.images[record["image_source"] or "unknown", record["image_license"] or "unknown"] += 1
        for names, column in (
            (self.teachers, "teacher"),
            (self.verifiers, "verifier"),
            (self.presets, "preset_version"),
        ):
            if record[column]:
                names.add(record[column])
        if (kind := get_row_kind(record["source"])) is not None:
            self.get_statistics(kind.statistics).add(record)

    def get_statistics(self, type_: type[S]) -> S:
        """Return what objects of a class have counted; nothing so far where there are no such rows."""
        statistics = self.statistics.setdefault(type_, type_())
        assert isinstance(statistics, type_)
        return statistics

    def merge(self, other: RowCounter) -> None:
        """Add what another one has counted."""
        self.sources += other.sources
        self.images += other.images
        self.rejects += other.rejects
        self.teachers |= other.teachers
        self.verifiers |= other.verifiers
        self.presets |= other.presets
        for type_, statistics in other.statistics.items():
            self.get_statistics(type_).merge(statistics)


_LIBRARIES: Final = ("compact_hf", "datasets", "matplotlib", "pillow", "pyarrow")


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
class DatasetStats(NotebookSummary):
    """Everything the card says about a release.

    Attributes:
        version (`str`): X.Y.Z.
        sizes (`dict[tuple[str, str], SplitSize]`): (subset, split) -> its files.
        row_counter (`RowCounter`): what was counted in the rows, and among what was dropped.
        sources (`tuple[str, ...]`): the methods whose columns the files have.
        license (`str`, *optional*): of the release as a whole, where its maker has said one.
        provenance (`Provenance`, *optional*): how it came about, where there are journals that say so.
    """

    version: str
    sizes: dict[tuple[str, str], SplitSize]
    row_counter: RowCounter
    sources: tuple[str, ...]
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
    def libraries(self) -> dict[str, str]:
        """Name -> version of what writes the files."""
        return {name: metadata.version(name) for name in _LIBRARIES}

    @property
    def statistics(self) -> list[RowStatistics]:
        """What there is to say of rows of each kind, in the order of the classes' names."""
        counted = self.row_counter.statistics
        return [counted[type_] for type_ in sorted(counted, key=lambda type_: type_.__qualname__)]

    def get_statistics(self, type_: type[S]) -> S:
        """Return what objects of a class have counted, such as `QuestionStatistics` for rows with k."""
        return self.row_counter.get_statistics(type_)
