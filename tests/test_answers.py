from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compact_hf.answers import is_uninformative, normalise, same_answer, word_overlap

words = st.text(st.sampled_from("abestwo 0123456789.,'’-_+:%$ THEanysé"), max_size=24)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The two Dogs.", "2 dog"),
        ("  RED  ", "red"),
        ("a", "a"),
        ("An apple", "apple"),
        ("twenty", "20"),
        ("1,250", "1250"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("No. 7", "no 7"),
        ("12:30", "12:30"),
        ("Time: noon", "time noon"),
        ("50%", "50%"),
        ("$5", "$5"),
        ("-3", "-3"),
        ("t-shirt", "t-shirt"),
        ("left - right", "left right"),
        ("cherries", "cherry"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("tennis", "tennis"),
        ("canvas", "canvas"),
        ("women", "woman"),
        ("children", "child"),
        ("shelves", "shelf"),
        ("the dog's bowl", "dog bowl"),
        ("the dog's", "dog"),
        ("can't", "cant"),
        ("can’t", "cant"),
        ("red, white and blue", "red white and blue"),
        ("STOP!", "stop"),
        ("the", "the"),
        ("...", ""),
        ("", ""),
    ],
)
def test_normal_form(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


@given(words)
@example("thes")
@example("ones")
@example("ass")
@example("a_-b")
@example("x-s")
@example("_’s")
def test_normalising_twice_changes_nothing(answer: str) -> None:
    assert normalise(normalise(answer)) == normalise(answer)


@given(words)
def test_only_what_has_no_letter_and_no_digit_becomes_nothing(answer: str) -> None:
    if any(character.isalnum() for character in answer):
        assert normalise(answer)


@given(words)
def test_case_and_outer_space_never_count(answer: str) -> None:
    assert normalise(f"  {answer.upper()} ") == normalise(answer.lower())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2", "Two", True),
        ("the dogs", "dog", True),
        ("grey cat", "gray cat", False),
        ("left", "right", False),
        ("3.5", "35", False),
        ("-3", "3", False),
        ("", "", False),
        ("?", "!", False),
    ],
)
def test_same_answer(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


@pytest.mark.parametrize(
    "answer",
    ["Unknown", "unknown.", "N/A", "n.a.", "None", "not visible", "It is unclear", "It is not clear.", "Can't tell",
     "can’t tell", "cannot be determined", "I don't know", "Not specified", "", "  ", "-"],
)  # fmt: skip
def test_answers_that_say_nothing(answer: str) -> None:
    assert is_uninformative(answer)


@pytest.mark.parametrize(
    "answer", ["no", "zero", "0", "not raining", "noon", "a clear sky", "nonesuch", "nylon", "NA-12"]
)
def test_answers_that_say_something(answer: str) -> None:
    assert not is_uninformative(answer)


@pytest.mark.parametrize(
    ("question", "other", "share"),
    [
        ("What color is the car?", "what COLOR is the car", 1.0),
        ("What color is the car?", "Where is a dog?", 0.2),
        ("red red red blue", "red", 0.5),
        ("left", "right", 0.0),
        ("", "anything", 0.0),
        ("anything", "?!", 0.0),
        ("the dog's bowl", "dog", 0.0),
    ],
)
def test_word_overlap(question: str, other: str, share: float) -> None:
    assert word_overlap(question, other) == pytest.approx(share)


@given(words, words)
def test_overlap_is_a_share_of_the_first_questions_words(question: str, other: str) -> None:
    share = word_overlap(question, other)
    assert 0 <= share <= 1
    assert word_overlap(question, f"{other} {question}") == (1.0 if word_overlap(question, question) else 0.0)
