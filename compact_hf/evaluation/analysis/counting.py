"""Counting questions as they pass by: rows in, counts of all of them out, and a sample of them with their text.

What grows with the number of questions are eight bytes for each, to find what two data sets share. The sample is
bounded: of pictures those with the lowest hashes, so that the same data give the same sample in whatever order they
come, and two data sets about the same pictures give the same ones of them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from compact_hf.answers import normalise
from compact_hf.capabilities import canonical
from compact_hf.evaluation.analysis.readers import Asked, Row

MAX_SAMPLE: Final = 100_000
"""Questions whose text is looked at, at most."""


class Sampled(NamedTuple):
    """A question of the sample; `picture` is a hash, `answer` is normalised."""

    picture: int
    question: str
    answer: str
    capabilities: tuple[str, ...]


@dataclass(slots=True)
class Sample:
    """The questions about those pictures whose hashes are lowest: as many whole pictures as `limit` allows."""

    limit: int = MAX_SAMPLE
    _kept: list[Sampled] = field(default_factory=list)
    _below: int = 1 << 64

    def offer(self, one: Sampled) -> None:
        if one.picture < self._below:
            self._kept.append(one)
            while len(self._kept) > self.limit:
                self._below //= 2
                self._kept = [kept for kept in self._kept if kept.picture < self._below]

    def questions(self, limit: int | None = None) -> list[Sampled]:
        """Return them by their pictures' hashes, the first `limit` where one is given, with the last picture whole."""
        ordered = sorted(self._kept, key=lambda one: one.picture)
        if limit is None or limit >= len(ordered):
            return ordered
        last = ordered[limit - 1].picture
        return [one for one in ordered if one.picture <= last]


@dataclass(slots=True)
class Counts:
    """What all questions come to.

    Attributes:
        needed (`Counter[tuple[str, ...]]`): capabilities in their order -> questions that need exactly these.
        question_words, answer_words (`Counter[int]`): number of words -> questions, and answers that are not empty.
        unlabelled (`int`): rows whose questions nobody judged, which are left out.
        sample (`Sample`): questions with their text.
    """

    needed: Counter[tuple[str, ...]] = field(default_factory=Counter)
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)
    unlabelled: int = 0
    sample: Sample = field(default_factory=Sample)
    _pictures: array[int] = field(default_factory=lambda: array("Q"))
    _texts: array[int] = field(default_factory=lambda: array("Q"))

    def row(self, row: Row) -> None:
        """Count a row.

        Raises:
            UnknownCapabilityError: a capability is not one of the ten.
        """
        if not row.asked:
            self.unlabelled += 1
            return
        picture = _hash(row.picture)
        self._pictures.append(picture)
        for asked in row.asked:
            self._question(picture, asked)

    def _question(self, picture: int, asked: Asked) -> None:
        needed = canonical(asked.capabilities)
        answer = _normalised(asked.answer)
        self.needed[needed] += 1
        self.question_words[len(asked.question.split())] += 1
        if answer:
            self.answer_words[len(asked.answer.split())] += 1
        self._texts.append(_hash(normalise(asked.question)))
        self.sample.offer(Sampled(picture, asked.question, answer, needed))

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self._texts)

    @property
    def pictures(self) -> Any:
        """The different pictures' hashes, sorted (`numpy.ndarray`)."""
        return _different(self._pictures)

    @property
    def texts(self) -> Any:
        """The different questions' hashes, normalised and without their answers, sorted (`numpy.ndarray`)."""
        return _different(self._texts)


_normalised = lru_cache(1 << 16)(normalise)  # answers repeat


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _different(hashes: array[int]) -> Any:
    import numpy as np

    return np.unique(np.frombuffer(hashes, dtype=np.uint64)) if hashes else np.empty(0, dtype=np.uint64)
