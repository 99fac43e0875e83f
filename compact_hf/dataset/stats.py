"""Counts the rows of a release while they are written or validated.

All numbers are counted from the rows themselves.
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
from compact_hf.records import Loss, Reject, RowReject
from compact_hf.reports.table import NotebookSummary, Table

S = TypeVar("S", bound=RowStatistics)


@dataclass(slots=True)
class RowCounter:
    """Counts rows and rejects as they stream by; its memory use does not depend on the number of rows.

    Attributes:
        sources (`Counter[str]`): number of rows by method (or `instruction`).
        images (`Counter[tuple[str, str]]`): number of rows with an image, by (image source, license).
        rejects (`Counter[tuple[str, str]]`): number of rejects by (stage, reason).
        losses (`dict[tuple[str, str], Loss]`): rows that were dropped as a whole and their questions, by (stage,
            reason).
        teachers (`set[str]`): the teachers that rows name.
        verifiers (`set[str]`): the verifiers that rows name.
        presets (`set[str]`): the preset versions that rows name.
        statistics (`dict[type[RowStatistics], RowStatistics]`): statistics of the rows of each kind, by their class.
    """

    sources: Counter[str] = field(default_factory=Counter)
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    losses: dict[tuple[str, str], Loss] = field(default_factory=dict)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    presets: set[str] = field(default_factory=set)
    statistics: dict[type[RowStatistics], RowStatistics] = field(default_factory=dict)

    def add_reject(self, reject: Reject) -> None:
        key = reject.stage, reject.reason
        self.rejects[key] += 1
        if isinstance(reject, RowReject):
            self.losses[key] = self.losses.get(key, Loss()) + Loss(reject.rows, reject.questions)

    def add(self, record: Record) -> None:
        """Count a row; its images are not read.

        Args:
            record (`Record`): a row in the form of the Parquet files, without defects (row_checks.py).
        """
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
        # Kinds may share a class of statistics; the card then describes them together.
        if (kind := get_row_kind(record["source"])) is not None:
            self.get_statistics(kind.statistics).add(record)

    def get_statistics(self, type_: type[S]) -> S:
        """Return the statistics of a class, empty if no rows were counted for it.

        Args:
            type_ (`type[S]`): class of the statistics.
        """
        statistics = self.statistics.setdefault(type_, type_())
        assert isinstance(statistics, type_)
        return statistics

    def merge(self, other: RowCounter) -> None:
        """Add the counts of another counter.

        Args:
            other (`RowCounter`): the other counter, which is not changed.
        """
        self.sources += other.sources
        self.images += other.images
        self.rejects += other.rejects
        for key, loss in other.losses.items():
            self.losses[key] = self.losses.get(key, Loss()) + loss
        self.teachers |= other.teachers
        self.verifiers |= other.verifiers
        self.presets |= other.presets
        for type_, statistics in other.statistics.items():
            self.get_statistics(type_).merge(statistics)


# The card names their versions: the bytes of files and figures depend on them.
_LIBRARIES: Final = ("compact_hf", "datasets", "matplotlib", "pillow", "pyarrow")


@dataclass(frozen=True, slots=True)
class SplitSize:
    """The files of one split of one subset.

    Attributes:
        rows (`int`): number of rows in all files together.
        files (`int`): number of files.
        nbytes (`int`): size as an Arrow table in bytes.
        file_bytes (`int`): size of the files in bytes.
    """

    rows: int
    files: int
    nbytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class DatasetStats(NotebookSummary):
    """The statistics of a release, from which its card is written.

    Attributes:
        version (`str`): version of the release, X.Y.Z.
        sizes (`dict[tuple[str, str], SplitSize]`): sizes of the files by (subset, split).
        row_counter (`RowCounter`): counts of the rows and rejects.
        sources (`tuple[str, ...]`): the methods whose columns the files have.
        license (`str`, *optional*): license of the release as a whole, if one was given.
        provenance (`Provenance`, *optional*): how the rows were made, if the journals of the runs are available.
    """

    version: str
    sizes: dict[tuple[str, str], SplitSize]
    row_counter: RowCounter
    sources: tuple[str, ...]
    license: str | None = None
    provenance: Provenance | None = None

    @property
    def configs(self) -> dict[str, tuple[str, ...]]:
        """The subsets of each config."""
        return configs_from_subsets(subset for subset, _ in self.sizes)

    def summary(self) -> Iterator[str | Table]:
        """Yield a table of the rows of each config, and a table of the rejects with the whole rows that they drop."""
        yield Table(
            ("config", "train", "validation"),
            [
                (name, self.rows(*subsets, split="train"), self.rows(*subsets, split="validation"))
                for name, subsets in self.configs.items()
            ],
        )
        losses = self.row_counter.losses
        head = ("dropped at", "reason", "count", *(("rows", "questions") if losses else ()))
        rows: list[tuple[object, ...]] = [(*key, count) for key, count in sorted(self.rejects.items())]
        if losses:
            ordered = [losses.get(key, Loss()) for key in sorted(self.rejects)]
            rows = [(*row, loss.rows, loss.questions) for row, loss in zip(rows, ordered, strict=True)]
        yield Table(head, rows)

    def rows(self, *subsets: str, split: str | None = None) -> int:
        """Return the number of rows in the given subsets (default: all) and the given split (default: both)."""
        return sum(
            size.rows
            for (subset, split_name), size in self.sizes.items()
            if (not subsets or subset in subsets) and split in (None, split_name)
        )

    def configs_without(self, split: str) -> list[str]:
        """Return the names of the configs that have no rows in a split, and therefore no such split."""
        return [name for name, subsets in self.configs.items() if not self.rows(*subsets, split=split)]

    def file_bytes(self, *subsets: str) -> int:
        """Return the size in bytes of the files of the given subsets (default: all)."""
        return sum(size.file_bytes for (subset, _), size in self.sizes.items() if not subsets or subset in subsets)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The models that wrote the rows, sorted."""
        return tuple(sorted(self.row_counter.teachers))

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The models that verified the rows, sorted."""
        return tuple(sorted(self.row_counter.verifiers))

    @property
    def presets(self) -> tuple[str, ...]:
        """The preset versions with which the rows were made, sorted."""
        return tuple(sorted(self.row_counter.presets))

    @property
    def images(self) -> Counter[tuple[str, str]]:
        """Number of rows with an image, by (image source, license)."""
        return self.row_counter.images

    @property
    def licenses(self) -> Counter[str]:
        """Number of rows with an image, by license."""
        counts: Counter[str] = Counter()
        for (_, license), count in self.row_counter.images.items():
            counts[license] += count
        return counts

    @property
    def rejects(self) -> Counter[tuple[str, str]]:
        """Number of rejects, by (stage, reason)."""
        return self.row_counter.rejects

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that write the files, by name."""
        return {name: metadata.version(name) for name in _LIBRARIES}

    @property
    def statistics(self) -> list[RowStatistics]:
        """The statistics of the rows of each kind, in the order of the names of their classes."""
        # By name, not in the order of the rows, so that the parts of the card keep their order between versions.
        counted = self.row_counter.statistics
        return [counted[type_] for type_ in sorted(counted, key=lambda type_: type_.__qualname__)]

    def get_statistics(self, type_: type[S]) -> S:
        """Return the statistics of a class.

        Args:
            type_ (`type[S]`): class of the statistics, such as `QuestionStatistics` for rows with k.
        """
        return self.row_counter.get_statistics(type_)
