"""Tests the entropy of answers: values computed by hand, and that knowing the type never increases it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.evaluation.analysis.text_only import entropy, group_by_combination, group_by_opening
from tests.evaluation.analysis.samples import make_question


def test_entropy_is_in_bits() -> None:
    assert entropy([]) == entropy([7]) == 0
    assert entropy([1, 1]) == 1
    assert entropy([2, 2, 2, 2]) == 2
    assert entropy([3, 1]) == pytest.approx(0.811278)
    assert entropy([5, 0]) == 0


def test_types_are_the_first_two_words_in_small_letters() -> None:
    breakdown = group_by_opening(
        [
            make_question(1, "How many cats?", "2"),
            make_question(2, "how Many dogs are there", "3"),
            make_question(3, "How is it?", "good"),
            make_question(4, "Where?", "left"),
            make_question(5, "How many are left?", "2"),
            make_question(6, "How many?", ""),
        ]
    )
    assert [
        (question_type.name, question_type.questions, question_type.different, question_type.most)
        for question_type in breakdown.types
    ] == [
        ("how many", 3, 2, "2"),
        ("how is", 1, 1, "good"),
        ("where", 1, 1, "left"),
    ]
    assert breakdown.types[0].entropy == pytest.approx(0.918296)
    assert breakdown.types[0].most_share == pytest.approx(2 / 3)
    assert breakdown.mean_entropy == pytest.approx(0.6 * 0.918296)
    assert breakdown.most_share == pytest.approx(4 / 5)


def test_types_are_the_capabilities_too() -> None:
    breakdown = group_by_combination(
        [make_question(1, "?", "a", "color", "shape"), make_question(2, "?", "b", "color", "shape")]
    )
    assert [(question_type.name, question_type.entropy, question_type.most) for question_type in breakdown.types] == [
        ("color+shape", 1, "a")
    ]


@given(st.lists(st.tuples(st.sampled_from(["what is", "who is", "how many"]), st.sampled_from("abcd")), min_size=1))
def test_knowing_the_type_never_leaves_more_bits(told: list[tuple[str, str]]) -> None:
    questions = [make_question(number, question, answer) for number, (question, answer) in enumerate(told)]
    before = entropy(Counter(answer for _, answer in told).values())
    assert -1e-9 <= group_by_opening(questions).mean_entropy <= before + 1e-9


def test_no_answers_are_no_types() -> None:
    breakdown = group_by_opening([make_question(1, "What?", "")])
    assert (breakdown.types, breakdown.mean_entropy, breakdown.most_share) == ((), 0, 0)
