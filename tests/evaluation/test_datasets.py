"""Tests reading questions from our datasets, from reserved scenes and from other datasets by named columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compact_hf.errors import CompactError, EvaluationError, UnknownCapabilityError, UsageError
from compact_hf.evaluation.questions import swap_images
from compact_hf.images.inspection import compute_image_id
from compact_hf.records import Loss
from compact_hf.scenes.scene import EVALUATION_SEEDS
from tests.evaluation.samples import load_questions
from tests.training.samples import draw_image, make_row, write_release


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "drawn", rows=40, text_rows=2)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows to a Parquet file; `pic` holds the bytes of an image."""
    from datasets import Dataset, Image, disable_progress_bars

    disable_progress_bars()
    records = [{**row, "pic": {"bytes": row["pic"], "path": None} if row["pic"] else None} for row in rows]
    Dataset.from_list(records).cast_column("pic", Image()).to_parquet(path)
    return str(path)


def test_every_turn_of_the_compositional_part_is_one_question_with_its_own_picture(folder: Path) -> None:
    questions = [
        question for split in ("train", "validation") for question in load_questions(str(folder), split=split).questions
    ]
    expected = {
        f"{sample_row.id}#{index}": (
            turn.question,
            (turn.answer,),
            sample_row.k,
            turn.capabilities,
            sample_row.image_id,
        )
        for sample_row in map(make_row, range(40))
        for index, turn in enumerate(sample_row.turns)
    }
    actual = {
        question.id: (
            question.question,
            question.answers,
            question.k,
            question.capabilities,
            compute_image_id(question.read_image()),
        )
        for question in questions
    }
    assert actual == expected
    assert all(question.image_id == compute_image_id(question.read_image()) for question in questions)


def test_validation_is_asked_unless_train_is(folder: Path) -> None:
    validation, train = load_questions(str(folder)), load_questions(str(folder), split="train")
    assert validation.name == "drawn (compositional, validation)"
    assert 0 < len(validation.questions) < len(train.questions)
    assert validation.identity != train.identity
    assert load_questions(str(folder)).identity == validation.identity


def test_another_config_is_asked_by_name_and_rows_without_a_picture_are_counted(folder: Path) -> None:
    everything = load_questions(str(folder), config="all", split="train")
    assert len(everything.questions) == len(load_questions(str(folder), split="train").questions)
    assert everything.losses == {"no picture": Loss(rows=2)}
    assert everything.notes == ("2 rows and 0 questions of drawn (all, train) skipped: no picture",)


def test_a_smaller_limit_asks_some_of_a_larger_one_of_every_k(folder: Path) -> None:
    whole, some, few = (load_questions(str(folder), split="train", limit=limit) for limit in (None, 30, 8))
    assert len(some.questions) == 30
    assert set(few.questions) < set(some.questions) < set(whole.questions)
    assert {question.k for question in some.questions} == {1, 2}
    assert [question for question in whole.questions if question in some.questions] == list(some.questions)
    assert len({whole.identity, some.identity, few.identity}) == 3


def test_scenes_are_the_reserved_ones_and_the_same_every_time() -> None:
    question_set = load_questions("scenes:8")
    assert {int(question.image_id.removeprefix("scene:")) for question in question_set.questions} == set(
        EVALUATION_SEEDS[:8]
    )
    assert {question.k for question in question_set.questions} == {1, 2, 3, 4, 5}
    assert all(len(question.capabilities) == question.k for question in question_set.questions)
    assert len({question.id for question in question_set.questions}) == len(question_set.questions)
    assert question_set.questions[0].read_image().startswith(b"\x89PNG")
    assert question_set.identity == load_questions("scenes:8").identity


