"""Tests which answers each matching rule accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import UsageError
from compact_hf.evaluation.scoring import SHORT_ANSWER_RULES, is_relaxed_match
from compact_hf.evaluation.task import choose_rule
from tests.evaluation.samples import COMPACT

EXACT, RELAXED = SHORT_ANSWER_RULES["exact"], SHORT_ANSWER_RULES["relaxed"]


def test_exact_is_after_normalising_only() -> None:
    assert EXACT.is_right("The red.", ["red"])
    assert EXACT.is_right("two", ["2"])
    assert not EXACT.is_right("red ball", ["red"])
    assert not EXACT.is_right("", [""])
    assert not EXACT.is_right("103", ["100"])


def test_any_of_the_right_answers_counts() -> None:
    assert EXACT.is_right("sofa", ["couch", "sofa"])
    assert not EXACT.is_right("chair", ["couch", "sofa"])
    assert not EXACT.is_right("chair", [])
    assert RELAXED.is_right("51", ["7", "50"])


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("105", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("94.9", "100", False),
        ("1,040", "1000", True),
        (".52", "0.5", True),
        ("The 52.", "50", True),
        ("-98", "-100", True),
        ("98", "-100", False),
        ("twenty", "19.5", True),
        ("5.2%", "5%", True),
        ("0.052", "5%", True),
        ("5", "5%", False),
        ("0.01", "0", False),
        ("0.0", "0", True),
        ("two dogs", "2 dog", True),
        ("Paris", "paris", True),
        ("nan", "100", False),
        ("9" * 400, "100", False),
        ("100", "9" * 400, False),
        ("", "", False),
    ],
)
def test_relaxed_takes_a_number_within_5_percent_of_the_right_one(prediction: str, answer: str, right: bool) -> None:
    assert is_relaxed_match(prediction, answer) is right
    assert RELAXED.is_right(prediction, [answer]) is right


@given(st.text(), st.lists(st.text(), max_size=3))
def test_relaxed_takes_all_that_exact_takes(prediction: str, answers: list[str]) -> None:
    assert RELAXED.is_right(prediction, answers) >= EXACT.is_right(prediction, answers)


def test_another_rule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"unknown matching 'relax'; the rules are exact and relaxed; did you mean"):
        choose_rule(COMPACT, "relax")


def test_without_a_name_it_is_the_first_rule_of_the_task() -> None:
    assert (choose_rule(COMPACT, None), choose_rule(COMPACT, "relaxed")) == ("exact", "relaxed")
