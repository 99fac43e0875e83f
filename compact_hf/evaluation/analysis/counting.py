"""Counting questions as they pass by: rows in, counts of all of them out, and a sample of them with their text.

What grows with the number of questions are eight bytes for each, to find what two datasets share. The sample is
bounded: of images those with the lowest hashes, so that the same data give the same sample in whatever order they
come, and two datasets about the same images give the same ones of them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from compact_hf.answers import normalise
from compact_hf.capabilities import canonicalize
from compact_hf.evaluation.analysis.readers import LabelledQuestion, QuestionRow

MAX_SAMPLE: Final = 100_000
"""Questions whose text is looked at, at most."""


class SampledQuestion(NamedTuple):
    """A question of the sample; `image_hash` is a hash, `answer` is normalised."""

    image_hash: int
    question: str
    answer: str
    capabilities: tuple[str, ...]


@dataclass(slots=True)
class QuestionSample:
    """The questions about those images whose hashes are lowest: as many whole images as `limit` allows."""

    limit: int = MAX_SAMPLE
    _questions: list[SampledQuestion] = field(default_factory=list)
    _hash_limit: int = 1 << 64

    def add(self, question: SampledQuestion) -> None:
        if question.image_hash < self._hash_limit:
            self._questions.append(question)
            while len(self._questions) > self.limit:
                self._hash_limit //= 2
                self._questions = [item for item in self._questions if item.image_hash < self._hash_limit]

    def sorted_questions(self, limit: int | None = None) -> list[SampledQuestion]:
        """Return them by their images' hashes, the first `limit` where one is given, with the last image whole."""
        ordered = sorted(self._questions, key=lambda question: question.image_hash)
        if limit is None or limit >= len(ordered):
            return ordered
        last_hash = ordered[limit - 1].image_hash
        return [question for question in ordered if question.image_hash <= last_hash]


@dataclass(slots=True)
class QuestionCounts:
    """What all questions come to.

    Attributes:
        combination_counts (`Counter[tuple[str, ...]]`): capabilities in their order -> questions that need exactly
            these.
        question_words, answer_words (`Counter[int]`): number of words -> questions, and answers that are not empty.
        unlabelled_rows (`int`): rows whose questions nobody judged, which are left out.
        sample (`QuestionSample`): questions with their text.
    """

    combination_counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)
    unlabelled_rows: int = 0
    sample: QuestionSample = field(default_factory=QuestionSample)
    _image_hashes: array[int] = field(default_factory=lambda: array("Q"))
    _question_hashes: array[int] = field(default_factory=lambda: array("Q"))

    def add_row(self, row: QuestionRow) -> None:
        """Count a row.

        Raises:
            UnknownCapabilityError: a capability is not one of the ten.
        """
        if not row.questions:
            self.unlabelled_rows += 1
            return
        image_hash = _hash(row.image_id)
        self._image_hashes.append(image_hash)
        for question in row.questions:
            self._add_question(image_hash, question)

    def _add_question(self, image_hash: int, question: LabelledQuestion) -> None:
        combination = canonicalize(question.capabilities)
        answer = _normalise_cached(question.answer)
        self.combination_counts[combination] += 1
        self.question_words[len(question.question.split())] += 1
        if answer:
            self.answer_words[len(question.answer.split())] += 1
        self._question_hashes.append(_hash(normalise(question.question)))
        self.sample.add(SampledQuestion(image_hash, question.question, answer, combination))

    @property
    def question_count(self) -> int:
        """How many there are."""
        return len(self._question_hashes)

    @property
    def image_hashes(self) -> Any:
        """The different images' hashes, sorted (`numpy.ndarray`)."""
        return _unique(self._image_hashes)

    @property
    def question_hashes(self) -> Any:
        """The different questions' hashes, normalised and without their answers, sorted (`numpy.ndarray`)."""
        return _unique(self._question_hashes)


_normalise_cached = lru_cache(1 << 16)(normalise)  # answers repeat


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _unique(hashes: array[int]) -> Any:
    import numpy as np

    return np.unique(np.frombuffer(hashes, dtype=np.uint64)) if hashes else np.empty(0, dtype=np.uint64)
