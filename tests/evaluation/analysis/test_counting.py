"""Counting: every question once, and a bounded sample of whole pictures that depends on nothing but the questions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import UnknownCapabilityError
from compact_hf.evaluation.analysis.counting import Counts, Sample
from compact_hf.evaluation.analysis.readers import Asked, Row
from tests.evaluation.analysis.samples import sampled

hashes = st.integers(0, (1 << 64) - 1)


@given(st.lists(hashes, max_size=60), st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_sample_is_of_whole_pictures_and_the_same_in_every_order(
    pictures: list[int], limit: int, rng: random.Random
) -> None:
    offered = [sampled(picture, f"{at}", "a") for at, picture in enumerate(pictures)]
    one, other = Sample(limit), Sample(limit)
    for question in offered:
        one.offer(question)
    for question in rng.sample(offered, len(offered)):
        other.offer(question)
    kept = one.questions()
    assert sorted(kept) == sorted(other.questions())
    assert len(kept) <= limit
    assert len(kept) == len(offered) or len(offered) > limit
    of_kept = {question.picture for question in kept}
    assert len(kept) == sum(picture in of_kept for picture in pictures), "a picture was cut"
    assert all(picture > max(of_kept, default=-1) for picture in set(pictures) - of_kept), "not the lowest hashes"


@given(st.lists(hashes, min_size=1, max_size=60), st.integers(1, 40))
def test_a_cut_ends_after_a_whole_picture(pictures: list[int], limit: int) -> None:
    sample = Sample()
    for picture in pictures:
        sample.offer(sampled(picture, "?", "a"))
    kept = [question.picture for question in sample.questions(limit)]
    assert kept == sorted(pictures)[: len(kept)]
    assert len(kept) >= min(limit, len(pictures))
    assert kept.count(kept[-1]) == pictures.count(kept[-1])
    assert len(kept) - kept.count(kept[-1]) < limit


def test_a_sample_of_many_pictures_is_about_half_full_at_least() -> None:
    sample = Sample(1000)
    rng = random.Random(3)
    for _ in range(20_000):
        sample.offer(sampled(rng.getrandbits(64), "?", "a"))
    assert 450 < len(sample.questions()) <= 1000


def test_rows_are_counted_and_those_that_nobody_judged_are_only_numbered() -> None:
    counts = Counts()
    counts.row(
        Row("a", (Asked("What color?", "Red", ("color",)), Asked("How  many red ones?", "", ("counting", "color"))))
    )
    counts.row(Row("a", (Asked("what COLOR", "blue", ("color",)),)))
    counts.row(Row("b", (Asked("Where?", "at the left", ()),)))
    counts.row(Row("", ()))
    assert counts.needed == {("color",): 2, ("color", "counting"): 1, (): 1}
    assert (counts.questions, len(counts.pictures), len(counts.texts), counts.unlabelled) == (4, 2, 3, 1)
    assert counts.question_words == {2: 2, 4: 1, 1: 1}
    assert counts.answer_words == {1: 2, 3: 1}, "an answer that is empty has no length"
    assert sorted(one.answer for one in counts.sample.questions()) == ["", "at left", "blue", "red"]


def test_a_capability_that_is_none_of_the_ten_is_refused() -> None:
    with pytest.raises(UnknownCapabilityError, match="did you mean color"):
        Counts().row(Row("a", (Asked("What colour?", "red", ("colour",)),)))
