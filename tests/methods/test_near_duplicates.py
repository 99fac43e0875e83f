"""Tests near-duplicate questions across images against a comparison of all pairs."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq

from compact_hf.answers import normalise
from compact_hf.errors import UsageError
from compact_hf.methods.near_duplicates import NearDuplicates, question_words
from compact_hf.methods.row_kind import MAX_SIMILARITY
from compact_hf.records import Turn


def make_turn(question: str, answer: str = "red") -> Turn:
    return Turn(question, answer, ("color",), ("color",), 90)


def is_repeat(question: str, earlier: str, *, answer: str = "red", max_similarity: float = MAX_SIMILARITY) -> bool:
    """Whether a question with the answer `red` is dropped after an earlier question with `answer`."""
    near_duplicates = NearDuplicates(max_similarity)
    assert near_duplicates.add_new([make_turn(earlier, answer)], min_turns=1) == [None]
    return near_duplicates.add_new([make_turn(question)], min_turns=1) != [None]


def compare_pairwise(images: list[list[Turn]], max_similarity: float, min_turns: int) -> list[list[bool]]:
    """Return for each turn of each image whether it repeats a kept one, by comparing it with all of them."""
    kept_turns: list[Turn] = []
    results = []
    for turns in images:
        repeated = [
            any(is_same_question(turn, kept_turn, max_similarity) for kept_turn in kept_turns) for turn in turns
        ]
        results.append(repeated)
        if repeated.count(False) >= min_turns:
            kept_turns += [turn for turn, is_repeated in zip(turns, repeated, strict=True) if not is_repeated]
    return results


def is_same_question(turn_a: Turn, turn_b: Turn, max_similarity: float) -> bool:
    if not normalise(turn_a.answer) or normalise(turn_a.answer) != normalise(turn_b.answer):
        return False
    first, second = question_words(turn_a.question), question_words(turn_b.question)
    if first == second:
        return max_similarity < 1
    common = LCSseq.similarity(first, second)
    return Fraction(2 * common, len(first) + len(second)) > Fraction(str(max_similarity))


QUESTIONS = st.lists(st.sampled_from(["what", "color", "bus", "left", "The", "dogs", "dog", "?"]), max_size=12)
TURNS = st.builds(make_turn, QUESTIONS.map(" ".join), st.sampled_from(["red", "the Red.", "blue", "?"]))
IMAGES = st.lists(st.lists(TURNS, max_size=3), max_size=14)


@given(IMAGES, st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0]), st.integers(1, 2))
def test_what_repeats_is_what_comparing_each_with_each_finds(
    images: list[list[Turn]], max_similarity: float, fewest: int
) -> None:
    near_duplicates = NearDuplicates(max_similarity)
    results = [[match is not None for match in near_duplicates.add_new(turns, min_turns=fewest)] for turns in images]
    assert results == compare_pairwise(images, max_similarity, fewest)


@given(IMAGES, st.sampled_from([0.0, 0.5, 0.8, 0.9]), st.integers(0, 8))
def test_words_beyond_those_that_utf_8_has_numbers_for_repeat_as_others_do(
    images: list[list[Turn]], max_similarity: float, max_code_point: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compact_hf.methods.near_duplicates._MAX_CODE_POINT", max_code_point)
        near_duplicates = NearDuplicates(max_similarity)
        results = [[match is not None for match in near_duplicates.add_new(turns, min_turns=1)] for turns in images]
    assert results == compare_pairwise(images, max_similarity, 1)


@pytest.mark.parametrize("first", [0xD7FA, 0xDFFA, 0xFFFA])
def test_words_are_told_apart_however_many_there_are(first: int) -> None:
    near_duplicates = NearDuplicates()
    near_duplicates.add_new([make_turn(" ".join(f"word{number}" for number in range(70_000)))], min_turns=2)
    words = [f"word{number}" for number in range(first, first + 12)]
    near_duplicates.add_new([make_turn(" ".join(words))], min_turns=1)
    turns = [make_turn(" ".join(text)) for text in ([*words, "more"], [*words[:10], "word1", "word2"])]
    assert near_duplicates.add_new(turns, min_turns=3) == [" ".join(words), None]


def test_as_much_is_found_when_the_table_of_words_has_grown() -> None:
    """The table starts with 2 buckets and must grow.

    A thousand questions come again: unchanged, with one word exchanged, and with one word added.
    """
    rng = random.Random(0)
    questions = [[f"word{int(60_000 ** rng.random())}" for _ in range(10)] for _ in range(1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compact_hf.methods.near_duplicates._MIN_BUCKETS", 2)
        near_duplicates = NearDuplicates()
    for words in questions:
        near_duplicates.add_new([make_turn(" ".join(words))], min_turns=1)
    for words in questions:
        exchanged, longer = [*words[:4], "another", *words[5:]], [*words[:4], "another", *words[4:]]
        turns = [make_turn(" ".join(text)) for text in (words, exchanged, longer)]
        assert near_duplicates.add_new(turns, min_turns=4) == [" ".join(words), None, " ".join(words)]


def test_of_several_that_are_repeated_the_nearest_in_length_and_then_the_earliest_is_named() -> None:
    near_duplicates = NearDuplicates(0.5)
    kept = ("one two three four five six", "one two three seven eight", "one two three nine ten")
    near_duplicates.add_new([make_turn(question) for question in kept], min_turns=1)
    assert near_duplicates.add_new([make_turn("one two three four zebra")], min_turns=1) == ["1 2 3 7 8"]


def test_the_same_wording_with_the_same_answer_is_dropped_however_it_is_written() -> None:
    assert is_repeat("What color is the bus?", "what color is a BUS")
    assert is_repeat("What color are the two dogs?", "What color are 2 dog")


def test_the_same_wording_with_another_answer_is_kept() -> None:
    assert not is_repeat("What color is the bus?", "What color is the bus?", answer="blue")


def test_the_order_of_words_counts() -> None:
    assert not is_repeat("Is the dog left of the cat?", "Is the cat left of the dog?")


@pytest.mark.parametrize("count", range(5, 11))
def test_of_five_to_ten_words_one_more_repeats_and_one_exchanged_does_not(count: int) -> None:
    words = "which side of man in green coat is parked bus".split()[:count]
    assert is_repeat(" ".join([*words[:3], "young", *words[3:]]), " ".join(words))
    assert is_repeat(" ".join(words), " ".join([*words[:3], "young", *words[3:]]))
    assert not is_repeat(" ".join([*words[:3], "girl", *words[4:]]), " ".join(words))


def test_a_reject_names_what_is_repeated() -> None:
    near_duplicates = NearDuplicates()
    near_duplicates.add_new([make_turn("What color is the bus?")], min_turns=1)
    assert near_duplicates.add_new([make_turn("what color is the bus"), make_turn("Which?")], min_turns=1) == [
        "what color is bus",
        None,
    ]


def test_questions_of_one_image_are_not_held_against_each_other() -> None:
    assert NearDuplicates().add_new([make_turn("What color is the bus?")] * 2, min_turns=1) == [None, None]


def test_an_image_that_is_dropped_for_want_of_questions_is_held_against_nobody() -> None:
    near_duplicates = NearDuplicates()
    near_duplicates.add_new([make_turn("What color is the bus?"), make_turn("Who is there?")], min_turns=2)
    assert near_duplicates.add_new([make_turn("What color is the bus?"), make_turn("Where?")], min_turns=2) == [
        "what color is bus",
        None,
    ]
    assert near_duplicates.add_new([make_turn("Where?")], min_turns=1) == [None]


def test_one_keeps_all() -> None:
    assert not is_repeat("What color is the bus?", "What color is the bus?", max_similarity=1)


@pytest.mark.parametrize("wrong", [-0.1, 1.01, 90.0, float("nan")])
def test_what_is_no_share_is_refused(wrong: float) -> None:
    with pytest.raises(UsageError, match=r"--max-similarity .* is out of range: give a number from 0 to 1"):
        NearDuplicates(wrong)
