"""Entropy of answers: worked out by hand, and what knowing a question's type can never do."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.evaluation.analysis.text_only import entropy, group_by_combination, group_by_opening
from tests.evaluation.analysis.samples import sampled


def test_entropy_is_in_bits() -> None:
    assert entropy([]) == entropy([7]) == 0
    assert entropy([1, 1]) == 1
    assert entropy([2, 2, 2, 2]) == 2
    assert entropy([3, 1]) == pytest.approx(0.811278)
    assert entropy([5, 0]) == 0


def test_types_are_the_first_two_words_in_small_letters() -> None:
    found = group_by_opening(
        [
            sampled(1, "How many cats?", "2"),
            sampled(2, "how Many dogs are there", "3"),
            sampled(3, "How is it?", "good"),
            sampled(4, "Where?", "left"),
            sampled(5, "How many are left?", "2"),
            sampled(6, "How many?", ""),
        ]
    )
    assert [(one.name, one.questions, one.different, one.most) for one in found.types] == [
        ("how many", 3, 2, "2"),
        ("how is", 1, 1, "good"),
        ("where", 1, 1, "left"),
    ]
    assert found.types[0].entropy == pytest.approx(0.918296)
    assert found.types[0].most_share == pytest.approx(2 / 3)
    assert found.mean_entropy == pytest.approx(0.6 * 0.918296)
    assert found.most_share == pytest.approx(4 / 5)


def test_types_are_the_capabilities_too() -> None:
    found = group_by_combination([sampled(1, "?", "a", "color", "shape"), sampled(2, "?", "b", "color", "shape")])
    assert [(one.name, one.entropy, one.most) for one in found.types] == [("color+shape", 1, "a")]


@given(st.lists(st.tuples(st.sampled_from(["what is", "who is", "how many"]), st.sampled_from("abcd")), min_size=1))
def test_knowing_the_type_never_leaves_more_bits(told: list[tuple[str, str]]) -> None:
    questions = [sampled(at, question, answer) for at, (question, answer) in enumerate(told)]
    before = entropy(Counter(answer for _, answer in told).values())
    assert -1e-9 <= group_by_opening(questions).mean_entropy <= before + 1e-9


def test_no_answers_are_no_types() -> None:
    found = group_by_opening([sampled(1, "What?", "")])
    assert (found.types, found.mean_entropy, found.most_share) == ((), 0, 0)
