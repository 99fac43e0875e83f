"""Tests that validation finds each planted defect, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compact_hf.dataset.schema import features
from compact_hf.dataset.validate import MAX_PROBLEMS, validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import UsageError
from compact_hf.records import Message, Row

from .samples import make_image, make_row, make_rows

Record = dict[str, Any]
K2 = "data/k2/train-00000-of-00001.parquet"
FIGURE = "assets/coverage.png"
TEXT_FILE = "data/instruction_text/train-00000-of-00001.parquet"

INSTRUCTION = [
    Row(id="a" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction"),
    replace(
        make_row(5000), id="b" * 32, source="instruction", k=None, turns=(), capabilities=(), teacher=None,
        verifier=None, preset_version=None,
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "out"
    write_dataset([*make_rows(90), *INSTRUCTION], out, sources=("compact",), version="1.0.0")
    return out


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of a valid release, in which a test plants a defect."""
    return Path(shutil.copytree(whole, tmp_path / "release"))


def rewrite(release: Path, name: str, change: Callable[[list[Record]], None], schema: Any = None) -> None:
    """Change the records of one file."""
    records = pq.read_table(release / name).to_pylist()
    change(records)
    pq.write_table(pa.Table.from_pylist(records, schema=schema or features(("compact",)).arrow_schema), release / name)


def test_a_valid_release_has_no_problems(whole: Path) -> None:
    report = validate(whole)
    assert (report.problems, report.counts) == ((), {})
    assert report.is_valid
    assert sum(report.rows.values()) == 92


def make_image_with_metadata() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    return make_image(1, exif=exif)


def change_turn(record: Record, **changes: Any) -> None:
    record["turns"][0] |= changes


def change_image(record: Record, **changes: Any) -> None:
    record["images"][0] |= changes


def reduce_to_k1(record: Record) -> None:
    """Turn a row of k = 2 into a valid row of k = 1, which is then in the wrong subset."""
    record |= {"k": 1, "capabilities": ["color"]}
    for turn in record["turns"]:
        turn |= {"capabilities": ["color"], "verified_capabilities": ["color"]}


def clear_answer(record: Record) -> None:
    record["messages"][1]["content"] = " "
    change_turn(record, answer=" ")


def add_unknown_capability(record: Record) -> None:
    record["capabilities"] = ["color", "shape", "smell"]
    change_turn(record, capabilities=["color", "smell"], verified_capabilities=["color", "smell"])


def add_image_token(record: Record) -> None:
    record["messages"][0]["content"] = "<image>\n" + record["messages"][0]["content"]


ROW_DEFECTS: dict[str, Callable[[Record], None]] = {
    "null value": lambda record: record.update(messages=None),
    "image_id is not a hash": lambda record: record.update(image_id="../../picture.jpg"),
    "wrong subset": reduce_to_k1,
    "wrong split": lambda record: record.update(image_id="0" * 32),
    "roles do not alternate": lambda record: record["messages"][2].update(role="assistant"),
    "<image> in the text": add_image_token,
    "empty message": clear_answer,
    "image and image_id do not match": lambda record: record.update(images=[]),
    "image cannot be decoded": lambda record: change_image(record, bytes=record["images"][0]["bytes"][:-40]),
    "image is not clean": lambda record: change_image(record, bytes=make_image_with_metadata()),
    "absolute path": lambda record: record.update(image_source="/home/me/pictures"),
    "provenance is missing": lambda record: record.update(verifier=None),
    "no turns": lambda record: record.update(turns=[], messages=[], capabilities=[]),
    "unknown capability": add_unknown_capability,
    "k is not the number of capabilities": lambda record: change_turn(
        record, capabilities=["color"], verified_capabilities=["color"]
    ),
    "verified capabilities differ": lambda record: change_turn(record, verified_capabilities=["color"]),
    "confidence out of range": lambda record: change_turn(record, confidence=101),
    "capabilities are not those of the turns": lambda record: record.update(capabilities=["color"]),
    "turns and messages differ": lambda record: change_turn(record, answer="another"),
    "unknown source": lambda record: record.update(source="magic"),
}
# Further defects that a defect of the table above necessarily causes.
IMPLIED_DEFECTS = {"no turns": {"roles do not alternate": 1}}


