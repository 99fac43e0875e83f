"""Counting a release's rows as they pass by, when they are written (rows) and when they are checked (records)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compact_hf.answers import normalise
from compact_hf.capabilities import canonical
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
        """Count a row as Parquet holds it; one without defects (checks.py)."""
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
