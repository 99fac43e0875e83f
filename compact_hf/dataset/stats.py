"""Count the rows of a dataset as they pass by, when they are written or checked, and what they came from.

Everything is measured, nothing is taken from a claim.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import combinations
from typing import Any, Final

from compact_hf.answers import normalise
from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.dataset.provenance import Making
from compact_hf.dataset.schema import configs
from compact_hf.records import Reject, Row

_WORD: Final = re.compile(r"\w+")


@dataclass(slots=True)
class Tally:
    """Counts rows and rejects as they pass: kinds, not rows, so what grows are the different answers (short texts).

    Attributes:
        combinations (`Counter[tuple[str, ...]]`): capabilities in their order -> questions that need them.
        answers (`Counter[tuple[int, str]]`): (k, normalised answer) -> questions.
        openings (`Counter[str]`): first word, in small letters -> questions.
        ascii (`int`): questions that are written, with their answers, in ASCII alone.
        pictures (`Counter[tuple[str, str]]`): (image source, licence) -> rows with a picture from there.
        rejects (`Counter[tuple[str, str]]`): (stage, reason) -> how many were dropped.
        teachers, verifiers, presets (`set[str]`): those that the rows name.
    """

    combinations: Counter[tuple[str, ...]] = field(default_factory=Counter)
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    openings: Counter[str] = field(default_factory=Counter)
    ascii: int = 0
    pictures: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    presets: set[str] = field(default_factory=set)

    def reject(self, reject: Reject) -> None:
        self.rejects[reject.stage, reject.reason] += 1

    def row(self, row: Row) -> None:
        for turn in row.turns:
            self._turn(turn.capabilities, turn.question, turn.answer)
        if row.image_id is not None:
            self.pictures[row.image_source or "unknown", row.image_license or "unknown"] += 1
        self._made(row.teacher, row.verifier, row.preset_version)

    def record(self, record: Mapping[str, Any]) -> None:
        """Count a row as Parquet holds it; one without defects (row_checks.py)."""
        for turn in record["turns"]:
            self._turn(turn["capabilities"], turn["question"], turn["answer"])
        if record["image_id"] is not None:
            self.pictures[record["image_source"], record["image_license"]] += 1
        self._made(record["teacher"], record["verifier"], record["preset_version"])

    def merge(self, other: Tally) -> None:
        """Add what another one has counted."""
        self.combinations += other.combinations
        self.answers += other.answers
        self.openings += other.openings
        self.ascii += other.ascii
        self.pictures += other.pictures
        self.rejects += other.rejects
        self.teachers |= other.teachers
        self.verifiers |= other.verifiers
        self.presets |= other.presets

    def _turn(self, needed: Iterable[str], question: str, answer: str) -> None:
        combination = canonical(needed)
        self.combinations[combination] += 1
        self.answers[len(combination), normalise(answer)] += 1
        if word := _WORD.search(question):
            self.openings[word[0].lower()] += 1
        self.ascii += question.isascii() and answer.isascii()

    def _made(self, teacher: str | None, verifier: str | None, preset: str | None) -> None:
        self.teachers.update(filter(None, [teacher]))
        self.verifiers.update(filter(None, [verifier]))
        self.presets.update(filter(None, [preset]))


_LIBRARIES: Final = ("compact_hf", "datasets", "matplotlib", "pillow", "pyarrow")
_YES_NO: Final = ("yes", "no")
_MOST: Final = 10
_OPENINGS: Final = 5


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
class Answers:
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
class Facts:
    """Everything the card says about a release.

    Attributes:
        version (`str`): X.Y.Z.
        shards (`dict[tuple[str, str], Shards]`): (leaf, split) -> its files.
        tally (`Tally`): what was counted in the rows, and among what was dropped.
        license (`str`, *optional*): of the release as a whole, where its maker has said one.
        making (`Making`, *optional*): how it came about, where there are journals that say so.
    """

    version: str
    shards: dict[tuple[str, str], Shards]
    tally: Tally
    license: str | None = None
    making: Making | None = None

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

    def file_bytes(self, *leaves: str) -> int:
        """Return the bytes on the disk of these leaves (all without any)."""
        return sum(shards.file_bytes for (leaf, _), shards in self.shards.items() if not leaves or leaf in leaves)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Models that wrote the rows' questions, sorted."""
        return tuple(sorted(self.tally.teachers))

    @property
    def verifiers(self) -> tuple[str, ...]:
        """Models that checked them, sorted."""
        return tuple(sorted(self.tally.verifiers))

    @property
    def presets(self) -> tuple[str, ...]:
        """Settings with which the rows were made, sorted."""
        return tuple(sorted(self.tally.presets))

    @property
    def is_strict(self) -> bool:
        """Whether all rows went through the strict checks: answers confirmed, and not to be guessed blindly."""
        return all(preset.endswith("+strict") for preset in self.presets)

    @property
    def pictures(self) -> Counter[tuple[str, str]]:
        """(image source, licence) -> rows with a picture from there."""
        return self.tally.pictures

    @property
    def licenses(self) -> Counter[str]:
        """Licence -> rows with a picture under it."""
        counts: Counter[str] = Counter()
        for (_, license), count in self.tally.pictures.items():
            counts[license] += count
        return counts

    @property
    def rejects(self) -> Counter[tuple[str, str]]:
        """(stage, reason) -> how many were dropped."""
        return self.tally.rejects

    @property
    def turns(self) -> Counter[int]:
        """K -> number of questions."""
        counts: Counter[int] = Counter()
        for combination, count in self.tally.combinations.items():
            counts[len(combination)] += count
        return counts

    @property
    def capabilities(self) -> Counter[tuple[int, str]]:
        """(k, capability) -> number of questions that need it."""
        counts: Counter[tuple[int, str]] = Counter()
        for combination, count in self.tally.combinations.items():
            for name in combination:
                counts[len(combination), name] += count
        return counts

    @property
    def needed(self) -> dict[str, int]:
        """Capability -> number of questions that need it, the most frequent first; all ten are there."""
        counts = {name: sum(self.capabilities[k, name] for k in self.turns) for name in CAPABILITIES}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def missing_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of capabilities that no question needs together."""
        there = {pair for combination in self.tally.combinations for pair in combinations(combination, 2)}
        return tuple(pair for pair in combinations(CAPABILITIES, 2) if pair not in there)

    @property
    def openings(self) -> tuple[tuple[str, float], ...]:
        """The most frequent first words of questions, each with its share, 0 to 1."""
        total = self.tally.openings.total()
        return tuple((word, count / total) for word, count in _most(self.tally.openings)[:_OPENINGS])

    @property
    def libraries(self) -> dict[str, str]:
        """Name -> version of what writes the files."""
        return {name: metadata.version(name) for name in _LIBRARIES}

    def answers(self, k: int | None = None) -> Answers:
        """Return how varied the answers to the questions of one k are, or to all; there must be some."""
        counts: Counter[str] = Counter()
        for (of, answer), count in self.tally.answers.items():
            if k in (None, of):
                counts[answer] += count
        return answers_of(counts)


def answers_of(counts: Counter[str]) -> Answers:
    """Return how varied answers are.

    Args:
        counts: normalised answer -> how many questions have it; there must be some.
    """
    total, ranked = counts.total(), _most(counts)
    return Answers(
        questions=total,
        different=len(counts),
        yes_no=sum(counts[answer] for answer in _YES_NO) / total,
        most=ranked[0][0],
        most_share=ranked[0][1] / total,
        ten_share=sum(count for _, count in ranked[:_MOST]) / total,
    )


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return the counts, the highest first; what occurs as often by the alphabet, whatever was counted first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
