"""Tests sampling a file in LLaVA's format."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.dataset.instruction import sample_instruction_rows
from compact_hf.dataset.stats import DatasetStats, RowCounter
from compact_hf.errors import UsageError
from compact_hf.images.inspection import compute_image_id
from compact_hf.records import Reject, Row, digest
from compact_hf.reports.table import Table

from .samples import make_image, make_item

ITEMS = st.lists(st.integers(0, 1000), min_size=1, max_size=40, unique=True).map(lambda of: [make_item(n) for n in of])


def sample(items: list[Any], **options: Any) -> list[Row | Reject]:
    """Write the items to a file and sample it."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "llava.json"
        file.write_text(json.dumps(items))
        root = options.pop("image_root", Path(directory))
        return list(sample_instruction_rows(file, **{"seed": 0, "image_root": root} | options))


@given(ITEMS, st.data(), st.integers(1, 50))
def test_the_order_of_the_file_does_not_matter(items: list[Any], data: st.DataObject, n: int) -> None:
    shuffled = data.draw(st.permutations(items))
    assert sample(items, rows=n) == sample(shuffled, rows=n)


@given(ITEMS, st.integers(1, 50), st.integers(0, 3))
def test_the_sample_is_the_n_smallest_hashes_of_seed_and_content(items: list[Any], n: int, seed: int) -> None:
    smallest = sorted(items, key=lambda item: digest(seed, item))[:n]
    assert [row.messages[1].content for row in sample(items, rows=n, seed=seed) if isinstance(row, Row)] == [
        item["conversations"][1]["value"] for item in smallest
    ]


@given(ITEMS, st.integers(1, 40), st.integers(0, 10))
def test_a_larger_sample_only_adds(items: list[Any], n: int, more: int) -> None:
    small, large = sample(items, rows=n), sample(items, rows=n + more)
    assert large[: len(small)] == small


@given(ITEMS, st.floats(0.01, 1))
def test_a_fraction_is_the_same_as_its_number_of_rows(items: list[Any], fraction: float) -> None:
    n = max(1, round(fraction * len(items)))
    assert sample(items, fraction=fraction) == sample(items, rows=n)
    assert len(sample(items, rows=n)) == n


def test_another_seed_draws_another_sample() -> None:
    items = [make_item(number) for number in range(100)]
    assert sample(items, rows=10, seed=1) != sample(items, rows=10, seed=2)


def test_a_row_becomes_messages_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "7.jpg").write_bytes(make_image(7))
    (row,) = sample([make_item(7, image="coco/7.jpg")], rows=1, image_root=tmp_path)
    assert isinstance(row, Row)
    assert [(message.role, message.content) for message in row.messages] == [
        ("user", "What is number 7?"),
        ("assistant", "It is 7."),
    ]
    assert (row.source, row.own_columns(), row.teacher) == ("instruction", {}, None)
    assert (row.image_id, row.image_source, row.image_license) == (compute_image_id(make_image(7)), "coco", "unknown")
    assert row.read_images
    assert row.read_images[0]() == make_image(7)


def test_a_row_without_a_picture_is_a_row_too() -> None:
    (row,) = sample([make_item(1)], rows=1)
    assert isinstance(row, Row)
    assert (row.image_id, row.image_source, row.image_license, row.read_images) == (None, None, None, ())


