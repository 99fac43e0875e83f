"""Tests that one network with base and adapter gives the same answers as the two separate models."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from compact_hf import copy_student
from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import UsageError
from compact_hf.evaluation.inference import Student
from compact_hf.evaluation.side_by_side import Answer, SideBySide
from compact_hf.images.codec import ImageError
from compact_hf.scenes.source import SceneSource

QUESTION = "What color is the cat?"
PROMPT = f"{QUESTION}\n{SHORT_ANSWER_INSTRUCTION}"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return copy_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def both(student: tuple[Path, Path]) -> SideBySide:
    return SideBySide(adapter=str(student[1]))


@pytest.fixture(scope="module")
def picture() -> bytes:
    return SceneSource(3, 4).read("scene:3")


def test_each_side_says_what_its_model_says_alone(student: tuple[Path, Path], both: SideBySide, picture: bytes) -> None:
    alone = [Student(str(model)).answer([(picture, PROMPT)], max_new_tokens=24)[0] for model in student]
    *_, last = both.stream(picture, QUESTION, max_new_tokens=24, seconds=600)
    assert both.sides == ("base", "tuned")
    assert [answer.text for answer in last] == alone
    assert alone[0] != alone[1]


def test_answers_grow_in_turn(both: SideBySide, picture: bytes) -> None:
    steps = list(both.stream(picture, QUESTION, max_new_tokens=24, seconds=600))
    for before, after in pairwise(steps):
        assert sum(earlier != later for earlier, later in zip(before, after, strict=True)) <= 1
        assert all(len(later.text) >= len(earlier.text) for earlier, later in zip(before, after, strict=True))
    assert {answer.finish_reason for answer in steps[0]} == {""}
    assert {answer.finish_reason for answer in steps[-1]} == {"done"}


def test_an_answer_that_takes_too_long_is_stopped_and_says_so(both: SideBySide, picture: bytes) -> None:
    *_, last = both.stream(picture, QUESTION, max_new_tokens=24, seconds=0)
    assert [answer.finish_reason for answer in last] == ["time", "time"]
    assert all(answer.text for answer in last)


def test_a_long_answer_is_cut_and_says_so(both: SideBySide, picture: bytes) -> None:
    *_, last = both.stream(picture, QUESTION, max_new_tokens=2, seconds=600)
    assert last[0].finish_reason == "length"


def test_a_whole_model_stands_alone(student: tuple[Path, Path], picture: bytes) -> None:
    whole = SideBySide(str(student[0]))
    *_, last = whole.stream(picture, QUESTION, max_new_tokens=2, seconds=600)
    assert whole.sides == ("tuned",)
    assert len(last) == 1
    assert isinstance(last[0], Answer)


def test_an_adapter_may_be_named_as_the_model(student: tuple[Path, Path]) -> None:
    assert SideBySide(str(student[1])).sides == ("base", "tuned")


def test_what_is_no_picture_is_refused(both: SideBySide) -> None:
    with pytest.raises(ImageError):
        next(both.stream(b"no picture", QUESTION, max_new_tokens=2, seconds=600))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing-here"):
        SideBySide(str(tmp_path / "nothing-here"))