def test_of_four_and_five_capabilities_a_scene_is_asked_up_to_three_different_combinations() -> None:
    questions = load_questions("scenes:12").questions
    for k in (4, 5):
        k_questions = [question for question in questions if question.k == k]
        by_scene = {
            question.image_id: [sibling for sibling in k_questions if sibling.image_id == question.image_id]
            for question in k_questions
        }
        assert max(map(len, by_scene.values())) == 3
        assert all(len({question.capabilities for question in group}) == len(group) for group in by_scene.values())
        # The least used combinations come first, so few combinations are repeated while others are unused.
        assert len({question.capabilities for question in k_questions}) > 0.8 * len(k_questions)


def test_swapped_pictures_are_other_pictures_of_the_same_questions() -> None:
    original = load_questions("scenes:3")
    swapped = swap_images(original)
    assert [question.question for question in swapped.questions] == [
        question.question for question in original.questions
    ]
    images = [[question.read_image() for question in question_set.questions] for question_set in (original, swapped)]
    assert all(before != after for before, after in zip(*images, strict=True))
    assert set(images[0]) == set(images[1])
    assert swapped.identity != original.identity
    assert swapped.name.endswith("pictures swapped")


def test_more_scenes_ask_the_same_questions_first() -> None:
    few = load_questions("scenes:4").questions
    assert few == load_questions("scenes:6").questions[: len(few)]


@pytest.mark.parametrize("dataset", ["scenes:0", "scenes:", "scenes:-3", "scenes:1-9", "scenes:many", "scenes:٣"])
def test_scenes_are_asked_for_by_number(dataset: str) -> None:
    with pytest.raises(UsageError, match="not scenes:N"):
        load_questions(dataset)


def test_a_data_set_of_one_question_a_row_is_asked_by_its_mapped_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "What is it?", "label": ["cat", "kitten"], "pic": draw_image("red"), "needs": ["shape", "color"]},
        {"query": "How many?", "label": ["3"], "pic": draw_image("blue"), "needs": None},
        {"query": "Where?", "label": [], "pic": draw_image("green"), "needs": None},
        {"query": "Which?", "label": ["left"], "pic": None, "needs": None},
    ]
    columns = {"question": "query", "answer": "label", "image": "pic", "capabilities": "needs"}
    question_set = load_questions(write_parquet(tmp_path / "asked.parquet", rows), columns=columns)
    first, second = question_set.questions
    assert (first.question, first.answers, first.k, first.capabilities) == (
        "What is it?",
        ("cat", "kitten"),
        2,
        ("color", "shape"),
    )
    assert (second.answers, second.k, second.capabilities) == (("3",), None, ())
    assert [question.read_image() for question in question_set.questions] == [draw_image("red"), draw_image("blue")]
    assert question_set.losses == {"no answer": Loss(questions=1), "no picture": Loss(1, 1)}


def test_a_file_of_ones_own_names_pictures_beside_it_and_what_most_people_answered_comes_first(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "red.png").write_bytes(draw_image("red"))
    (tmp_path / "secret.png").write_bytes(draw_image("blue"))
    answers = [{"answer": text} for text in ("crimson", "red", "red")]
    lines = [{"question": f"{name}?", "answers": answers, "image": name} for name in ("red.png", "../secret.png")]
    file = tmp_path / "inside" / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    question_set = load_questions(str(file))
    [inside] = question_set.questions
    assert inside.answers == ("red", "crimson")
    assert inside.read_image() == draw_image("red")
    assert question_set.losses == {"unreadable file": Loss(1, 1)}
    assert question_set.unreadable == {"1": "unreadable file: ../secret.png is outside the directory of the dataset"}


