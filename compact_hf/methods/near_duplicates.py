"""Finds near-duplicate questions across images.

The input is the accepted turns of each image, in the order of image ids. The result says which turn repeats an earlier
one. A turn repeats another if both have the same answer and their questions share more than `MAX_SIMILARITY` of their
words, in the same order.

The answer is compared because it matters: asking "What color is the bus?" about a red bus and about a blue bus teaches
a model to look, while asking it about five hundred red buses teaches that buses are red. If each wording were kept only
once, its answer could be learned without the image. So for each wording every different answer is kept once.
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

# `chr` accepts no larger number.
_MAX_CODE_POINT: Final = 0x10FFFF
# A power of two, like every later number of buckets: `hash & (buckets - 1)` is then the bucket.
_MIN_BUCKETS: Final = 1 << 10
_MAX_LOAD: Final = 4  # entries per bucket


def question_words(question: str) -> list[str]:
    """Return the words of a question that are compared, normalised like answers (case, articles, plurals, ...)."""
    return normalise(question).split()


class NearDuplicates:
    """The kept questions, to find questions that repeat one of them.

    The search is exact and needs no seed. Only the words are kept in memory. rapidfuzz computes the longest common
    subsequence of words: exact, fast, and without further dependencies. MinHash (as in datasketch) is approximate,
    depends on a seed and ignores the order of words.

    Not every pair is compared. Two questions above the limit always share one of their rarest words (the prefix filter
    of Bayardo et al., "Scaling up all pairs similarity search", WWW 2007), so only questions that do are candidates.
    """

    def __init__(self, max_similarity: float = MAX_SIMILARITY) -> None:
        """Start without any kept question.

        Args:
            max_similarity (`float`, *optional*, defaults to 0.9): the similarity of two questions, 0 to 1, that is
                still allowed: twice the number of common words, divided by the number of words of both. 1 keeps all
                questions.

        Raises:
            UsageError: `max_similarity` is out of range.
        """
        if not 0 <= max_similarity <= 1:
            raise UsageError(
                f"--max-similarity {max_similarity} is out of range: give a number from 0 to 1 (1 keeps all)"
            )
        # An exact fraction of the decimal as written: 0.7 of ten words is exactly seven, without rounding errors.
        self._limit = Fraction(str(max_similarity)).as_integer_ratio()
        self._word_ids: dict[str, int] = {"": 0}  # number 0, the empty word, is for a question without words
        self._words = [""]
        self._answer_ids: dict[str, int] = {}
        self._index = _QuestionIndex(self._limit)

    def add_new(self, turns: Sequence[Turn], *, min_turns: int) -> list[str | None]:
        """Check the turns of the next image, and keep the new ones for later comparisons.

        The new turns are only kept if there are at least `min_turns` of them, because the image is dropped otherwise.
        A blank answer never counts as equal to another answer.

        Args:
            turns (`Sequence[Turn]`): the accepted turns of the image.
            min_turns (`int`): the number of turns that the image needs to be kept.

        Returns:
            For each turn the words of the kept question that it repeats, or None if it is new.
        """
        if self._limit == (1, 1):
            return [None] * len(turns)
        entries = [(normalise(turn.answer), self._to_word_ids(question_words(turn.question))) for turn in turns]
        repeats = [self._find_repeat(answer, words) for answer, words in entries]
        # Added only now, so that turns of one image are not compared with each other; the filters did that.
        if repeats.count(None) >= min_turns:
            for (answer, words), repeat in zip(entries, repeats, strict=True):
                if repeat is None and answer:
                    self._index.add(self._answer_ids.setdefault(answer, len(self._answer_ids)), words)
        return repeats

    def _find_repeat(self, answer: str, words: WordIds) -> str | None:
        """Return the words of a kept question with the same answer and similar words, None if there is none."""
        answer_id = self._answer_ids.get(answer)
        match = None if answer_id is None else self._index.find_similar(answer_id, words)
        return None if match is None else " ".join(self._words[word_id] for word_id in match)

    def _to_word_ids(self, words: list[str]) -> WordIds:
        """Return the number of each word; new words get the next number."""
        for word in words:
            if word not in self._word_ids:
                self._word_ids[word] = len(self._words)
                self._words.append(word)
        return tuple(self._word_ids[word] for word in words) or (0,)


class _QuestionIndex:
    """The kept questions, with a hash table that maps (answer, number of words, rare word) to questions.

    Everything is stored as numbers in flat arrays, about 35 bytes per question in addition to its words. Words are
    numbered in the order in which they first occur, so frequent words have small numbers. A question's word numbers are
    stored as UTF-8: about 15 bytes for ten words.
    """

    def __init__(self, limit: Ratio) -> None:
        self._limit = limit
        # Per question: its words in `_texts`, the end of its words there, its answer, and its 16-bit signature.
        self._texts = bytearray()
        self._ends = array("I")
        self._answers = array("I")
        self._signatures = array("H")
        self._unencoded: dict[int, WordIds] = {}  # questions with word numbers beyond the largest code point
        # There is an entry for each of a question's rarest words. The entries of a bucket form a linked list, newest
        # first: `_heads` has the first entry of each bucket, `_next` the entry after each. Entry 0 ends a list.
        self._entry_questions = array("I", [0])
        self._next = array("I", [0])
        self._heads = array("I", [0]) * _MIN_BUCKETS
        # Lengths in words that occur; length -> lengths that can be similar, each with its minimum of common words.
        self._lengths: set[int] = set()
        self._candidate_lengths: dict[int, list[tuple[int, int]]] = {}
        self._rare_counts: dict[int, int] = {}  # number of words -> how many of the rarest words get an entry

    def find_similar(self, answer: int, words: WordIds) -> WordIds | None:
        """Return the words of a question that is too similar, or None.

        Questions of the nearest length are searched first; among those of one length the most similar one is returned.
        """
        heads, next_entries, last_bucket = self._heads, self._next, len(self._heads) - 1
        rarest_first = sorted(words, reverse=True)
        for length, min_common in self._find_lengths(len(words)):
            entries = []
            # Prefix filter: if `min_common` words are shared, one of them is among the rarest len - min_common + 1.
            for word in rarest_first[: len(words) - min_common + 1]:
                entry = heads[hash((answer, length, word)) & last_bucket]
                while entry:
                    entries.append(entry)
                    entry = next_entries[entry]
            if entries and (match := self._find_closest(entries, answer, words, length, min_common)):
                return match
        return None

    def add(self, answer: int, words: WordIds) -> None:
        """Keep a question: store its words, its answer and its signature, and an entry for each of its rarest words."""
        # A new length: the cached lists of candidate lengths lack it.
        if len(words) not in self._lengths:
            self._lengths.add(len(words))
            self._candidate_lengths.clear()
        text = _encode(words)
        # "surrogatepass", because word numbers from 0xD800 to 0xDFFF are code points of surrogates.
        if isinstance(text, str):
            self._texts += text.encode("utf-8", "surrogatepass")
        else:
            self._unencoded[len(self._answers)] = text
        # More than 4 GiB of words: 32-bit offsets no longer suffice.
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
        """Return the lengths of similar questions in words, nearest first, each with the minimum of common words."""
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
        """Return the candidate with the most common words, the earliest in a tie; None if none has enough."""
        signatures, answers = self._signatures, self._answers
        # A bit that `words` do not set comes from a different word, and a similar question has few of these.
        other_bits, max_others = ~_sign(words), length - min_common
        questions = sorted(
            question
            for question in set(map(self._entry_questions.__getitem__, entries))
            if (signatures[question] & other_bits).bit_count() <= max_others and answers[question] == answer
        )
        # Questions of other lengths share a bucket by chance (hash collisions).
        texts = [text for text in map(self._read, questions) if len(text) == length]
        if not texts:
            return None
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        match = process.extractOne(_encode(words), texts, scorer=LCSseq.similarity, score_cutoff=min_common)
        return None if match is None else _decode(texts[match[2]])

    def _read(self, question: int) -> str | WordIds:
        """Return the encoded words of a question."""
        text = self._texts[self._ends[question - 1] if question else 0 : self._ends[question]]
        return text.decode("utf-8", "surrogatepass") if text else self._unencoded[question]

    def _get_keys(self, answer: int, words: WordIds) -> list[int]:
        """Return the hash of each index entry of a question."""
        length = len(words)
        if length not in self._rare_counts:
            # The shortest question that can be too similar needs the fewest common words, so it decides.
            common_counts = (_min_common_words(self._limit, length, other) for other in range(1, length + 1))
            min_common = next(count for other, count in enumerate(common_counts, start=1) if count <= other)
            self._rare_counts[length] = length - min_common + 1
        # Words with higher numbers were first seen later, so they are rarer.
        rarest = dict.fromkeys(sorted(words, reverse=True)[: self._rare_counts[length]])
        # The hash of integers is the same in every process; only that of strings is randomised.
        return [hash((answer, length, word)) for word in rarest]

    def _grow(self) -> None:
        """Double the number of buckets; hashes are computed again, because storing them would take memory."""
        bucket_count = 2 * len(self._heads)
        self._heads = array("I")  # free the old table before allocating the new one
        heads = self._heads = array("I", [0]) * bucket_count
        entry = 1
        for question, answer in enumerate(self._answers):
            for key in self._get_keys(answer, _decode(self._read(question))):
                bucket = key & (bucket_count - 1)
                self._next[entry], heads[bucket] = heads[bucket], entry
                entry += 1


def _encode(words: WordIds) -> str | WordIds:
    """Return word numbers as a string of these code points, or unchanged if one exceeds the largest code point."""
    return "".join(map(chr, words)) if max(words) <= _MAX_CODE_POINT else words


def _decode(words: str | WordIds) -> WordIds:
    return tuple(map(ord, words)) if isinstance(words, str) else words


def _sign(words: WordIds) -> int:
    """Return a 16-bit signature: word number n sets bit n % 16."""
    signature = 0
    for word in words:
        signature |= 1 << (word & 15)
    return signature


def _min_common_words(limit: Ratio, length: int, other_length: int) -> int:
    """Return how many common words (in the same order) make two questions of these lengths too similar."""
    # The smallest integer c with 2 * c / (length + other_length) > limit, in integer arithmetic.
    return limit[0] * (length + other_length) // (2 * limit[1]) + 1
