"""Tests counting: every question counts once, and the sample is bounded, has whole images and ignores the order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import UnknownCapabilityError
from compact_hf.evaluation.analysis.counting import QuestionCounts, QuestionSample
from compact_hf.evaluation.analysis.readers import LabelledQuestion, QuestionRow
from tests.evaluation.analysis.samples import make_question

hashes = st.integers(0, (1 << 64) - 1)


@given(st.lists(hashes, max_size=60), st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_sample_is_of_whole_pictures_and_the_same_in_every_order(
    pictures: list[int], limit: int, rng: random.Random
) -> None:
    questions = [make_question(image, f"{number}", "a") for number, image in enumerate(pictures)]
    first, second = QuestionSample(limit), QuestionSample(limit)
    for question in questions:
        first.add(question)
    for question in rng.sample(questions, len(questions)):
        second.add(question)
    sample = first.sorted_questions()
    assert sorted(sample) == sorted(second.sorted_questions())
    assert len(sample) <= limit
    assert len(sample) == len(questions) or len(questions) > limit
    sample_hashes = {question.image_hash for question in sample}
    assert len(sample) == sum(image in sample_hashes for image in pictures), "an image is incomplete"
    assert all(image > max(sample_hashes, default=-1) for image in set(pictures) - sample_hashes), (
        "not the lowest hashes"
    )


@given(st.lists(hashes, min_size=1, max_size=60), st.integers(1, 40))
def test_a_cut_ends_after_a_whole_picture(pictures: list[int], limit: int) -> None:
    sample = QuestionSample()
    for image in pictures:
        sample.add(make_question(image, "?", "a"))
    sample_hashes = [question.image_hash for question in sample.sorted_questions(limit)]
    assert sample_hashes == sorted(pictures)[: len(sample_hashes)]
    assert len(sample_hashes) >= min(limit, len(pictures))
    assert sample_hashes.count(sample_hashes[-1]) == pictures.count(sample_hashes[-1])
    assert len(sample_hashes) - sample_hashes.count(sample_hashes[-1]) < limit


def test_a_sample_of_many_pictures_is_about_half_full_at_least() -> None:
    sample = QuestionSample(1000)
    rng = random.Random(3)
    for _ in range(20_000):
        sample.add(make_question(rng.getrandbits(64), "?", "a"))
    assert 450 < len(sample.sorted_questions()) <= 1000


def test_rows_are_counted_and_those_that_nobody_judged_are_only_numbered() -> None:
    counts = QuestionCounts()
    counts.add_row(
        QuestionRow(
            "a",
            (
                LabelledQuestion("What color?", "Red", ("color",)),
                LabelledQuestion("How  many red ones?", "", ("counting", "color")),
            ),
        )
    )
    counts.add_row(QuestionRow("a", (LabelledQuestion("what COLOR", "blue", ("color",)),)))
    counts.add_row(QuestionRow("b", (LabelledQuestion("Where?", "at the left", ()),)))
    counts.add_row(QuestionRow("", ()))
    assert counts.combination_counts == {("color",): 2, ("color", "counting"): 1, (): 1}
    assert (counts.question_count, len(counts.image_hashes), len(counts.question_hashes), counts.unlabelled_rows) == (
        4,
        2,
        3,
        1,
    )
    assert counts.question_words == {2: 2, 4: 1, 1: 1}
    assert counts.answer_words == {1: 2, 3: 1}, "an answer that is empty has no length"
    assert sorted(question.answer for question in counts.sample.sorted_questions()) == ["", "at left", "blue", "red"]


def test_a_capability_that_is_none_of_the_ten_is_refused() -> None:
    with pytest.raises(UnknownCapabilityError, match="did you mean color"):
        QuestionCounts().add_row(QuestionRow("a", (LabelledQuestion("What colour?", "red", ("colour",)),)))
