"""Tests selections: exact numbers, nesting, the requested k and capabilities, and a card that describes them."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES
from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.schema import get_split
from compact_hf.dataset.validate import validate
from compact_hf.errors import ReleaseError, UnknownCapabilityError, UsageError
from compact_hf.methods.compact.catalog import Positions
from compact_hf.methods.compact.sampling import Combination
from compact_hf.methods.compact.selection import LLAVA_K_SHARES, Selection, count_by_k, select_questions
from compact_hf.methods.compact.statistics import QuestionStatistics
from compact_hf.methods.generate import generate
from compact_hf.records import digest

Images = dict[str, tuple[Combination, ...]]


@st.composite
def catalogs(draw: st.DrawFn) -> Images:
    """Draw images of k = 1, 2 or 3, each with two or three questions.

    Hypothesis draws only the seed: hundreds of draws per example would take longer than the code under test.
    """
    rng = random.Random(draw(st.integers(0, 2**32)))
    images: Images = {}
    for number in range(rng.randint(60, 90)):
        k = rng.randint(1, 3)
        questions = (tuple(rng.sample(tuple(CAPABILITIES), k)) for _ in range(rng.randint(2, 3)))
        images[digest("picture", number)] = tuple(questions)
    return images


def training_questions(images: Images, selected: dict[str, Positions]) -> set[tuple[str, int]]:
    """Return each selected training question as (image, position)."""
    training_ids = (candidate for candidate in selected if get_split("compact", candidate) == "train")
    return {(image_id, index) for image_id in training_ids for index in selected[image_id]}


@given(catalogs(), st.integers(1, 60), st.integers(0, 60), st.sampled_from(({}, LLAVA_K_SHARES)), st.booleans())
def test_a_number_is_met_exactly_and_a_smaller_selection_lies_in_a_larger_one(
    images: Images, size: int, more: int, shares: dict[int, float], by_question: bool
) -> None:
    unit = "questions" if by_question else "conversations"
    try:
        small, large = (
            select_questions(images, Selection(k_shares=shares, **{unit: count})) for count in (size, size + more)
        )
    except ReleaseError:
        return
    for selected, count in ((small, size), (large, size + more)):
        questions = training_questions(images, selected)
        assert len(questions if by_question else {image_id for image_id, _ in questions}) == count
        assert count_by_k(images, selected).total() == len(questions)
    assert training_questions(images, small) <= training_questions(images, large)
    assert small.keys() <= large.keys()


@given(catalogs(), st.sampled_from(tuple(CAPABILITIES)))
def test_without_a_capability_no_question_needs_it_and_no_other_is_lost_alone(images: Images, name: str) -> None:
    selected = select_questions(images, Selection(without=(name,)))
    assert not any(name in images[image_id][index] for image_id, positions in selected.items() for index in positions)
    for image_id, questions in images.items():
        remaining = [index for index, capabilities in enumerate(questions) if name not in capabilities]
        assert list(selected.get(image_id, ())) == (remaining if len(remaining) >= 2 else [])


@given(catalogs())
def test_shares_by_k_are_met_as_nearly_as_whole_numbers_can_and_use_all_there_is(images: Images) -> None:
    selection = Selection(k_shares=LLAVA_K_SHARES)
    counts = count_by_k(images, select_questions(images, selection))
    available = count_by_k(images, {image_id: tuple(range(len(questions))) for image_id, questions in images.items()})
    for k, share in LLAVA_K_SHARES.items():
        assert abs(counts[k] - share * counts.total()) < 2
    assert any(counts[k] == available[k] for k in LLAVA_K_SHARES)


def test_a_small_share_is_rounded_as_a_large_one_is() -> None:
    """0.8 and 7.2 conversations become one and seven; methods that favor large shares would give none and eight."""
    images = {digest("picture", number): (tuple(CAPABILITIES)[: 1 + number % 2],) * 2 for number in range(60)}
    selected = select_questions(images, Selection(k_shares={1: 0.9, 2: 0.1}, conversations=8))
    training = {image_id for image_id, _ in training_questions(images, selected)}
    assert Counter(len(images[image_id][0]) for image_id in training) == {1: 7, 2: 1}


def test_the_shares_are_those_of_the_paper() -> None:
    assert sum(k * share for k, share in LLAVA_K_SHARES.items()) == pytest.approx(1.95)
    assert LLAVA_K_SHARES[1] + LLAVA_K_SHARES[2] == pytest.approx(0.77)


def test_another_seed_draws_others() -> None:
    images = {digest("picture", number): (("color",), ("shape",)) for number in range(100)}
    selections = [select_questions(images, Selection(questions=40, seed=seed)) for seed in (0, 0, 1)]
    assert selections[0] == selections[1] != selections[2]


def test_too_few_are_told_with_how_many() -> None:
    images = {digest("picture", number): (("color",), ("shape",)) for number in range(10)}
    available = len(training_questions(images, select_questions(images, Selection())))
    with pytest.raises(ReleaseError, match=f"100 requested, {available} available, {100 - available} missing"):
        select_questions(images, Selection(questions=100))
    with pytest.raises(ReleaseError, match="of k = 2 requested, 0 available"):
        select_questions(images, Selection(questions=10, k_shares={1: 0.5, 2: 0.5}))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ks": (0,)}, "k is 1 to 10"),
        ({"k_shares": {1: 0.5, 2: 0.4}}, "add up to 1"),
        ({"k_shares": {1: 1.5, 2: -0.5}}, "add up to 1"),
        ({"ks": (1,), "k_shares": {1: 1.0}}, "not both"),
        ({"questions": 3, "conversations": 2}, "not both"),
        ({"questions": 0}, "1 or more"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Selection(**wrong)  # type: ignore[arg-type]


def test_an_unknown_capability_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownCapabilityError, match="did you mean color"):
        Selection(without=("colour",))


def test_a_release_of_a_selection_is_valid_has_the_number_and_says_what_it_is(tmp_path: Path) -> None:
    from datasets import load_dataset

    generate("scenes:120", tmp_path / "run")
    select = Selection(ks=(1, 2), without=("text_recognition",), questions=51, seed=4)
    release, unselected = tmp_path / "release", tmp_path / "again"
    stats = assemble(tmp_path / "run", release, version="1.0.0", max_similarity=1, select=select)
    assert validate(release).counts == {}
    turns = list(chain.from_iterable(load_dataset(str(release), "compositional", split="train")["turns"]))
    assert len(turns) == 51
    assert {len(turn["capabilities"]) for turn in turns} == {1, 2}
    assert "text_recognition" not in Counter(chain.from_iterable(turn["capabilities"] for turn in turns))
    card = (release / "README.md").read_text(encoding="utf-8")
    assert (
        "**This dataset contains only a selected part** of the data that was made: questions of k = 1, 2 only; no"
        in card
    )
    assert "51 questions for training, drawn with seed 4" in card
    all_stats = assemble(tmp_path / "run", unselected, version="1.0.0", max_similarity=1)
    assert (
        stats.rejects["assembly", "not selected"]
        == all_stats.get_statistics(QuestionStatistics).questions_by_k.total()
        - stats.get_statistics(QuestionStatistics).questions_by_k.total()
    )
    assert "only a selected part" not in (unselected / "README.md").read_text(encoding="utf-8")


def test_the_command_takes_a_part_and_says_what_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, release = str(tmp_path / "run"), str(tmp_path / "release")
    generate("scenes:30", run)
    options = ["--k", "1,2", "--without", "counting", "--keep-similar"]
    assert main(["assemble", run, "--out", release, "--version", "1.0.0", *options, "--conversations", "3"]) == 0
    card = (tmp_path / "release" / "README.md").read_text(encoding="utf-8")
    assert "k = 1, 2 only; no questions that need counting; 3 conversations for training" in card
    assert main(["assemble", run, "--out", release, "--version", "1.0.0", *options, "--questions", "3000"]) == 1
    assert "missing): process more images, or select fewer" in capsys.readouterr().err
