"""Rows with real pictures, items in LLaVA's format, and what a folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.records import Message, Turn

CAPABILITIES = ("color", "shape", "counting")


def make_image(number: int, *, file_format: str = "JPEG", **options: Any) -> bytes:
    """A small picture file, another one for each number up to 65,535."""
    out = BytesIO()
    Image.new("RGB", (32, 24), (number % 256, number // 256, 77)).save(out, file_format, **options)
    return out.getvalue()


def make_row(number: int, *, k: int = 1, data: bytes | None = None) -> QuestionRow:
    """A compositional row with two turns about its own picture."""
    data = data or make_image(number, file_format="PNG")
    capabilities = CAPABILITIES[:k]
    turns = tuple(
        Turn(f"Question {index} about {number}?", f"answer {index}", capabilities, capabilities, 90) for index in (1, 2)
    )
    messages = [
        message for turn in turns for message in (Message("user", turn.question), Message("assistant", turn.answer))
    ]
    return QuestionRow(
        id=f"{number:032x}",
        messages=tuple(messages),
        source="compact",
        k=k,
        capabilities=capabilities,
        turns=turns,
        image_id=compute_image_id(data),
        image_source="scenes",
        image_license="CC0-1.0",
        teacher="scenes",
        verifier="scenes",
        preset_version="paper-1",
        read_images=(lambda: data,),
    )


def make_rows(count: int) -> Iterator[QuestionRow]:
    """`count` compositional rows, k = 1, 2, 3 in turn."""
    return (make_row(number, k=number % 3 + 1) for number in range(count))


def make_item(number: int, *, image: str | None = None) -> dict[str, Any]:
    """One item of LLaVA's format."""
    image_token = "<image>\n" if image else ""
    conversations = [
        {"from": "human", "value": f"{image_token}What is number {number}?"},
        {"from": "gpt", "value": f"It is {number}."},
    ]
    return {"id": str(number), **({"image": image} if image else {}), "conversations": conversations}


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
