"""Tests that files in all usual formats are read alike by `annotate`, `augment`, `assemble` and `evaluate`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compact_hf.dataset.instruction import sample_instruction_rows
from compact_hf.images.folder import ImageFolder
from compact_hf.images.inspection import compute_image_id, inspect_image
from compact_hf.images.question_rows import Exchange
from compact_hf.images.questions import read_llava_questions
from compact_hf.records import ImageInfo, Row
from tests.dataset.samples import make_image
from tests.evaluation.samples import load_questions

Write = Callable[[Path, list[dict[str, Any]]], Path]

IMAGE = make_image(1)
LLAVA = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a cat"}]
TRL = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "a cat"}]
PARTS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
]
PARTS_WITH_PATH = [
    {"role": "user", "content": [{"type": "image", "image": "sub/x.png"}, PARTS[0]["content"][1]]},
    PARTS[1],
]


def write_list(directory: Path, rows: list[dict[str, Any]]) -> Path:
    (directory / "rows.json").write_text(json.dumps(rows))
    return directory / "rows.json"


def write_lines(directory: Path, rows: list[dict[str, Any]]) -> Path:
    (directory / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return directory / "rows.jsonl"


def write_list_with_mark(directory: Path, rows: list[dict[str, Any]]) -> Path:
    (directory / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
    return directory / "rows.json"


def write_lines_with_mark(directory: Path, rows: list[dict[str, Any]]) -> Path:
    (directory / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    return directory / "rows.jsonl"


ROWS: dict[str, dict[str, Any]] = {
    "LLaVA": {"image": "sub/x.png", "conversations": LLAVA},
    "a list of one image": {"image": ["sub/x.png"], "conversations": LLAVA},
    "user and assistant": {
        "image": "sub/x.png",
        "conversations": [{"from": "user", "value": "What is it?"}, {"from": "assistant", "value": "a cat"}],
    },
    "system message": {"image": "sub/x.png", "conversations": [{"from": "system", "value": "Be brief."}, *LLAVA]},
    "ShareGPT": {"messages": TRL, "images": ["sub/x.png"]},
    "ShareGPT with a system message": {
        "messages": [{"role": "system", "content": "Be brief."}, *TRL],
        "images": ["sub/x.png"],
    },
    "TRL's parts": {"messages": PARTS, "images": ["sub/x.png"]},
    "path in a part": {"messages": PARTS_WITH_PATH},
    "absolute path": {"image": "{root}/sub/x.png", "conversations": LLAVA},
    "path with ..": {"image": "sub/../sub/x.png", "conversations": LLAVA},
}


def test_paths_that_are_no_regular_files_are_rejects_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "x.png").write_bytes(IMAGE)
    names = ["pipe.png", "zero.png", "circle.png", "x.png"]
    file = write_lines(tmp_path, [{"image": name, "conversations": LLAVA} for name in names])
    source = read_llava_questions(file, ImageFolder(tmp_path))
    results = {ref: inspect_image(source, ref) for ref in source.refs()}
    assert [ref for ref in names if isinstance(results[ref], ImageInfo)] == ["x.png"]


CASES = [
    *((shape, write_lines) for shape in ROWS),
    *(("LLaVA", write) for write in (write_list, write_list_with_mark, write_lines_with_mark)),
]


@pytest.mark.parametrize(("shape", "write"), CASES)
def test_a_row_of_any_shape_is_a_question_about_its_image(shape: str, write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.png").write_bytes(IMAGE)
    text = json.dumps({"id": "7", **ROWS[shape]}).replace("{root}", str(tmp_path))
    file = write(tmp_path, [json.loads(text)])

    source = read_llava_questions(file, ImageFolder(tmp_path))
    (ref,) = source.refs()
    image = inspect_image(source, ref)
    assert isinstance(image, ImageInfo)
    assert image.image_id == compute_image_id(IMAGE)
    assert [exchange for row in source.read_rows(ref) for exchange in row.exchanges] == [
        Exchange("What is it?", ("a cat",))
    ]

    (row,) = sample_instruction_rows(file, image_root=tmp_path, seed=0, fraction=1)
    assert isinstance(row, Row)
    assert [(message.role, message.content) for message in row.messages] == [
        ("user", "What is it?"),
        ("assistant", "a cat"),
    ]
    assert (row.image_id, row.image_source) == (image.image_id, "sub")
    assert row.read_images[0]() == IMAGE

    if shape != "path in a part":  # evaluation needs a column of images
        (question,) = load_questions(str(file)).questions
        assert (question.question, question.answers) == ("What is it?", ("a cat",))
        assert question.read_image is not None
        assert question.read_image() == IMAGE
