"""Data sets as sources: pictures by row, and the questions about each of them, however the rows lie."""

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
from compact_hf.images.conversations import Defect, Exchange, detect_row_format, read_exchanges
from compact_hf.images.folder import ImageFolder
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.inspection import compute_image_id, inspect_image
from compact_hf.images.questions import VqaSource, read_dataset_questions, read_llava_questions
from compact_hf.records import ImageInfo, Reject
from tests.teachers.asking import photograph

ONE = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
A, B, C = (photograph(64 + extra) for extra in range(3))


def held(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def folder_of(tmp_path: Path, rows: list[dict[str, Any]], features: Any = ONE, *, split: str = "train") -> Path:
    """A folder that `load_dataset` takes, in Parquet as the Hub has it."""
    folder = tmp_path / "data set"
    folder.mkdir(exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def opened(folder: Path, **address: str) -> DatasetSource:
    return DatasetSource(Address(str(folder), on_hub=False, **address))


def asked(picture: bytes | None, question: str = "What?", answer: str = "a cat") -> dict[str, Any]:
    return {"image": None if picture is None else held(picture), "question": question, "answer": answer}


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
    source = opened(folder_of(tmp_path, [asked(A), asked(B), asked(A)]))
    assert list(source.refs()) == ["train/0", "train/1", "train/2"]
    assert [source.read(ref) for ref in source.refs()] == [A, B, A]
    assert source.origin("train/1") == ("data set", "unknown")
    seen = inspect_image(source, "train/1")
    assert isinstance(seen, ImageInfo)
    assert seen.image_id == compute_image_id(B)
    again = DatasetSource(Address.parse(source.identity))
    assert again.read("train/1") == B
    assert again.stamp("train/1") == source.stamp("train/1") != ""


def test_a_picture_keeps_the_origin_that_its_row_names_unless_it_is_a_path(tmp_path: Path) -> None:
    features = Features(ONE | {"image_source": Value("string"), "image_license": Value("string")})
    named = [("coco", "cc-by-4.0"), (None, None), ("/home/me/photos", "mit")]
    rows = [{**asked(A), "image_source": source, "image_license": license} for source, license in named]
    source = opened(folder_of(tmp_path, rows, features))
    origins = [("coco", "cc-by-4.0"), ("data set", "unknown"), ("data set", "mit")]
    assert [source.origin(ref) for ref in source.refs()] == origins
    seen = inspect_image(source, "train/0")
    assert isinstance(seen, ImageInfo)
    assert (seen.image_source, seen.image_license) == ("coco", "cc-by-4.0")


def test_a_list_of_pictures_has_a_reference_for_each(tmp_path: Path) -> None:
    features = Features({"images": List(Image()), "question": Value("string")})
    rows = [{"images": [held(A), held(B)], "question": "?"}, {"images": [], "question": "?"}, {"images": [held(C)]}]
    source = opened(folder_of(tmp_path, rows, features))
    assert {ref: source.read(ref) for ref in source.refs()} == {"train/0/0": A, "train/0/1": B, "train/2/0": C}


@pytest.mark.parametrize("ref", ["train/9", "train", "test/0", "train/0/0", "train/-1", "../x/0", "train/1"])
def test_a_reference_that_leads_nowhere_is_an_unreadable_file(ref: str, tmp_path: Path) -> None:
    seen = inspect_image(opened(folder_of(tmp_path, [asked(A), asked(None)])), ref)
    assert isinstance(seen, Reject)
    assert seen.reason == "unreadable file"


def test_a_table_cannot_name_files_outside_of_the_data_set(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(A)
    rows = [{**asked(None), "image": held(None, str(secret))}]
    with pytest.raises(PermissionError):
        opened(folder_of(tmp_path, rows)).read("train/0")


def test_a_folder_of_picture_files_is_a_data_set_too(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(A)
    source = opened(folder)
    assert [source.read(ref) for ref in source.refs()] == [A]


def test_splits_can_be_chosen(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [asked(A)])
    folder_of(tmp_path, [asked(B)], split="test")
    assert list(opened(folder).refs()) == ["test/0", "train/0"]
    assert list(opened(folder, split="train").refs()) == ["train/0"]
    with pytest.raises(SourceError, match="has the splits test, train; give one of them"):
        opened(folder, split="validation")


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="cannot be read") as caught:
        opened(tmp_path / "empty")
    assert "\n" not in str(caught.value)
    (tmp_path / "empty" / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SourceError, match="cannot be read"):
        opened(tmp_path / "empty")
    words = folder_of(tmp_path, [{"question": "?"}], Features({"question": Value("string")}))
    with pytest.raises(SourceError, match=r"has no column of pictures \(it has question\)"):
        opened(words)
    pictures = folder_of(tmp_path, [{"image": held(A)}], Features({"image": Image()}))
    with pytest.raises(SourceError, match=r"has no questions \(its columns are image\); one of turns, messages"):
        read_dataset_questions(opened(pictures))


MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "<image>\nWhat?\nAnswer the question using a single word or phrase."},
    {"role": "assistant", "content": "a cat"},
]
PARTS = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}, MESSAGES[2]]
SPOKEN = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]
PEOPLE = [{"answer": "a dog"}, {"answer": "a cat"}, {"answer": "a cat"}]