@pytest.mark.parametrize("check", ROW_DEFECTS)
def test_a_defect_of_a_row_is_found_where_it_is(check: str, release: Path) -> None:
    ids: list[str] = []

    def inject(records: list[Record]) -> None:
        ROW_DEFECTS[check](records[3])
        ids.append(records[3]["id"])

    rewrite(release, K2, inject)
    report = validate(release)
    assert report.counts == {check: 1} | IMPLIED_DEFECTS.get(check, {})
    assert (report.problems[-1].file, report.problems[-1].row) == (K2, ids[0])
    assert not report.is_valid


@pytest.mark.parametrize("asked", [["color", "shape", "color"], ["color", "color"]])
def test_a_capability_counts_once(asked: list[str], release: Path) -> None:
    rewrite(release, K2, lambda records: change_turn(records[0], capabilities=asked))
    assert validate(release).counts["k is not the number of capabilities"] == 1


@pytest.mark.parametrize("path", ["/home/me/a.png", "a/b.png", "C:\\a.png", "file:a/b.png"])
def test_a_picture_s_path_names_no_folders(path: str, release: Path) -> None:
    rewrite(release, K2, lambda records: change_image(records[0], path=path))
    assert validate(release).counts == {"absolute path": 1}


@pytest.mark.parametrize(
    "data", [make_image(1, comment=b"hi"), make_image(1) + b"tail", make_image(1, file_format="GIF")]
)
def test_only_the_bare_picture_may_be_there(data: bytes, release: Path) -> None:
    rewrite(release, K2, lambda records: change_image(records[0], bytes=data))
    assert validate(release).counts == {"image is not clean": 1}


@pytest.mark.parametrize("change", [{"teacher": "gemini"}, {"capabilities": ["color"]}, {"k": 1}])
def test_an_instruction_row_has_no_facts_of_a_compositional_one(change: Record, release: Path) -> None:
    rewrite(release, TEXT_FILE, lambda records: records[0].update(change))
    assert validate(release).counts == {"instruction row with other facts": 1}


def test_a_row_of_a_method_has_all_of_its_columns(release: Path) -> None:
    rewrite(release, TEXT_FILE, lambda records: records[0].update(source="compact"))
    report = validate(release)
    assert (report.counts, report.problems[0].detail) == ({"null value": 1}, "k")


def test_a_row_whose_method_has_columns_that_the_file_has_not_is_found(tmp_path: Path) -> None:
    write_dataset(INSTRUCTION[:1], tmp_path / "texts", sources=("instruction",), version="1.0.0")
    path = tmp_path / "texts" / TEXT_FILE
    records = pq.read_table(path).to_pylist()
    records[0]["source"] = "compact"
    pq.write_table(pa.Table.from_pylist(records, schema=features(()).arrow_schema), path)
    report = validate(tmp_path / "texts")
    assert (report.problems[0].check, report.problems[0].detail) == ("column is missing", "capabilities, k, turns")


def test_a_card_whose_lines_are_in_another_order_is_told(release: Path) -> None:
    card = release / "README.md"
    text = card.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("| color |", "| shape |"))]
    card.write_text(text.replace("\n".join(lines), "\n".join(reversed(lines))), encoding="utf-8")
    assert set(validate(release).counts) == {"card disagrees with the data"}


def test_an_id_that_comes_twice_is_found_across_files(release: Path) -> None:
    (name,) = pq.read_table(release / K2)["id"].to_pylist()[:1]
    rewrite(release, TEXT_FILE, lambda records: records[0].update(id=name))
    report = validate(release)
    assert report.counts == {"repeated id": 1}
    assert report.problems[0].row == name


