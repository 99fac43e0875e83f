"""What is known of a release once its rows have passed by: counts, origins, versions. Measured, never claimed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

from compact_hf.records import Reject, Row
from compact_hf.release.layout import configs

_LIBRARIES: Final = ("datasets", "pillow", "pyarrow")


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one split of one leaf.

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
class Facts:
    """Everything the card says about a release.

    Attributes:
        version (`str`): X.Y.Z.
        shards (`dict[tuple[str, str], Shards]`): (leaf, split) -> its files.
        turns (`Counter[int]`): k -> number of questions.
        capabilities (`Counter[tuple[int, str]]`): (k, capability) -> number of questions that need it.
        pictures (`Counter[tuple[str, str]]`): (image source, licence) -> rows with a picture from there.
        teachers, verifiers, presets (`tuple[str, ...]`): those that the rows name, sorted.
        rejects (`Counter[tuple[str, str]]`): (stage, reason) -> how many were dropped.
        libraries (`dict[str, str]`): name -> version of what wrote the files.
        license (`str`, *optional*): of the release as a whole, where its maker has said one.
    """

    version: str
    shards: dict[tuple[str, str], Shards]
    turns: Counter[int]
    capabilities: Counter[tuple[int, str]]
    pictures: Counter[tuple[str, str]]
    teachers: tuple[str, ...]
    verifiers: tuple[str, ...]
    presets: tuple[str, ...]
    rejects: Counter[tuple[str, str]]
    libraries: dict[str, str]
    license: str | None = None

    @property
    def configs(self) -> dict[str, tuple[str, ...]]:
        """Config -> its leaves."""
        return configs(leaf for leaf, _ in self.shards)

    def rows(self, *leaves: str, split: str | None = None) -> int:
        """Return the number of rows of these leaves (all without any), in one split or in both."""
        return sum(
            shards.rows
            for (leaf, of), shards in self.shards.items()
            if (not leaves or leaf in leaves) and split in (None, of)
        )


@dataclass(slots=True)
class Tally:
    """Counts rows and rejects as they pass; its size depends on how many kinds there are, not how many rows."""

    turns: Counter[int] = field(default_factory=Counter)
    capabilities: Counter[tuple[int, str]] = field(default_factory=Counter)
    pictures: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    presets: set[str] = field(default_factory=set)

    def reject(self, reject: Reject) -> None:
        self.rejects[reject.stage, reject.reason] += 1

    def row(self, row: Row) -> None:
        if row.k is not None:
            self.turns[row.k] += len(row.turns)
            self.capabilities.update((row.k, name) for turn in row.turns for name in turn.capabilities)
        if row.image_id is not None:
            self.pictures[row.image_source or "unknown", row.image_license or "unknown"] += 1
        self.teachers.update(filter(None, [row.teacher]))
        self.verifiers.update(filter(None, [row.verifier]))
        self.presets.update(filter(None, [row.preset_version]))

    def facts(self, version: str, shards: dict[tuple[str, str], Shards], license: str | None = None) -> Facts:
        return Facts(
            version=version,
            shards=shards,
            turns=self.turns,
            capabilities=self.capabilities,
            pictures=self.pictures,
            teachers=tuple(sorted(self.teachers)),
            verifiers=tuple(sorted(self.verifiers)),
            presets=tuple(sorted(self.presets)),
            rejects=self.rejects,
            libraries={name: metadata.version(name) for name in _LIBRARIES},
            license=license,
        )