@pytest.mark.parametrize(
    "row",
    [
        {"turns": [{"question": "What?", "answer": "a cat", "confidence": 90}], "messages": []},
        {"messages": MESSAGES},
        {"messages": PARTS},
        {"conversations": SPOKEN},
        {"texts": [{"user": "What?", "assistant": "a cat"}]},
        {"question": "What?", "answer": "a cat"},
        {"question": "What?", "answers": PEOPLE},
        {"question": "What?", "answers": ["a cat", "a dog"]},
    ],
)
def test_the_usual_shapes_of_rows_are_all_read_alike(row: dict[str, Any]) -> None:
    shape = detect_row_format(row)
    assert shape is not None
    assert read_exchanges(row, shape) == (Exchange("What?", "a cat"),)


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
        ({"conversations": SPOKEN[::-1] * 2}, "roles do not alternate"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row: dict[str, Any], reason: str) -> None:
    shape = detect_row_format(row)
    assert shape is not None
    found = read_exchanges(row, shape)
    assert isinstance(found, Defect)
    assert found.reason == reason


def held_by(source: VqaSource) -> dict[bytes, list[tuple[str, str]]]:
    """Picture -> where it is asked about, and what."""
    found: dict[bytes, list[tuple[str, str]]] = {}
    for ref in source.refs():
        seen = inspect_image(source, ref)
        if isinstance(seen, ImageInfo):
            rows = source.read_rows(ref)
            found[source.read(ref)] = [(row.location, one.question) for row in rows for one in row.exchanges]
    return found


def rejects(source: VqaSource) -> dict[str, str]:
    looks = {ref: inspect_image(source, ref) for ref in source.refs()}
    return {ref: seen.reason for ref, seen in looks.items() if isinstance(seen, Reject)}


def test_rows_about_one_picture_are_together_wherever_they_stand(tmp_path: Path) -> None:
    rows = [asked(A, "one"), asked(B, "two"), asked(None, "lost"), asked(A, "three"), asked(b"no picture", "odd")]
    source = read_dataset_questions(opened(folder_of(tmp_path, rows)))
    assert held_by(source) == {A: [("train/0", "one"), ("train/3", "three")], B: [("train/1", "two")]}
    assert rejects(source) == {"row train/2": "no picture", "train/4": "not a picture"}
    assert source.num_rows == 5


def test_a_row_about_several_pictures_is_a_reject(tmp_path: Path) -> None:
    features = Features({"images": List(Image()), "question": Value("string")})
    rows = [{"images": [held(A), held(B)], "question": "Which?"}, {"images": [held(A)], "question": "What?"}]
    source = read_dataset_questions(opened(folder_of(tmp_path, rows, features)))
    assert held_by(source) == {A: [("train/1", "What?")]}
    assert rejects(source) == {"row train/0": "several pictures"}


def test_rows_of_a_llava_file_are_together_by_their_paths(tmp_path: Path) -> None:
    for name, data in (("a.jpg", A), ("b.jpg", B)):
        (tmp_path / name).write_bytes(data)
    ask = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
    items = [
        {"id": "x", "image": "a.jpg", "conversations": ask * 2},
        {"id": "t", "conversations": ask},
        {"id": "y", "image": "b.jpg", "conversations": ask},
        {"id": "z", "image": "a.jpg", "conversations": ask},
        {"id": "m", "image": "missing.jpg", "conversations": ask},
        {"id": "n", "image": ["a.jpg"], "conversations": ask},
    ]
    file = tmp_path / "llava.json"
    file.write_text(json.dumps(items))
    source = read_llava_questions(file, ImageFolder(tmp_path))
    assert held_by(source) == {A: [("0", "What?"), ("0", "What?"), ("3", "What?")], B: [("2", "What?")]}
    assert rejects(source) == {
        "row 1": "no picture",
        "missing.jpg": "unreadable file",
        "row 5": "image is not a path",
    }
    assert [row.id for row in source.read_rows("a.jpg")] == ["x", "z"]


def test_the_content_is_that_of_the_rows(tmp_path: Path) -> None:
    rows = [asked(A, "one"), asked(B, "two")]
    content = read_dataset_questions(opened(folder_of(tmp_path, rows))).content_hash
    assert read_dataset_questions(opened(folder_of(tmp_path, rows))).content_hash == content
    for other in (rows[::-1], rows[:1], [rows[0], asked(C, "two")], [rows[0], asked(B, "too")]):
        assert read_dataset_questions(opened(folder_of(tmp_path, other))).content_hash != content


def test_a_data_set_without_any_picture_is_refused(tmp_path: Path) -> None:
    source = read_dataset_questions(opened(folder_of(tmp_path, [asked(None)] * 3)))
    with pytest.raises(SourceError, match="none of the 3 rows"):
        list(source.refs())
