"""Counts the questions of a stream of rows, and samples some of them with their text.

Memory grows by eight bytes per question: the hash that finds questions shared by two datasets. The size of the sample
is bounded. It has the questions about the images with the lowest hashes. So the same data gives the same sample in any
order, and two datasets about the same images are sampled at the same images.
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
"""Maximum number of questions in the sample."""


class SampledQuestion(NamedTuple):
    """A question in the sample, with the hash of its image id and its normalised answer."""

    image_hash: int
    question: str
    answer: str
    capabilities: tuple[str, ...]


@dataclass(slots=True)
class QuestionSample:
    """A sample of at most `limit` questions: all questions about the images with the lowest hashes."""

    limit: int = MAX_SAMPLE
    _questions: list[SampledQuestion] = field(default_factory=list)
    # Image hashes have 64 bits, so at first every image is below the limit.
    _hash_limit: int = 1 << 64

    def add(self, question: SampledQuestion) -> None:
        """Add a question; if the sample becomes too large, drop the images in the upper half of the hash range."""
        if question.image_hash < self._hash_limit:
            self._questions.append(question)
            # Invariant: the sample contains all questions so far about images below the limit, and no others.
            while len(self._questions) > self.limit:
                self._hash_limit //= 2
                self._questions = [item for item in self._questions if item.image_hash < self._hash_limit]

    def sorted_questions(self, limit: int | None = None) -> list[SampledQuestion]:
        """Return the questions sorted by image hash: all, or the first `limit` and the rest of the last image."""
        ordered = sorted(self._questions, key=lambda question: question.image_hash)
        if limit is None or limit >= len(ordered):
            return ordered
        last_hash = ordered[limit - 1].image_hash
        return [question for question in ordered if question.image_hash <= last_hash]


@dataclass(slots=True)
class QuestionCounts:
    """Counts over all questions of a dataset.

    Attributes:
        combination_counts (`Counter[tuple[str, ...]]`): capabilities, in canonical order -> number of questions that
            need exactly these.
        question_words (`Counter[int]`): number of words -> number of questions.
        answer_words (`Counter[int]`): number of words -> number of answers that are not empty.
        unlabelled_rows (`int`): number of rows without known capabilities, which are not counted elsewhere.
        sample (`QuestionSample`): a sample of the questions with their text.
    """

    combination_counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)
    unlabelled_rows: int = 0
    sample: QuestionSample = field(default_factory=QuestionSample)
    # Arrays of 64-bit numbers: a set would take several times the memory. Repeats are removed at the end.
    _image_hashes: array[int] = field(default_factory=lambda: array("Q"))
    _question_hashes: array[int] = field(default_factory=lambda: array("Q"))

    def add_row(self, row: QuestionRow) -> None:
        """Count the questions of a row.

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
        """Count one question and offer it to the sample."""
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
        """Number of questions."""
        return len(self._question_hashes)

    @property
    def image_hashes(self) -> Any:
        """Sorted hashes of the distinct images (`numpy.ndarray` of `uint64`)."""
        return _unique(self._image_hashes)

    @property
    def question_hashes(self) -> Any:
        """Sorted hashes of the distinct questions, normalised and without answers (`numpy.ndarray` of `uint64`)."""
        return _unique(self._question_hashes)


_normalise_cached = lru_cache(1 << 16)(normalise)  # answers repeat


def _hash(text: str) -> int:
    # JSON can contain lone surrogates, which strict UTF-8 refuses.
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _unique(hashes: array[int]) -> Any:
    import numpy as np

    return np.unique(np.frombuffer(hashes, dtype=np.uint64)) if hashes else np.empty(0, dtype=np.uint64)
