"""Makes rows with real images and items in LLaVA's format, and reads the files of a directory."""

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
    """Return a small image file; it differs for each number up to 65,535."""
    out = BytesIO()
    Image.new("RGB", (32, 24), (number % 256, number // 256, 77)).save(out, file_format, **options)
    return out.getvalue()


def make_row(number: int, *, k: int = 1, data: bytes | None = None) -> QuestionRow:
    """Return a compositional row with two turns about an image of its own."""
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
    """Yield `count` compositional rows with k = 1, 2, 3, 1, and so on."""
    return (make_row(number, k=number % 3 + 1) for number in range(count))


def make_item(number: int, *, image: str | None = None) -> dict[str, Any]:
    """Return one item in LLaVA's format."""
    image_token = "<image>\n" if image else ""
    conversations = [
        {"from": "human", "value": f"{image_token}What is number {number}?"},
        {"from": "gpt", "value": f"It is {number}."},
    ]
    return {"id": str(number), **({"image": image} if image else {}), "conversations": conversations}


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of all files below a directory, including hidden ones, by path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
