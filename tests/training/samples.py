"""A small release whose questions about coloured discs and squares a tiny model can learn something of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.dataset.writer import write_dataset
from compact_hf.images.inspection import compute_image_id
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.records import Message, Row, Turn

COLORS = ("red", "green", "blue")


def picture(color: str, *, shape: str = "disc", size: tuple[int, int] = (60, 40), mark: int = 0) -> bytes:
    """A PNG file of one thing on grey; `mark` makes it another file of the same picture, all but one pixel."""
    image = Image.new("RGB", size, (180, 180, 180))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "disc" else draw.rectangle)((10, 5, 40, 35), fill=color)
    image.putpixel((size[0] - 1, 0), (mark % 256, mark // 256, 0))
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def row(number: int, *, with_picture: bool = True) -> Row:
    """A row with one turn of k 1 or two of k 2, or an instruction row without a picture."""
    if not with_picture:
        said = (Message("user", f"What is {number} plus one?"), Message("assistant", str(number + 1)))
        return Row(id=f"text-{number}", messages=said, source="instruction")
    drawn = random.Random(number)
    color, shape, k = drawn.choice(COLORS), drawn.choice(("disc", "square")), 1 + number % 2
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
    data = picture(color, shape=shape, mark=number)
    return Row(
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
        read_image=lambda: data,
    )


def release(folder: Path, *, rows: int, text_rows: int = 0) -> Path:
    """Write a release of `rows` rows with a picture and `text_rows` without one."""

    def every() -> Iterator[Row]:
        yield from (row(number) for number in range(rows))
        yield from (row(number, with_picture=False) for number in range(text_rows))

    write_dataset(every(), folder, version="1.0.0")
    return folder


def base_and_release(folder: Path, *, rows: int, text_rows: int = 0) -> Path:
    """Put `tiny`, a tiny LLaVA that knows the words, and `release` into a folder, and return it."""
    build_tiny(folder / "tiny", texts(rows), seed=0)
    release(folder / "release", rows=rows, text_rows=text_rows)
    return folder


def settings(folder: Path, **other: str) -> dict[str, str]:
    """What replaces a recipe's settings, to train on all rows of what `base_and_release` put into a folder."""
    return {
        "model_name_or_path": str(folder / "tiny"),
        "dataset_name": str(folder / "release"),
        "dataset_config": "all",
        **other,
    }


def options(settings: dict[str, str]) -> list[str]:
    """Settings as a command line has them."""
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def texts(rows: int) -> list[str]:
    """Every message of the first `rows` rows: what a tiny model's vocabulary is made from."""
    return [message.content for number in range(rows) for message in row(number).messages]
