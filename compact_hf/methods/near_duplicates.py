"""Near-duplicate questions across images: in go accepted turns in the order of image ids, out comes which repeat one.

A turn repeats a kept one where both give the same answer and their questions share more than `MAX_SIMILARITY` of their
words, in the same order. The answer belongs to it: "What color is the bus?" about a red and about a blue bus teaches to
look, about five hundred red ones it teaches that buses are red; and if each wording could stand but once, its answer
could be known without an image. So of each wording every answer stays once.
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

WordIds = tuple[int, ...]
Ratio = tuple[int, int]


def question_words(question: str) -> list[str]:
    """Return what of a question is compared: its words, normalised as answers are (case, articles, plurals, ...)."""
    return normalise(question).split()


class NearDuplicates:
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
        self._word_ids: dict[str, int] = {}
        self._words: list[str] = []
        self._indexes: dict[str, _AnswerIndex] = {}

    def add_new(self, turns: Sequence[Turn], *, min_turns: int) -> list[str | None]:
        """Return for each turn of the next image the words of the kept question that it repeats, None for a new one.

        The new ones are kept, and held against all that comes later, where there are at least `min_turns` of them. An
        answer without letter and digit is like no other.
        """
        if self._limit == (1, 1):
            return [None] * len(turns)
        entries = [(normalise(turn.answer), self._to_word_ids(question_words(turn.question))) for turn in turns]
        repeats = [self._find_repeat(answer, words) for answer, words in entries]
        if repeats.count(None) >= min_turns:
            for (answer, words), repeat in zip(entries, repeats, strict=True):
                if repeat is None and answer:
                    self._indexes.setdefault(answer, _AnswerIndex(self._limit)).add(words)
        return repeats

    def _find_repeat(self, answer: str, words: WordIds) -> str | None:
        index = self._indexes.get(answer)
        match = None if index is None else index.find_similar(words)
        return None if match is None else " ".join(self._words[word_id] for word_id in match)

    def _to_word_ids(self, words: list[str]) -> WordIds:
        for word in words:
            if word not in self._word_ids:
                self._word_ids[word] = len(self._words)
                self._words.append(word)
        return tuple(self._word_ids[word] for word in words)


class _AnswerIndex:
    """The kept questions of one answer, as tuples of word numbers."""

    __slots__ = ("_by_length", "_limit", "_questions")

    def __init__(self, limit: Ratio) -> None:
        self._limit = limit
        self._questions: set[WordIds] = set()
        self._by_length: dict[int, dict[int, list[WordIds]]] = {}  # number of words -> one of the rarest -> questions

    def find_similar(self, words: WordIds) -> WordIds | None:
        """Return a question that shares more than the limit, the closest of those with some number of words."""
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        if words in self._questions:
            return words
        rarest_first = sorted(words, reverse=True)
        for length, by_word in self._by_length.items():
            min_common = _min_common_words(self._limit, len(words), length)
            if min_common > min(length, len(words)):
                continue
            # Of two that share `needed` words each has one of them among its rarest but `needed - 1`.
            for word in dict.fromkeys(rarest_first[: len(words) - min_common + 1]):
                if word in by_word and (
                    match := process.extractOne(words, by_word[word], scorer=LCSseq.similarity, score_cutoff=min_common)
                ):
                    return tuple(match[0])
        return None

    def add(self, words: WordIds) -> None:
        self._questions.add(words)
        # The shortest that can be too similar shares the fewest words.
        lengths = range(len(words) + 1)
        common_counts = (_min_common_words(self._limit, len(words), length) for length in lengths)
        min_common = next(
            (count for length, count in zip(lengths, common_counts, strict=False) if count <= length), len(words) + 1
        )
        by_word = self._by_length.setdefault(len(words), {})
        # Numbers grow as new words come up, so that the higher ones are rarer.
        for word in dict.fromkeys(sorted(words, reverse=True)[: len(words) - min_common + 1]):
            by_word.setdefault(word, []).append(words)


def _min_common_words(limit: Ratio, length: int, other_length: int) -> int:
    """Return how many words in the same order make questions of these lengths too similar."""
    return limit[0] * (length + other_length) // (2 * limit[1]) + 1
