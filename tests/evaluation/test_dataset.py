"""Questions come out of releases and reserved scenes, and out of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.dataset import questions_of, with_swapped_pictures
from compact_hf.images.look import image_id_of
from compact_hf.scenes.scene import EVALUATION_SEEDS
from tests.tuning.samples import release, row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(tmp_path_factory.mktemp("release") / "drawn", rows=40, text_rows=2)


def test_every_turn_of_the_compositional_part_is_one_question_with_its_own_picture(folder: Path) -> None:
    asked = [one for split in ("train", "validation") for one in questions_of(str(folder), split=split).questions]
    expected = {
        f"{made.id}#{index}": (turn.question, (turn.answer,), made.k, turn.capabilities, made.image_id, made.image_id)
        for made in map(row, range(40))
        for index, turn in enumerate(made.turns)
    }
    found = {
        one.id: (one.question, one.answers, one.k, one.capabilities, one.picture, image_id_of(one.read_picture()))
        for one in asked
    }
    assert found == expected


def test_validation_is_asked_unless_train_is(folder: Path) -> None:
    validation, train = questions_of(str(folder)), questions_of(str(folder), split="train")
    assert validation.name == "drawn (compositional, validation)"
    assert 0 < len(validation.questions) < len(train.questions)
    assert validation.identity != train.identity
    assert questions_of(str(folder)).identity == validation.identity


def test_scenes_are_the_reserved_ones_and_the_same_every_time() -> None:
    asked = questions_of("scenes:5")
    assert {int(one.id.removeprefix("scene:").split("#")[0]) for one in asked.questions} == set(EVALUATION_SEEDS[:5])
    assert {one.k for one in asked.questions} == {1, 2, 3}
    assert all(len(one.capabilities) == one.k for one in asked.questions)
    assert asked.questions[0].read_picture().startswith(b"\x89PNG")
    assert asked.identity == questions_of("scenes:5").identity


def test_swapped_pictures_are_other_pictures_of_the_same_questions() -> None:
    asked = questions_of("scenes:4")
    swapped = with_swapped_pictures(asked)
    assert [one.question for one in swapped.questions] == [one.question for one in asked.questions]
    pictures = [[one.read_picture() for one in each.questions] for each in (asked, swapped)]
    assert all(mine != other for mine, other in zip(*pictures, strict=True))
    assert sorted(pictures[0]) == sorted(pictures[1])
    assert swapped.identity != asked.identity
    assert swapped.name.endswith("pictures swapped")


def test_more_scenes_ask_the_same_questions_first() -> None:
    assert (
        questions_of("scenes:4").questions
        == questions_of("scenes:6").questions[: len(questions_of("scenes:4").questions)]
    )


@pytest.mark.parametrize("dataset", ["scenes:0", "scenes:", "scenes:-3", "scenes:1-9", "scenes:many", "scenes:٣"])
def test_scenes_are_asked_for_by_number(dataset: str) -> None:
    with pytest.raises(EvaluationError, match="not scenes:N"):
        questions_of(dataset)


def test_a_data_set_without_our_columns_is_told(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "data").mkdir()
    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: compositional\n  data_files:\n  - split: validation\n    path: data/*\n---\n"
    )
    with pytest.raises(EvaluationError, match=r"has no column 'id' \(it has text\)"):
        questions_of(str(tmp_path))


@pytest.mark.parametrize("what", ["missing", "empty", "other", "without validation"])
def test_what_is_no_release_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "folder"
    if what == "without validation":
        release(folder, rows=1)
    elif what != "missing":
        folder.mkdir()
    if what == "other":
        (folder / "notes.txt").write_text("hello")
    with pytest.raises(EvaluationError, match="cannot be read as a release") as caught:
        questions_of(str(folder))
    assert "\n" not in str(caught.value)