MESSAGES = make_item(1)["conversations"]
BAD_ITEMS = {
    "not an object": "text",
    "no conversations": {"id": "1"},
    "message without text": {"conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]},
    "unknown role": {"conversations": [{"from": "tool", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "part that is neither text nor image": {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
    "roles do not alternate": {"conversations": MESSAGES[::-1]},
    "empty message": {"conversations": [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": "b"}]},
    "names no picture for its <image>": {**make_item(1, image="a.jpg"), "image": None},
    "image is not a path": {**make_item(1), "image": 7},
    "several pictures": {**make_item(1), "image": ["a.jpg", "b.jpg"]},
    "unreadable file": make_item(1, image="missing.jpg"),
    "empty file": make_item(1, image="empty.jpg"),
    "not a picture": make_item(1, image="text.jpg"),
    "corrupt picture": make_item(1, image="cut.jpg"),
}


@pytest.mark.parametrize("reason", BAD_ITEMS)
def test_a_row_that_cannot_be_used_is_a_reject_with_its_reason(reason: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(make_image(1)[:-200])
    (reject,) = sample([BAD_ITEMS[reason]], rows=1, image_root=tmp_path)
    assert isinstance(reject, Reject)
    assert (reject.stage, reject.reason) == ("instruction", reason)


def test_dropped_rows_are_counted_with_their_questions() -> None:
    counter = RowCounter()
    for item in (
        {**make_item(1, image="missing.jpg"), "conversations": MESSAGES * 3},
        make_item(2, image="missing.jpg"),
    ):
        (reject,) = sample([item], rows=1)
        assert isinstance(reject, Reject)
        counter.add_reject(reject)
    counter.add_reject(Reject("generation", "declined", ""))
    _, table = DatasetStats("1.0.0", {}, counter, ()).summary()
    assert isinstance(table, Table)
    assert table.head == ("dropped at", "reason", "count", "rows", "questions")
    assert table.rows == [("generation", "declined", 1, 0, 0), ("instruction", "unreadable file", 2, 2, 4)]


def test_a_first_message_of_the_model_is_skipped_as_llava_skips_it() -> None:
    (row,) = sample([{"conversations": [MESSAGES[1], *MESSAGES]}], rows=1)
    assert isinstance(row, Row)
    assert [message.role for message in row.messages] == ["user", "assistant"]


@pytest.mark.parametrize("odd", [MESSAGES[:1], MESSAGES[1:], MESSAGES * 2 + MESSAGES[:1]])
def test_a_conversation_that_ends_with_a_question_is_rejected(odd: list[Any]) -> None:
    (reject,) = sample([{"conversations": odd}], rows=1)
    assert isinstance(reject, Reject)
    assert reject.reason == "roles do not alternate"


@pytest.mark.parametrize("path", ["../secret.jpg", "coco/../../secret.jpg", "{root}/secret.jpg", "a\0b.jpg", ""])
def test_an_image_path_that_leads_elsewhere_is_never_read(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(make_image(1))
    root = tmp_path / "root"
    (root / "coco").mkdir(parents=True)
    (reject,) = sample([{**make_item(1), "image": path.format(root=tmp_path)}], rows=1, image_root=root)
    assert isinstance(reject, Reject)


def test_a_picture_of_the_validation_split_is_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(make_image(1))
    held_out = {compute_image_id(make_image(1))}
    (reject,) = sample([make_item(1, image="a.jpg")], rows=1, image_root=tmp_path, held_out=held_out)
    assert isinstance(reject, Reject)
    assert reject.reason == "picture is in the validation split"


def test_a_row_that_comes_twice_is_taken_once() -> None:
    results = sample([make_item(1), make_item(2), make_item(1), make_item(1)], rows=4)
    assert sum(isinstance(row, Row) for row in results) == 2
    assert [row.reason for row in results if isinstance(row, Reject)] == ["repeats another row"] * 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,image", "give a JSON list, or JSON lines"),
        ('[{"id": 1}, {"id"', "row 1: not valid JSON"),
    ],
)
def test_a_file_without_rows_is_one_clear_line(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=told) as excinfo:
        list(sample_instruction_rows(file, image_root=tmp_path, seed=0, rows=1))
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("options", [{}, {"rows": 1, "fraction": 0.5}, {"rows": 0}, {"fraction": 0}, {"fraction": 1.1}])
def test_a_sample_that_makes_no_sense_is_refused_at_once(options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "llava.json"
    file.write_text("[]")
    with pytest.raises(UsageError):
        sample_instruction_rows(file, image_root=tmp_path, seed=0, **options)


def test_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        sample_instruction_rows(tmp_path / "llava.json", image_root=tmp_path, seed=0, rows=1)
    (tmp_path / "llava.json").write_text("[]")
    with pytest.raises(UsageError, match="no such directory"):
        sample_instruction_rows(tmp_path / "llava.json", image_root=tmp_path / "pictures", seed=0, rows=1)


def test_an_empty_list_gives_an_empty_sample() -> None:
    assert sample([], rows=3) == []
    assert sample([], fraction=0.5) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def measure_peak(items: int) -> int:
        file = tmp_path / f"{items}.json"
        file.write_text(json.dumps([make_item(number) for number in range(items)]))
        tracemalloc.start()
        assert sum(1 for _ in sample_instruction_rows(file, image_root=tmp_path, seed=0, rows=50)) == 50
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    measure_peak(100)  # exclude memory of imports and caches
    assert measure_peak(5000) < 1.2 * measure_peak(500)
