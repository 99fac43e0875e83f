"""Near-duplicate questions across images: in go accepted turns in the order of image ids, out comes which repeat one.

A turn repeats a kept one where both give the same answer and their questions share more than `MAX_SIMILARITY` of their
words, in the same order. The answer belongs to it: "What color is the bus?" about a red and about a blue bus teaches to
look, about five hundred red ones it teaches that buses are red; and if each wording could stand but once, its answer
could be known without an image. So of each wording every answer stays once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final

from compact_hf.answers import normalise
from compact_hf.errors import UsageError
from compact_hf.methods.row_kind import MAX_SIMILARITY
from compact_hf.records import Turn

WordIds = tuple[int, ...]
Ratio = tuple[int, int]

_MAX_CODE_POINT: Final = 0x10FFFF
_MIN_BUCKETS: Final = 1 << 10
_MAX_LOAD: Final = 4  # entries a bucket


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
        self._word_ids: dict[str, int] = {"": 0}  # the empty word is that of a question without any
        self._words = [""]
        self._answer_ids: dict[str, int] = {}
        self._index = _QuestionIndex(self._limit)

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
                    self._index.add(self._answer_ids.setdefault(answer, len(self._answer_ids)), words)
        return repeats

    def _find_repeat(self, answer: str, words: WordIds) -> str | None:
        answer_id = self._answer_ids.get(answer)
        match = None if answer_id is None else self._index.find_similar(answer_id, words)
        return None if match is None else " ".join(self._words[word_id] for word_id in match)

    def _to_word_ids(self, words: list[str]) -> WordIds:
        for word in words:
            if word not in self._word_ids:
                self._word_ids[word] = len(self._words)
                self._words.append(word)
        return tuple(self._word_ids[word] for word in words) or (0,)


class _QuestionIndex:
    """The kept questions, and a hash table from their answer, number of words and rarest words to them.

    Held are numbers in flat arrays, about 35 bytes a question beside its words. Words are numbered as they come up, so
    that frequent ones have small numbers, and a question's numbers are kept as UTF-8: 15 bytes for ten words.
    """

    def __init__(self, limit: Ratio) -> None:
        self._limit = limit
        # Of each question: its words, where they end, its answer, and which of 16 bits its words set.
        self._texts = bytearray()
        self._ends = array("I")
        self._answers = array("I")
        self._signatures = array("H")
        self._unencoded: dict[int, WordIds] = {}  # those with words whose numbers UTF-8 does not have
        # An entry for each of a question's rarest words. Those of one bucket are a chain, newest first: `_heads` has
        # the number of its first entry, `_next` that of the one after each. Entry 0 is none and ends a chain.
        self._entry_questions = array("I", [0])
        self._next = array("I", [0])
        self._heads = array("I", [0]) * _MIN_BUCKETS
        self._lengths: set[int] = set()
        self._candidate_lengths: dict[int, list[tuple[int, int]]] = {}
        self._rare_counts: dict[int, int] = {}  # number of words -> how many of the rarest have an entry

    def find_similar(self, answer: int, words: WordIds) -> WordIds | None:
        """Return a question that shares more than the limit: of those with the nearest number of words the closest."""
        heads, next_entries, last_bucket = self._heads, self._next, len(self._heads) - 1
        rarest_first = sorted(words, reverse=True)
        for length, min_common in self._find_lengths(len(words)):
            entries = []
            # Of two that share `min_common` words each has one of them among its rarest but `min_common - 1`.
            for word in rarest_first[: len(words) - min_common + 1]:
                entry = heads[hash((answer, length, word)) & last_bucket]
                while entry:
                    entries.append(entry)
                    entry = next_entries[entry]
            if entries and (match := self._find_closest(entries, answer, words, length, min_common)):
                return match
        return None

    def add(self, answer: int, words: WordIds) -> None:
        if len(words) not in self._lengths:
            self._lengths.add(len(words))
            self._candidate_lengths.clear()
        text = _encode(words)
        if isinstance(text, str):
            self._texts += text.encode("utf-8", "surrogatepass")
        else:
            self._unencoded[len(self._answers)] = text
        if self._ends.typecode == "I" and len(self._texts) >= 1 << 32:
            self._ends = array("Q", self._ends)
        self._ends.append(len(self._texts))
        for key in self._get_keys(answer, words):
            bucket = key & (len(self._heads) - 1)
            self._next.append(self._heads[bucket])
            self._heads[bucket] = len(self._entry_questions)
            self._entry_questions.append(len(self._answers))
        self._answers.append(answer)
        self._signatures.append(_sign(words))
        if len(self._next) > _MAX_LOAD * len(self._heads):
            self._grow()

    def _find_lengths(self, length: int) -> list[tuple[int, int]]:
        """Return how many words similar questions can have, nearest first, and how many of them must be common."""
        if length not in self._candidate_lengths:
            lengths = sorted(self._lengths, key=lambda other: (abs(other - length), other))
            common_counts = [(other, _min_common_words(self._limit, length, other)) for other in lengths]
            self._candidate_lengths[length] = [
                (other, count) for other, count in common_counts if count <= min(length, other)
            ]
        return self._candidate_lengths[length]

    def _find_closest(
        self, entries: Iterable[int], answer: int, words: WordIds, length: int, min_common: int
    ) -> WordIds | None:
        """Return the question that shares most with the words, the earliest of equals; None if none shares enough."""
        signatures, answers = self._signatures, self._answers
        # A bit that the words do not set is that of another word, of which a question may have few.
        other_bits, max_others = ~_sign(words), length - min_common
        questions = sorted(
            question
            for question in set(map(self._entry_questions.__getitem__, entries))
            if (signatures[question] & other_bits).bit_count() <= max_others and answers[question] == answer
        )
        texts = [text for text in map(self._read, questions) if len(text) == length]
        if not texts:
            return None
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        match = process.extractOne(_encode(words), texts, scorer=LCSseq.similarity, score_cutoff=min_common)
        return None if match is None else _decode(texts[match[2]])

    def _read(self, question: int) -> str | WordIds:
        """Return the words of a question, encoded."""
        text = self._texts[self._ends[question - 1] if question else 0 : self._ends[question]]
        return text.decode("utf-8", "surrogatepass") if text else self._unencoded[question]

    def _get_keys(self, answer: int, words: WordIds) -> list[int]:
        """Return the hash of each entry of a question."""
        length = len(words)
        if length not in self._rare_counts:
            # The shortest that can be too similar shares the fewest words.
            common_counts = (_min_common_words(self._limit, length, other) for other in range(1, length + 1))
            min_common = next(count for other, count in enumerate(common_counts, start=1) if count <= other)
            self._rare_counts[length] = length - min_common + 1
        # Numbers grow as new words come up, so that the higher ones are rarer.
        rarest = dict.fromkeys(sorted(words, reverse=True)[: self._rare_counts[length]])
        return [hash((answer, length, word)) for word in rarest]

    def _grow(self) -> None:
        """Spread the entries over twice as many buckets; they are hashed anew, as keeping hashes would take memory."""
        bucket_count = 2 * len(self._heads)
        self._heads = array("I")  # the old table goes before there is a new one
        heads = self._heads = array("I", [0]) * bucket_count
        entry = 1
        for question, answer in enumerate(self._answers):
            for key in self._get_keys(answer, _decode(self._read(question))):
                bucket = key & (bucket_count - 1)
                self._next[entry], heads[bucket] = heads[bucket], entry
                entry += 1


def _encode(words: WordIds) -> str | WordIds:
    """Return numbers as the characters with these code points, or as they are where one is too large for that."""
    return "".join(map(chr, words)) if max(words) <= _MAX_CODE_POINT else words


def _decode(words: str | WordIds) -> WordIds:
    return tuple(map(ord, words)) if isinstance(words, str) else words


def _sign(words: WordIds) -> int:
    """Return the bits, of 16, that words set."""
    signature = 0
    for word in words:
        signature |= 1 << (word & 15)
    return signature


def _min_common_words(limit: Ratio, length: int, other_length: int) -> int:
    """Return how many words in the same order make questions of these lengths too similar."""
    return limit[0] * (length + other_length) // (2 * limit[1]) + 1