def test_rows_without_an_image_that_can_be_decoded_are_skipped_by_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images: dict[str, Any] = {
        "good": [{"bytes": draw_image("red"), "path": None}],
        "null": [None],
        "null in a struct": [{"bytes": None, "path": None}],
        "none": [],
        "missing": [{"bytes": None, "path": "missing.png"}],
        "empty": [{"bytes": b"", "path": None}],
        "tiff": [{"bytes": b"II*\0" + bytes(60), "path": None}],
    }
    image_type = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    columns = {"id": list(images), "question": ["What?"] * len(images), "answer": ["red"] * len(images)}
    table = pa.table({**columns, "images": pa.array(images.values(), image_type)})
    pq.write_table(table, tmp_path / "rows.parquet")
    question_set = load_questions(str(tmp_path / "rows.parquet"))
    assert [question.id for question in question_set.questions] == ["good"]
    assert question_set.losses == {
        "empty file": Loss(1, 1),
        "no picture": Loss(3, 3),
        "not a picture": Loss(1, 1),
        "unreadable file": Loss(1, 1),
    }
    assert {id: why.partition(":")[0] for id, why in question_set.unreadable.items()} == {
        "null": "no picture",
        "null in a struct": "no picture",
        "missing": "unreadable file",
        "empty": "empty file",
        "tiff": "not a picture",
    }
    pq.write_table(table.slice(len(images) - 1), tmp_path / "one.parquet")
    with pytest.raises(EvaluationError, match=r"whose image can be decoded \(the first: tiff: not a picture: 64 bytes"):
        load_questions(str(tmp_path / "one.parquet"))


ROW = {"question": "What is it?", "answer": "cat", "pic": draw_image("red"), "k": 1}
BAD_DATASETS: dict[str, tuple[dict[str, Any], dict[str, Any], type[CompactError], str]] = {
    "no answer column": (
        {"question": "x", "label": "y", "pic": draw_image("red")},
        {},
        EvaluationError,
        r"no column 'answer' \(it has question, label, pic\); name the column to use: --columns answer=COLUMN",
    ),
    "no such column": (
        ROW,
        {"columns": {"answer": "anwser"}},
        EvaluationError,
        "no column 'anwser' for answer .*did you mean answer",
    ),
    "no such field": (ROW, {"columns": {"anser": "answer"}}, UsageError, "did you mean answer"),
    "k of eleven": ({**ROW, "k": 11}, {}, EvaluationError, "row 0 of .* has k 11; it must be a number from 0 to 10"),
    "k in words": ({**ROW, "k": "two"}, {}, EvaluationError, "has k 'two'"),
    "an unknown capability": ({**ROW, "capabilities": ["smell"]}, {}, UnknownCapabilityError, "smell"),
    "capabilities as a text": ({**ROW, "capabilities": "color"}, {}, EvaluationError, "it must be a list of names"),
    "no answers at all": ({**ROW, "answer": ""}, {}, EvaluationError, "no question that can be asked"),
    "no such split": (ROW, {"split": "tets"}, UsageError, "has no split 'tets' .*: choose one with --split"),
    "a limit of none": (ROW, {"limit": 0}, UsageError, "at least 1"),
}


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_a_data_set_that_cannot_be_asked_is_told_in_one_line(tmp_path: Path, case: str) -> None:
    row, arguments, error_type, message = BAD_DATASETS[case]
    with pytest.raises(error_type, match=message) as excinfo:
        load_questions(write_parquet(tmp_path / "asked.parquet", [row]), **arguments)
    assert "\n" not in str(excinfo.value)


def test_a_data_set_without_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "What?", "answer": "that"}')
    with pytest.raises(EvaluationError, match=r"no image column .*--columns image=COLUMN"):
        load_questions(str(tmp_path / "own.jsonl"))


@pytest.mark.parametrize("what", ["missing", "empty", "other", "train only", "a text file"])
def test_what_is_no_data_set_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "folder"
    if what == "train only":
        write_release(path, rows=1)
    elif what == "a text file":
        path.write_text("hello")
    elif what != "missing":
        path.mkdir()
    if what == "other":
        (path / "notes.txt").write_text("hello")
    no_split = "no split validation or test"
    messages = {
        "train only": no_split,
        "other": no_split,
        "a text file": "supported files are .parquet",
        "missing": "is neither a file, a directory nor the name of a dataset",
    }
    with pytest.raises(CompactError, match=messages.get(what, "cannot be read as a dataset")) as excinfo:
        load_questions(str(path))
    assert "\n" not in str(excinfo.value)
