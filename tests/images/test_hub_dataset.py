"""Tests datasets as image sources: images by row, and all questions about each image, in any order of the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import SourceError, UsageError
from compact_hf.images.address import Address
from compact_hf.images.conversations import Defect
from compact_hf.images.folder import ImageFolder
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id, inspect_image
from compact_hf.images.question_rows import detect_row_format, read_exchanges
from compact_hf.images.questions import VqaSource, read_dataset_questions, read_llava_questions
from compact_hf.records import ImageInfo, Reject
from tests.teachers.asking import photograph

FEATURES = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
A, B, C = (photograph(64 + extra) for extra in range(3))


def image_value(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def write_split(tmp_path: Path, rows: list[dict[str, Any]], features: Any = FEATURES, *, split: str = "train") -> Path:
    """Write a split as Parquet, as on the Hub, into a directory for `load_dataset`, and return the directory."""
    directory = tmp_path / "data set"
    directory.mkdir(exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(directory / f"{split}-00000-of-00001.parquet")
    return directory


def open_source(directory: Path, **address: str) -> DatasetSource:
    return DatasetSource(Address(str(directory), on_hub=False, **address))


def make_row(image: bytes | None, question: str = "What?", answer: str = "a cat") -> dict[str, Any]:
    return {"image": None if image is None else image_value(image), "question": question, "answer": answer}


names = st.text("abcz_.-09", min_size=1, max_size=8)


@given(
    st.one_of(
        st.builds(
            lambda org, name, revision, config, split: Address(
                f"{org}/{name}", on_hub=True, revision=revision, config=config, split=split
            ),
            names,
            names,
            st.sampled_from(["", "main", "v1.0.0", "refs/pr/3", "0" * 40]),
            st.sampled_from(["", "k3", "a b&c=d"]),
            st.sampled_from(["", "train"]),
        ),
        st.builds(
            lambda name, files: Address(f"/d/{name}", on_hub=False, files=files),
            st.text(),
            st.sampled_from(["", "a/*.parquet"]),
        ),
    )
)
def test_an_address_is_read_as_it_was_written(address: Address) -> None:
    assert Address.parse(str(address)) == address


def test_an_address_may_be_written_as_on_the_hub() -> None:
    address = Address.parse("hf://datasets/org/name@v1.0.0/k3?split=train")
    assert address == Address("org/name", on_hub=True, revision="v1.0.0", config="k3", split="train")


def test_the_revisions_that_the_hub_makes_may_be_written_with_their_slashes() -> None:
    converted = Address("org/name", on_hub=True, revision="refs/convert/parquet", config="k3")
    assert Address.parse("hf://datasets/org/name@refs/convert/parquet/k3") == converted
    assert Address.parse("hf://datasets/org/name@refs/pr/7") == Address("org/name", on_hub=True, revision="refs/pr/7")


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/name",
        "hf://org/name",
        "hf://datasets/org/name/a/b",
        "hf://datasets/o/n?what=1",
        "hf://datasets/o/n/k?config=l",
    ],
)
def test_another_text_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


def test_each_picture_is_read_by_its_row(tmp_path: Path) -> None:
    source = open_source(write_split(tmp_path, [make_row(A), make_row(B), make_row(A)]))
    assert list(source.refs()) == ["train/0", "train/1", "train/2"]
    assert [source.read(ref) for ref in source.refs()] == [A, B, A]
    assert source.origin("train/1") == ("data set", "unknown")
    result = inspect_image(source, "train/1")
    assert isinstance(result, ImageInfo)
    assert result.image_id == compute_image_id(B)
    reopened = DatasetSource(Address.parse(source.identity))
    assert reopened.read("train/1") == B
    assert reopened.stamp("train/1") == source.stamp("train/1") != ""


def test_a_picture_keeps_the_origin_that_its_row_names_unless_it_is_a_path(tmp_path: Path) -> None:
    features = Features(FEATURES | {"image_source": Value("string"), "image_license": Value("string")})
    named_origins = [("coco", "cc-by-4.0"), (None, None), ("/home/me/photos", "mit")]
    rows = [{**make_row(A), "image_source": source, "image_license": license} for source, license in named_origins]
    source = open_source(write_split(tmp_path, rows, features))
    origins = [("coco", "cc-by-4.0"), ("data set", "unknown"), ("data set", "mit")]
    assert [source.origin(ref) for ref in source.refs()] == origins
    result = inspect_image(source, "train/0")
    assert isinstance(result, ImageInfo)
    assert (result.image_source, result.image_license) == ("coco", "cc-by-4.0")


def test_a_list_of_pictures_has_a_reference_for_each(tmp_path: Path) -> None:
    features = Features({"images": List(Image()), "question": Value("string")})
    rows = [
        {"images": [image_value(A), image_value(B)], "question": "?"},
        {"images": [], "question": "?"},
        {"images": [image_value(C)]},
    ]
    source = open_source(write_split(tmp_path, rows, features))
    assert {ref: source.read(ref) for ref in source.refs()} == {"train/0/0": A, "train/0/1": B, "train/2/0": C}


@pytest.mark.parametrize("ref", ["train/9", "train", "test/0", "train/0/0", "train/-1", "../x/0", "train/1"])
def test_a_reference_that_leads_nowhere_is_an_unreadable_file(ref: str, tmp_path: Path) -> None:
    result = inspect_image(open_source(write_split(tmp_path, [make_row(A), make_row(None)])), ref)
    assert isinstance(result, Reject)
    assert result.reason == "unreadable file"


def test_a_table_cannot_name_files_outside_of_the_data_set(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(A)
    rows = [{**make_row(None), "image": image_value(None, str(secret))}]
    with pytest.raises(PermissionError):
        open_source(write_split(tmp_path, rows)).read("train/0")


def test_a_folder_of_picture_files_is_a_data_set_too(tmp_path: Path) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a.jpg").write_bytes(A)
    source = open_source(directory)
    assert [source.read(ref) for ref in source.refs()] == [A]


def test_splits_can_be_chosen(tmp_path: Path) -> None:
    directory = write_split(tmp_path, [make_row(A)])
    write_split(tmp_path, [make_row(B)], split="test")
    assert list(open_source(directory).refs()) == ["test/0", "train/0"]
    assert list(open_source(directory, split="train").refs()) == ["train/0"]
    with pytest.raises(SourceError, match="has the splits test, train: give one of them"):
        open_source(directory, split="validation")


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="cannot be read") as excinfo:
        open_source(tmp_path / "empty")
    assert "\n" not in str(excinfo.value)
    (tmp_path / "empty" / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(tmp_path / "empty")
    text_only = write_split(tmp_path, [{"question": "?"}], Features({"question": Value("string")}))
    with pytest.raises(SourceError, match=r"has no column of images \(it has question\)"):
        open_source(text_only)
    images_only = write_split(tmp_path, [{"image": image_value(A)}], Features({"image": Image()}))
    with pytest.raises(
        SourceError, match=r"has no questions \(its columns are image\): give a dataset with one of turns, messages"
    ):
        read_dataset_questions(open_source(images_only))


MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "<image>\nWhat?\nAnswer the question using a single word or phrase."},
    {"role": "assistant", "content": "a cat"},
]
PARTS = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}, MESSAGES[2]]
LLAVA_MESSAGES = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]
VQA_ANSWERS = [{"answer": "a dog"}, {"answer": "a cat"}, {"answer": "a cat"}]


@pytest.mark.parametrize(
    "row",
    [
        {"turns": [{"question": "What?", "answer": "a cat", "confidence": 90}], "messages": []},
        {"messages": MESSAGES},
        {"messages": PARTS},
        {"conversations": LLAVA_MESSAGES},
        {"texts": [{"user": "What?", "assistant": "a cat"}]},
        {"question": "What?", "answer": "a cat"},
        {"question": "What?", "answers": VQA_ANSWERS},
        {"question": "What?", "answers": ["a cat", "a dog"]},
    ],
)
def test_the_usual_shapes_of_rows_are_all_read_alike(row: dict[str, Any]) -> None:
    row_format = detect_row_format(row)
    assert row_format is not None
    exchanges = read_exchanges(row, row_format)
    assert not isinstance(exchanges, Defect)
    assert [(exchange.question, exchange.answer) for exchange in exchanges] == [("What?", "a cat")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"turns": []}, "no questions"),
        ({"turns": None}, "no questions"),
        ({"turns": ["What?", "Where?"]}, "not a list of objects"),
        ({"messages": '[{"role": "user"}]'}, "not a list of objects"),
        ({"conversations": "What?"}, "no conversations"),
        ({"texts": [1]}, "not a list of objects"),
        ({"messages": MESSAGES[:2]}, "roles do not alternate"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role"),
        ({"conversations": LLAVA_MESSAGES[::-1] * 2}, "roles do not alternate"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row: dict[str, Any], reason: str) -> None:
    row_format = detect_row_format(row)
    assert row_format is not None
    defect = read_exchanges(row, row_format)
    assert isinstance(defect, Defect)
    assert defect.reason == reason


def questions_by_image(source: VqaSource) -> dict[bytes, list[tuple[str, str]]]:
    """Return image -> (location, question) of each row about it."""
    questions: dict[bytes, list[tuple[str, str]]] = {}
    for ref in source.refs():
        result = inspect_image(source, ref)
        if isinstance(result, ImageInfo):
            rows = source.read_rows(ref)
            questions[source.read(ref)] = [
                (row.location, exchange.question) for row in rows for exchange in row.exchanges
            ]
    return questions


def reject_reasons(source: VqaSource) -> dict[str, str]:
    results = {ref: inspect_image(source, ref) for ref in source.refs()}
    return {ref: result.reason for ref, result in results.items() if isinstance(result, Reject)}


def test_rows_about_one_picture_are_together_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        make_row(A, "one"),
        make_row(B, "two"),
        make_row(None, "lost"),
        make_row(A, "three"),
        make_row(b"no picture", "odd"),
    ]
    source = read_dataset_questions(open_source(write_split(tmp_path, rows)))
    assert questions_by_image(source) == {A: [("train/0", "one"), ("train/3", "three")], B: [("train/1", "two")]}
    assert reject_reasons(source) == {"row train/2": "no picture", "train/4": "not a picture"}
    assert source.num_rows == 5


def test_a_row_about_several_pictures_is_a_reject(tmp_path: Path) -> None:
    features = Features({"images": List(Image()), "question": Value("string")})
    rows = [
        {"images": [image_value(A), image_value(B)], "question": "Which?"},
        {"images": [image_value(A)], "question": "What?"},
    ]
    source = read_dataset_questions(open_source(write_split(tmp_path, rows, features)))
    assert questions_by_image(source) == {A: [("train/1", "What?")]}
    assert reject_reasons(source) == {"row train/0": "several pictures"}


def test_rows_of_a_llava_file_are_together_by_their_images(tmp_path: Path) -> None:
    for name, data in (("a.jpg", A), ("b.jpg", B), ("copy of a.jpg", A)):
        (tmp_path / name).write_bytes(data)
    messages = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
    items = [
        {"id": "x", "image": "a.jpg", "conversations": messages * 2},
        {"id": "t", "conversations": messages},
        {"id": "y", "image": "b.jpg", "conversations": messages},
        {"id": "z", "image": "a.jpg", "conversations": messages},
        {"id": "m", "image": "missing.jpg", "conversations": messages},
        {"id": "n", "image": ["a.jpg", "b.jpg"], "conversations": messages},
        {"id": "c", "image": "copy of a.jpg", "conversations": messages},
    ]
    file = tmp_path / "llava.json"
    file.write_text(json.dumps(items))
    source = read_llava_questions(file, ImageFolder(tmp_path))
    assert questions_by_image(source) == {
        A: [("0", "What?"), ("0", "What?"), ("3", "What?"), ("6", "What?")],
        B: [("2", "What?")],
    }
    assert reject_reasons(source) == {
        "row 1": "no picture",
        "missing.jpg": "unreadable file",
        "row 5": "several pictures",
    }
    assert [row.id for row in source.read_rows("a.jpg")] == ["x", "z", "c"]
    assert {ref: source.count_lost(ref) for ref in reject_reasons(source)} == {
        "row 1": (1, 1),
        "missing.jpg": (1, 1),
        "row 5": (1, 1),
    }


def test_the_content_is_that_of_the_rows(tmp_path: Path) -> None:
    rows = [make_row(A, "one"), make_row(B, "two")]
    content_hash = read_dataset_questions(open_source(write_split(tmp_path, rows))).content_hash
    assert read_dataset_questions(open_source(write_split(tmp_path, rows))).content_hash == content_hash
    for changed_rows in (rows[::-1], rows[:1], [rows[0], make_row(C, "two")], [rows[0], make_row(B, "too")]):
        assert read_dataset_questions(open_source(write_split(tmp_path, changed_rows))).content_hash != content_hash


def test_a_data_set_without_any_picture_is_refused(tmp_path: Path) -> None:
    source = read_dataset_questions(open_source(write_split(tmp_path, [make_row(None)] * 3)))
    with pytest.raises(SourceError, match="none of the 3 rows"):
        list(source.refs())