def test_a_picture_in_both_splits_is_found(release: Path) -> None:
    held_out = pq.read_table(release / "data/k1/validation-00000-of-00001.parquet")["image_id"].to_pylist()[0]
    name = "data/instruction/train-00000-of-00001.parquet"
    rewrite(release, name, lambda records: records[0].update(image_id=held_out))
    assert validate(release).counts == {"image in both splits": 1}


def make_schema_with_other_type() -> Any:
    schema = features(("compact",)).arrow_schema
    return schema.set(schema.get_field_index("k"), pa.field("k", pa.int32()))


@pytest.mark.parametrize(
    "schema",
    [
        make_schema_with_other_type(),
        features(("compact",)).arrow_schema.remove(0),
        features(("compact",)).arrow_schema.append(pa.field("more", pa.string())),
        features(("compact",)).arrow_schema.remove_metadata(),
    ],
    ids=["other type", "missing column", "further column", "no features"],
)
def test_a_schema_that_differs_is_found(schema: Any, release: Path) -> None:
    rewrite(release, K2, lambda records: None, schema)
    assert validate(release).counts == {"schema differs": 1}


@pytest.mark.parametrize("cut", [0, 5, 1000])
def test_a_damaged_file_is_found(cut: int, release: Path) -> None:
    data = (release / K2).read_bytes()
    (release / K2).write_bytes(data[:cut])
    counts = validate(release).counts
    assert counts.pop("unreadable file") == 1
    assert counts == {"card's counts are wrong": 4}  # one per config: all, compositional, with_images and k2


def test_a_damaged_page_is_found(release: Path) -> None:
    data = bytearray((release / K2).read_bytes())
    data[4:60] = b"\xff" * 56
    (release / K2).write_bytes(data)
    assert validate(release).counts["unreadable file"] == 1


def edit_card(release: Path, old: str, new: str) -> None:
    card = release / "README.md"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new, 1))


def copy_other_figure(release: Path) -> None:
    write_dataset(make_rows(91), release.parent / "other", sources=("compact",), version="1.0.0")
    shutil.copy(release.parent / "other" / FIGURE, release / FIGURE)


DIRECTORY_DEFECTS: dict[str, Callable[[Path], object]] = {
    "unexpected file": lambda path: (path / "notes.txt").touch(),
    "wrong number of data files": lambda path: (path / K2).rename(path / K2.replace("of-00001", "of-00002")),
    "card cannot be read": lambda path: (path / "README.md").unlink(),
    "card's counts are wrong": lambda path: edit_card(path, "num_examples: ", "num_examples: 1"),
    "card's features differ": lambda path: edit_card(path, "dtype: int64", "dtype: int32"),
    "card's configs do not match the files": lambda path: edit_card(path, "data/k2/train", "data/k1/train"),
    "card disagrees with the data": lambda path: edit_card(path, "| shape | 0 | 60 |", "| shape | 0 | 61 |"),
    "card lacks a section": lambda path: edit_card(path, "## Limits", "## Praise"),
    "card does not show its figure": lambda path: edit_card(path, "assets/coverage.png", "assets/other.png"),
    "card's figure is missing": lambda path: (path / FIGURE).unlink(),
    "card's figure cannot be read": lambda path: (path / FIGURE).write_bytes((path / FIGURE).read_bytes()[:999]),
    "card's figure shows other data": copy_other_figure,
}


