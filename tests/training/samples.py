"""Writes a small release with questions about colored discs and squares, from which a tiny model can learn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.dataset.writer import write_dataset
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.models.llava.tiny import ModelSize, build_tiny
from compact_hf.records import Message, Row, Turn

COLORS = ("red", "green", "blue")
SIZE = (60, 40)
MODEL_SIZE = ModelSize(text_layers=1)
"""For tests in which it matters little what a model says."""


def draw_image(color: str, *, shape: str = "disc", size: tuple[int, int] = SIZE, variant: int = 0) -> bytes:
    """Return a PNG file of one shape on gray; `variant` changes one pixel, so that the file is another one."""
    image = Image.new("RGB", size, (180, 180, 180))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "disc" else draw.rectangle)((10, 5, 40, 35), fill=color)
    image.putpixel((size[0] - 1, 0), (variant % 256, variant // 256, 0))
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def make_row(number: int, *, with_image: bool = True, size: tuple[int, int] = SIZE) -> Row:
    """Return a row with one turn of k = 1 or two turns of k = 2, or an instruction row without an image."""
    if not with_image:
        text_messages = (Message("user", f"What is {number} plus one?"), Message("assistant", str(number + 1)))
        return Row(id=f"text-{number}", messages=text_messages, source="instruction")
    rng = random.Random(number)
    color, shape, k = rng.choice(COLORS), rng.choice(("disc", "square")), 1 + number % 2
    turns = (
        (Turn("What color is the thing?", color, ("color",), ("color",), 90),)
        if k == 1
        else (
            Turn("What is the color and shape of the thing?", f"{color} {shape}", *[("color", "shape")] * 2, 90),
            Turn(f"How many {color} {shape}s are there?", "1", *[("color", "shape")] * 2, 90),
        )
    )
    messages = [
        message
        for index, turn in enumerate(turns)
        for message in (
            Message("user", turn.question if index else f"{turn.question}\n{SHORT_ANSWER_INSTRUCTION}"),
            Message("assistant", turn.answer),
        )
    ]
    data = draw_image(color, shape=shape, size=size, variant=number)
    return QuestionRow(
        id=f"row-{number}",
        messages=tuple(messages),
        source="compact",
        k=k,
        capabilities=turns[0].capabilities,
        turns=turns,
        image_id=compute_image_id(data),
        image_source="drawn",
        image_license="CC0-1.0",
        teacher="drawn",
        verifier="drawn",
        preset_version="1",
        read_images=(lambda: data,),
    )


def write_release(
    directory: Path, *, rows: int, text_rows: int = 0, sizes: Sequence[tuple[int, int]] = (SIZE,)
) -> Path:
    """Write a release of `rows` rows with an image, of these sizes in turn, and `text_rows` without one."""

    def iter_rows() -> Iterator[Row]:
        yield from (make_row(number, size=sizes[number % len(sizes)]) for number in range(rows))
        yield from (make_row(number, with_image=False) for number in range(text_rows))

    write_dataset(iter_rows(), directory, sources=("compact",), version="1.0.0")
    return directory


def write_base_and_release(directory: Path, *, rows: int, text_rows: int = 0) -> Path:
    """Write `tiny`, a tiny LLaVA whose vocabulary has the words, and `release` to a directory, and return it."""
    build_tiny(directory / "tiny", texts(rows), seed=0, size=MODEL_SIZE)
    write_release(directory / "release", rows=rows, text_rows=text_rows)
    return directory


def make_settings(directory: Path, **overrides: str) -> dict[str, str]:
    """Return overrides of a recipe, to train on all rows in a directory of `write_base_and_release`."""
    return {
        "model_name_or_path": str(directory / "tiny"),
        "dataset_name": str(directory / "release"),
        "dataset_config": "all",
        **overrides,
    }


def to_cli_args(settings: dict[str, str]) -> list[str]:
    """Return settings as command line arguments."""
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def texts(rows: int) -> list[str]:
    """Return all messages of the first `rows` rows, for the vocabulary of a tiny model."""
    return [message.content for number in range(rows) for message in make_row(number).messages]
