"""Rows with real pictures for the tests of a release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

from compact_hf.images.look import image_id_of
from compact_hf.records import Message, Row, Turn

CAPABILITIES = ("color", "shape", "counting", "text_recognition")


@cache
def picture(number: int, *, name: str = "JPEG") -> bytes:
    """A small picture file, another one for each number."""
    from PIL import Image

    out = BytesIO()
    Image.new("RGB", (32, 24), (number % 256, number // 256 % 256, 77)).save(out, name)
    return out.getvalue()


def row(number: int, *, k: int = 1) -> Row:
    """A compositional row with two turns."""
    data = picture(number)
    turns = tuple(
        Turn(f"Question {at} about picture {number}?", f"answer {at}", CAPABILITIES[:k], CAPABILITIES[:k], 90)
        for at in range(2)
    )
    messages = [
        message for turn in turns for message in (Message("user", turn.question), Message("assistant", turn.answer))
    ]
    return Row(
        id=f"{number:032x}",
        messages=tuple(messages),
        source="compact",
        k=k,
        capabilities=CAPABILITIES[:k],
        turns=turns,
        image_id=image_id_of(data),
        image_source="scenes",
        image_license="CC0-1.0",
        teacher="scenes",
        verifier="scenes",
        preset_version="paper-1",
        read_picture=lambda: data,
    )


def rows(count: int) -> Iterator[Row]:
    """`count` compositional rows of k = 1, 2, 3 in turn."""
    return (row(number, k=number % 3 + 1) for number in range(count))


def llava_item(number: int, *, image: str | None = None) -> dict[str, object]:
    """One item of LLaVA's format."""
    mark = "<image>\n" if image else ""
    conversations = [
        {"from": "human", "value": f"{mark}What is number {number}?"},
        {"from": "gpt", "value": f"It is {number}."},
    ]
    return {"id": str(number), **({"image": image} if image else {}), "conversations": conversations}


@pytest.fixture
def llava(tmp_path: Path) -> tuple[Path, Path]:
    """A LLaVA-format file of 6 rows with pictures and 4 without, and its image root."""
    root = tmp_path / "pictures"
    (root / "coco").mkdir(parents=True)
    items = []
    for number in range(10):
        image = f"coco/{number}.jpg" if number < 6 else None
        if image:
            (root / image).write_bytes(picture(1000 + number))
        items.append(llava_item(number, image=image))
    file = tmp_path / "llava.json"
    file.write_text(json.dumps(items))
    return file, root
