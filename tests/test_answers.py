from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Final

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from compact_hf.answers import is_uninformative, normalise, same_answer, word_overlap

NOUNS: Final[dict[str, dict[str, str]]] = yaml.safe_load(
    (Path(__file__).parent / "nouns.yaml").read_text(encoding="utf-8")
)
number_words = st.lists(
    st.sampled_from(
        "zero one nine ten twelve twenty fifty hundred thousand million and 2 2.5 -$3 a ones u.s. 匹".split()
    ),
    max_size=8,
).map(" ".join)
plural_words = st.from_regex(r"[a-z]{1,4}(s|es|ies|ves|men|sses|zzes|ches|oes|us|is|y|e|f)", fullmatch=True)
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
        ("−3", "-3"),
        ("(-3)", "-3"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("T-shirt", "t shirt"),
        ("T‑shirt", "t shirt"),
        ("10-20", "10 20"),
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
        ("...", "..."),
        ("", ""),
        ("twenty one", "21"),
        ("Twenty-One dogs", "21 dog"),
        ("one hundred and five", "105"),
        ("a hundred", "100"),
        ("hundreds", "hundreds"),
        ("two thousand and six", "2006"),
        ("three hundred thousand", "300000"),
        ("one million two hundred and three thousand four hundred fifty-six", "1203456"),
        ("2 million", "2000000"),
        ("$2.5 million", "$2500000"),
        ("12.5 hundred", "1250"),
        ("1.2345 thousand", "1234.5"),
        ("two three", "2 3"),
        ("five and six", "5 and 6"),
        ("a hundred and", "100 and"),
        ("two hundred and five hundred", "200 and 500"),
        ("twelve hundred", "1200"),
        ("zero hundred", "0 100"),
        ("one thousand zero", "1000 0"),
        ("-2 million", "-2000000"),
        ("twenty first", "20 first"),
        ("ones", "ones"),
        ("3 hundred and five", "300 and 5"),
        ("-$1.2 million", "-$1200000"),
        ("-€5", "-€5"),
        ("5-$10", "5 $10"),
        ("the 1980's", "1980s"),
        ("9:00 a.m.", "9:00 am"),
        ("9:00a.m.", "9:00am"),
        ("the U.S. Army", "us army"),
        ("www.b.com", "www b com"),
        ("St. Louis", "st louis"),
        ("No.5", "no 5"),
        ("three 匹", "3匹"),
        ("〜5", "5"),
    ],
)
def test_normal_form(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


@given(st.one_of(words, number_words, st.text()))
@example("thes")
@example("ones")
@example("ass")
@example("a_-b")
@example("x-s")
@example("_’s")
@example("firemens")
@example("狗 -5")
@example("狗s 5")
@example("ŉ")
@example("--$5")
@example("a'\u0301")
@example("狗 a -$5 one 匹")
@example("u.s.a.b.com a.n")
def test_normalising_twice_changes_nothing(answer: str) -> None:
    assert normalise(normalise(answer)) == normalise(answer)


@given(st.one_of(words, st.text()))
def test_only_a_blank_answer_becomes_nothing(answer: str) -> None:
    is_visible = any(unicodedata.category(character)[0] in "LMNPS" for character in answer)
    if is_visible and not re.search("[\ufe00-\ufe0f]", answer):
        assert normalise(answer)
        assert same_answer(answer, answer)
    if not answer.strip():
        assert not normalise(answer)
        assert not same_answer(answer, answer)


@given(words)
def test_case_and_outer_space_never_count(answer: str) -> None:
    assert normalise(f"  {answer.upper()} ") == normalise(answer.lower())


@given(st.one_of(words, plural_words), st.one_of(words, plural_words))
def test_the_order_of_two_answers_does_not_matter(one: str, other: str) -> None:
    assert same_answer(one, other) is same_answer(other, one)
    # Answers are grouped by their normal form, so that a group has nothing that is not the same.
    assert same_answer(one, other) or normalise(one) != normalise(other) or not normalise(one)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2", "Two", True),
        ("the dogs", "dog", True),
        ("grey cat", "gray cat", False),
        ("left", "right", False),
        ("3.5", "35", False),
        (".5", "5", False),
        ("-3", "3", False),
        ("", "", False),
        ("?", "?", True),
        ("?", "!", False),
        ("?", "", False),
        ("→", " → ", True),
        ("→", "←", False),
        ("🐶", "🐶", True),
        ("❤\ufe0f", "❤", True),
        ("？", "?", True),
        ("T-shirt", "t shirt", True),
        ("twenty one", "21", True),
        ("persons", "people", True),
        ("caddies", "caddy", True),
        ("caddies", "caddie", True),
        ("caddy", "caddie", False),
        ("café", "cafe\u0301", True),
        ("café", "cafe", False),
        ("हिन्दी", "हिन्दी", True),
        ("की", "का", False),
        ("किताब", "कताब", False),
        ("ＳＴＯＰ　１２", "stop 12", True),
        ("२१", "21", True),
        ("ｶﾞﾗｽ", "ガラス", True),
        ("红 色", "红色", True),
        ("2 只 狗", "2只狗", True),
        ("あ か い", "あかい", True),
        ("红 -5", "红 5", False),
        ("빨간 색", "빨간색", False),
        ("10²", "102", False),
        ("1½", "11/2", False),
        ("-$5", "$5", False),
        ("1980's", "1980s", True),
        ("MP3's", "MP3", True),
        ("U.S.A.", "USA", True),
        ("U.S.A.", "U.S.", False),
        ("1,000 匹", "1000匹", True),
        ("1,000ft", "1000ft", True),
        ("axes", "axis", True),
        ("bases", "basis", True),
        ("taxes", "taxis", False),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e007f", "🏴\U000e0067\U000e0062\U000e0073\U000e007f", False),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e007f", "🏴", False),
    ],
)
def test_same_answer(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


@pytest.mark.parametrize("group", ["coco", "common"])
def test_a_noun_is_the_same_as_its_plural_and_as_no_other_noun(group: str) -> None:
    nouns = NOUNS[group]
    assert len(nouns) >= {"coco": 80, "common": 200}[group]
    forms: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for noun, plural in nouns.items():
        assert same_answer(noun, plural)
        assert normalise(noun) == normalise(plural)
        for form in (noun, plural):
            forms[form[:2]].add((noun, form))
    for same_beginning in forms.values():
        for (noun, form), (other, other_form) in combinations(same_beginning, 2):
            assert same_answer(form, other_form) is (noun == other)
    assert len({normalise(noun) for noun in nouns}) == len(nouns)


@pytest.mark.parametrize(("word", "other"), NOUNS["no_plurals"].items())
def test_a_word_that_only_looks_like_a_plural_is_not_the_other_word(word: str, other: str) -> None:
    assert not same_answer(word, other)
    assert normalise(word) != normalise(other)


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
        ("किस रंग की कार है?", "किस", 0.2),
        ("काला", "कील", 0.0),
    ],
)
def test_word_overlap(question: str, other: str, share: float) -> None:
    assert word_overlap(question, other) == pytest.approx(share)


@given(words, words)
def test_overlap_is_a_share_of_the_first_questions_words(question: str, other: str) -> None:
    share = word_overlap(question, other)
    assert 0 <= share <= 1
    assert word_overlap(question, f"{other} {question}") == (1.0 if word_overlap(question, question) else 0.0)