@pytest.mark.parametrize("check", DIRECTORY_DEFECTS)
def test_a_defect_of_the_folder_is_found(check: str, release: Path) -> None:
    DIRECTORY_DEFECTS[check](release)
    assert validate(release).counts == {check: 1}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("# COMPACT 1.0.0", "# COMPACT 1.0.1", "its part title should contain: # COMPACT 1.0.0"),
        ("| `all` (default) |", "| `all` |", "its part configs should contain: | `all` (default) |"),
        (
            "| CC0-1.0 | scenes | 91 |",
            "| CC0-1.0 | scenes | 90 |",
            "its part licenses should contain: | CC0-1.0 | scenes | 91 |",
        ),
        (
            "| `teacher` | scenes |",
            "| `teacher` | a person |",
            "its part provenance should contain: | `teacher` | scenes |",
        ),
        ("| all | 180 | 2 |", "| all | 180 | 180 |", "its part biases should contain: | all | 180 | 2 |"),
    ],
)
def test_it_is_told_what_the_card_should_say(old: str, new: str, told: str, release: Path) -> None:
    edit_card(release, old, new)
    (problem,) = validate(release).problems
    assert (problem.check, problem.file) == ("card disagrees with the data", "README.md")
    assert problem.detail.startswith(told)


def test_a_picture_that_has_nothing_to_show_is_found(release: Path, tmp_path: Path) -> None:
    write_dataset((make_row(number) for number in range(9)), tmp_path / "single", sources=("compact",), version="1.0.0")
    shutil.copy(release / "assets/cooccurrence.png", tmp_path / "single" / "assets")
    assert validate(tmp_path / "single").counts == {"card's figure shows other data": 1}


def test_a_sentence_that_names_another_capability_is_found(release: Path) -> None:
    edit_card(release, "color is needed most often", "counting is needed most often")
    assert validate(release).counts == {"card disagrees with the data": 1}


def test_the_wording_of_a_card_is_free_but_its_numbers_are_not(release: Path) -> None:
    edit_card(release, "A question with *k* capabilities is counted in *k* rows", "Each question counts *k* times")
    assert validate(release).is_valid
    edit_card(release, "180 compositional questions", "181 compositional questions")
    assert set(validate(release).counts) == {"card disagrees with the data"}


def test_words_beside_what_was_measured_are_the_maker_s(release: Path) -> None:
    edit_card(release, "## Limits", "I have looked at all of them.\n\n## Limits")
    assert validate(release).is_valid


@pytest.mark.parametrize(
    "header", ["[", "- a", "a: 1", "configs: []", "configs: 1", "configs: [{version: 1}]\ndataset_info: [1]"]
)
def test_a_card_without_what_it_needs_is_one_problem(header: str, release: Path) -> None:
    (release / "README.md").write_text(f"---\n{header}\n---\n")
    assert validate(release).counts == {"card cannot be read": 1}


def test_a_lost_file_is_found(release: Path) -> None:
    (release / K2).unlink()
    assert set(validate(release).counts) == {"card's configs do not match the files", "card's counts are wrong"}


def test_an_empty_folder_is_no_release(tmp_path: Path) -> None:
    assert validate(tmp_path).counts == {"no data files": 1, "card cannot be read": 1}


def test_what_the_hub_leaves_beside_is_no_problem(release: Path) -> None:
    (release / ".gitattributes").touch()
    (release / ".cache" / "huggingface").mkdir(parents=True)
    (release / ".cache" / "huggingface" / "README.md.metadata").touch()
    assert validate(release).is_valid


def test_a_link_is_no_part_of_a_release(release: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (release / "data" / "more").symlink_to(tmp_path / "folder")
    assert validate(release).counts == {"unexpected file": 1}


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a directory"):
        validate(tmp_path / "missing")


def test_many_problems_of_one_kind_are_counted_and_a_few_shown(release: Path) -> None:
    def spoil(records: list[Record]) -> None:
        for record in records:
            record["image_source"] = "/home/me"

    rewrite(release, K2, spoil)
    rewrite(release, K2.replace("k2", "k1"), spoil)
    report = validate(release)
    assert report.counts == {"absolute path": report.rows["k1", "train"] + report.rows["k2", "train"]}
    assert len(report.problems) == MAX_PROBLEMS
