"""Makes the inputs of benchmarks/released.py: images, rows about them, a journal and a file in LLaVA's format.

The images are JPEG files of noise of about 100 KB, so that Parquet cannot compress them. A number in the header makes
each file unique. All steps, ours and the baselines, use the same rows.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

from compact_hf.capabilities import CAPABILITIES as ATOMS
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.records import Conversation, ImageInfo, Message, Row, Turn, digest, to_json
from compact_hf.runs.journal import FinishedImage, Journal

EDGE = 342  # pixels; noise of this size takes about 100 KB as a JPEG
UNIQUE_IMAGES = 50  # images with different pixels; the others are copies that differ in four bytes of the header
CAPABILITIES = ("color", "shape", "counting")
VOCABULARY_SIZE = 5000  # about the number of distinct words in 100,000 questions that people wrote about images


@cache
def _render_noise(number: int, edge: int) -> tuple[bytes, bytes]:
    """Return a JPEG file in two parts, without the four bytes of its JFIF density between them."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    offset = out.getvalue().index(b"JFIF\0") + 8
    return out.getvalue()[:offset], out.getvalue()[offset + 4 :]


def make_image(number: int, edge: int = EDGE) -> bytes:
    """Return a JPEG file of about 100 KB that is unique for each number."""
    head, tail = _render_noise(number % UNIQUE_IMAGES, edge)
    return b"".join((head, number.to_bytes(4, "big"), tail))


def iter_rows(ids: list[str]) -> Iterator[Row]:
    """Yield a row with three turns for each image id, with k = 1, 2, 3 in turn."""
    for number, image_id in enumerate(ids):
        combination = CAPABILITIES[: number % 3 + 1]
        turns = tuple(
            Turn(f"Question {index} about {number}?", "red", combination, combination, 90) for index in range(3)
        )
        messages = [
            message for turn in turns for message in (Message("user", turn.question), Message("assistant", turn.answer))
        ]
        yield QuestionRow(
            id=digest(number),
            messages=tuple(messages),
            source="compact",
            k=len(combination),
            capabilities=combination,
            turns=turns,
            image_id=image_id,
            image_source="noise",
            image_license="CC0-1.0",
            teacher="none",
            verifier="none",
            preset_version="none",
            read_images=(partial(make_image, number),),
        )


def iter_records(ids: list[str]) -> Iterator[dict[str, Any]]:
    """Return the same rows as records, for the baselines that write them without compact_hf."""
    from compact_hf.dataset.schema import features, to_record

    columns = features(("compact",))
    return (to_record(row, [read() for read in row.read_images], columns) for row in iter_rows(ids))


def compute_image_ids(count: int) -> list[str]:
    """Return the ids of the first `count` images, as a run's journal has them."""
    return [compute_image_id(make_image(number)) for number in range(count)]


def make_turns(number: int) -> tuple[Turn, ...]:
    """Return four or five questions about an image, of one k, with 6 to 14 words each and few near-duplicates."""
    rng = random.Random(number)
    k = rng.randint(1, 3)
    turns = []
    for _ in range(rng.randint(4, 5)):
        combination = tuple(sorted(rng.sample(list(ATOMS), k)))
        # The exponent makes some words far more frequent than others, as in natural language.
        words = (f"word{int(VOCABULARY_SIZE ** rng.random())}" for _ in range(rng.randint(6, 14)))
        turns.append(
            Turn(" ".join(words), f"answer {int(VOCABULARY_SIZE ** rng.random())}", combination, combination, 90)
        )
    return tuple(turns)


def _make_outcome(number: int) -> Outcome:
    turns = make_turns(number)
    k = len(turns[0].capabilities)
    return Outcome(k, Conversation(digest(number), k, turns), (), (), "none", "none")


def write_journal(count: int, run: Path) -> None:
    """Write the journal of a run over `count` images."""
    identity = {"source": "scenes", "method": "compact", "preset": "efficient@1"}
    with Journal.open(run, identity) as journal:
        for number in range(count):
            image = ImageInfo(digest(number), f"scene:{number}", 64, 64, "scenes")
            journal.record_inspection(image.ref, "", image)
            journal.record_outcome(FinishedImage(image.image_id, image.ref, to_json(_make_outcome(number)), 5))


def write_llava_file(directory: Path, megabytes: float) -> Path:
    """Write a file in LLaVA's format, and an image for every two items.

    Items have about 1,500 bytes, as in LLaVA-665K.
    """
    (directory / "coco").mkdir(parents=True)
    answer = json.dumps("What is to be seen there is said in so many words. " * 4)
    path, number = directory / "llava.json", 0
    with path.open("w", encoding="utf-8") as out:
        while out.tell() < megabytes * 1e6:
            ref = f"coco/{number // 2:012}.jpg"
            if number % 2 == 0:
                image_path = directory / "coco" / f"{number // 2 % UNIQUE_IMAGES:012}.jpg"
                if number // 2 < UNIQUE_IMAGES:
                    image_path.write_bytes(make_image(number // 2, edge=48))
                else:
                    os.link(image_path, directory / ref)
            turns = ", ".join(
                f'{{"from": "human", '
                f'"value": "{"" if index else "<image>" + chr(92) + "n"}Question {index} of {number}?"}}, '
                f'{{"from": "gpt", "value": {answer}}}'
                for index in range(5)
            )
            out.write(f'{"," if number else "["}\n{{"id": "{number}", "image": "{ref}", "conversations": [{turns}]}}')
            number += 1
        out.write("\n]\n")
    return path
