"""Near-duplicate questions across images: in go accepted turns in the order of image ids, out comes which repeat one.

A turn repeats a kept one where both give the same answer and their questions share more than `MAX_SIMILARITY` of their
words, in the same order. The answer belongs to it: "What color is the bus?" about a red and about a blue bus teaches to
look, about five hundred red ones it teaches that buses are red; and if each wording could stand but once, its answer
could be known without a picture. So of each wording every answer stays once.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from compact_hf.answers import normalise
from compact_hf.errors import UsageError
from compact_hf.records import Turn

MAX_SIMILARITY: Final = 0.9
"""Above this a question repeats another. From five to ten words, one more is the same question, one exchanged is not.

At 0.85 nouns begin to be exchanged ("on which side of the boy is the television", "... the cow"). With LLaVA's answers,
0.9 drops 5.8% of the 12,578 questions of GQA's balanced test-dev, 1.2% of TextVQA's 5,000 for validation and 18% of
5,217 about 2,000 drawn scenes; if answers were not compared, it would drop 13% of TextVQA's and 36% of the scenes'.
"""

Words = tuple[int, ...]
Limit = tuple[int, int]


def words_of(question: str) -> list[str]:
    """Return what of a question is compared: its words, normalised as answers are (case, articles, plurals, ...)."""
    return normalise(question).split()


class Similar:
    """The kept questions, to find those that repeat one of them: exactly, without a seed, holding their words only.

    rapidfuzz compares: the longest common subsequence of words is exact, fast and needs no other library, where
    datasketch's MinHash would guess, from a seed, and forget the order of words. Not every pair is compared: two
    questions above the limit share a word even among the few rarest of each (the prefix filter of Bayardo et al.,
    "Scaling up all pairs similarity search", WWW 2007), so only those that do are looked at.
    """

    def __init__(self, max_similarity: float = MAX_SIMILARITY) -> None:
        """Start with nothing kept.

        Args:
            max_similarity (`float`, *optional*, defaults to 0.9): 0 to 1, the share of their words that two questions
                may have in common, twice the common words by the words of both; 1 lets everything pass.

        Raises:
            UsageError: it is out of range.
        """
        if not 0 <= max_similarity <= 1:
            raise UsageError(f"got --max-similarity {max_similarity}; give a number from 0 to 1, where 1 keeps all")
        # The decimal number as it was written: 0.7 of ten words are seven, on every machine.
        self._limit = Fraction(str(max_similarity)).as_integer_ratio()
        self._numbers: dict[str, int] = {}
        self._spelt: list[str] = []
        self._shelves: dict[str, _Shelf] = {}

    def sift(self, turns: Sequence[Turn], *, fewest: int) -> list[str | None]:
        """Return for each turn of the next image the words of the kept question that it repeats, None for a new one.

        The new ones are kept, and held against all that comes later, where there are at least `fewest` of them. An
        answer without letter and digit is like no other.
        """
        if self._limit == (1, 1):
            return [None] * len(turns)
        entries = [(normalise(turn.answer), self._numbered(words_of(turn.question))) for turn in turns]
        repeated = [self._repeated(answer, words) for answer, words in entries]
        if repeated.count(None) >= fewest:
            for (answer, words), like in zip(entries, repeated, strict=True):
                if like is None and answer:
                    self._shelves.setdefault(answer, _Shelf(self._limit)).add(words)
        return repeated

    def _repeated(self, answer: str, words: Words) -> str | None:
        shelf = self._shelves.get(answer)
        found = None if shelf is None else shelf.like(words)
        return None if found is None else " ".join(self._spelt[number] for number in found)

    def _numbered(self, words: list[str]) -> Words:
        for word in words:
            if word not in self._numbers:
                self._numbers[word] = len(self._spelt)
                self._spelt.append(word)
        return tuple(self._numbers[word] for word in words)


class _Shelf:
    """The kept questions of one answer, as tuples of word numbers."""

    __slots__ = ("_having", "_limit", "_same")

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._same: set[Words] = set()
        self._having: dict[int, dict[int, list[Words]]] = {}  # number of words -> one of the rarest -> questions

    def like(self, words: Words) -> Words | None:
        """Return a question that shares more than the limit, the closest of those with some number of words."""
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        if words in self._same:
            return words
        rarest_first = sorted(words, reverse=True)
        for length, having in self._having.items():
            needed = _needed(self._limit, len(words), length)
            if needed > min(length, len(words)):
                continue
            # Of two that share `needed` words each has one of them among its rarest but `needed - 1`.
            for word in dict.fromkeys(rarest_first[: len(words) - needed + 1]):
                if word in having and (
                    found := process.extractOne(words, having[word], scorer=LCSseq.similarity, score_cutoff=needed)
                ):
                    return tuple(found[0])
        return None

    def add(self, words: Words) -> None:
        self._same.add(words)
        # The shortest that can be too similar shares the fewest words.
        partners = range(len(words) + 1)
        needed = (_needed(self._limit, len(words), other) for other in partners)
        least = next((count for other, count in zip(partners, needed, strict=False) if count <= other), len(words) + 1)
        having = self._having.setdefault(len(words), {})
        # Numbers grow as new words come up, so that the higher ones are rarer.
        for word in dict.fromkeys(sorted(words, reverse=True)[: len(words) - least + 1]):
            having.setdefault(word, []).append(words)


def _needed(limit: Limit, length: int, other: int) -> int:
    """Return how many words in the same order make questions of these lengths too similar."""
    return limit[0] * (length + other) // (2 * limit[1]) + 1
