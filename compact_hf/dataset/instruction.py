"""The instruction part: a sample of a LLaVA-format file, such as llava_v1_5_mix665k.json, as rows of a release.

In: a JSON list in LLaVA's format (images/conversations.py) and the folder that the image paths start from. Out: a
`Row` or a `Reject` for each row of the sample.

The sample is the n smallest hashes of (seed, row content): the same rows in any order give the same sample in the
same order, and a larger n only adds to it. The file is read as a stream, so that only the sample is in memory. Its
pictures are looked at a few ahead, each once (image_similarity.py).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from compact_hf.dataset.image_similarity import Seen
from compact_hf.dataset.schema import INSTRUCTION
from compact_hf.errors import UsageError
from compact_hf.images.conversations import IMAGE_MARK, Defect, items_of, messages_of, refuse_other_formats
from compact_hf.images.folder import Folder
from compact_hf.images.inspection import look
from compact_hf.records import Picture, Reject, Row, digest, from_json, to_json


def instruction_rows(
    file: Path,
    *,
    image_root: Path,
    seed: int,
    rows: int | None = None,
    fraction: float | None = None,
    held_out: Container[str] = frozenset(),
    seen: Seen | None = None,
) -> Iterator[Row | Reject]:
    """Sample a LLaVA-format file.

    Args:
        file (`Path`): a JSON list in LLaVA's format.
        image_root (`Path`): the folder that the rows' `image` paths start from.
        seed (`int`): another seed, another sample.
        rows (`int`, *optional*): how many rows to draw, at least 1; all where the file has fewer.
        fraction (`float`, *optional*): the share of the file's rows to draw instead, above 0 and at most 1; the
            file is then read twice. The paper takes 0.05.
        held_out (`Container[str]`, *optional*): ids of the pictures in the validation split, which must not be
            trained on.
        seen (`Seen`, *optional*): where looks at pictures are kept; they are forgotten without it.

    Returns:
        An iterator over the sample, in the order of the hashes. A row that cannot be used is a `Reject` of stage
        `instruction` and is not replaced by another, so that the sample does not depend on what is on the disk.

    Raises:
        UsageError: the arguments do not fit, there is no such file, or it is not a JSON list (the last also
            while iterating).
        SourceError: there is no such image root.
    """
    if (rows is None) == (fraction is None):
        raise UsageError("an instruction sample needs either a number of rows or a fraction, and not both")
    if rows is not None and rows < 1:
        raise UsageError(f"{rows} instruction rows were asked for; at least 1 is possible, or leave the file out")
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"an instruction fraction of {fraction} was asked for; it must be above 0 and at most 1")
    refuse_other_formats(file)
    images = Folder(image_root)
    return _sampled(file, images, seed, rows, fraction, held_out, seen or Seen())


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One item of the sample: its row as far as the text goes, and the picture that it names, if any."""

    item: Any
    row: Row | Reject
    image: str = ""


def _sampled(
    file: Path,
    images: Folder,
    seed: int,
    rows: int | None,
    fraction: float | None,
    held_out: Container[str],
    seen: Seen,
) -> Iterator[Row | Reject]:
    if fraction is not None:
        total = sum(1 for _ in items_of(file))
        rows = min(total, max(1, round(fraction * total)))
    drawn = chain.from_iterable(_copies(*each) for each in _smallest(items_of(file), rows or 0, seed))
    for one, body in seen.looked(drawn, partial(_place, images), partial(_looked, images)):
        yield _pictured(one, images, held_out, body) if one.image else one.row


def _smallest(items: Iterator[Any], n: int, seed: int) -> Iterator[tuple[str, int]]:
    """Yield the `n` items with the smallest hashes, smallest first, as JSON with how often each came."""
    chosen: dict[int, tuple[str, int]] = {}
    worst_first: list[int] = []  # the negated keys of `chosen`, as a heap
    for item in items:
        key = int(digest(seed, item), 16)
        if key in chosen:
            text, copies = chosen[key]
            chosen[key] = text, copies + 1
        elif len(chosen) < n:
            heapq.heappush(worst_first, -key)
            chosen[key] = json.dumps(item), 1
        elif chosen and key < -worst_first[0]:
            del chosen[-heapq.heapreplace(worst_first, -key)]
            chosen[key] = json.dumps(item), 1
    for key in sorted(chosen):
        yield chosen[key]


def _copies(text: str, copies: int) -> Iterator[_Drawn]:
    item = json.loads(text)
    for _ in range(copies - 1):
        yield _Drawn(item, _reject("repeats another row", item))
    yield _read(item)


def _read(item: Any) -> _Drawn:
    messages = messages_of(item)
    if isinstance(messages, Defect):
        return _Drawn(item, _reject(messages.reason, item, messages.detail))
    row = Row(id=digest(INSTRUCTION, item), messages=messages, source=INSTRUCTION)
    image = item.get("image")
    if image is None:
        if any(IMAGE_MARK in turn["value"] for turn in item["conversations"]):
            return _Drawn(item, _reject("names no picture for its <image>", item))
        return _Drawn(item, row)
    if not isinstance(image, str) or not image or "\0" in image:
        return _Drawn(item, _reject("image is not a path", item, repr(image)))
    return _Drawn(item, row, image)


def _place(images: Folder, drawn: _Drawn) -> str | None:
    """Return what tells the picture from others without reading it: its path, size and time of change."""
    return f"{images.identity}/{drawn.image} {images.stamp(drawn.image)}" if drawn.image else None


def _looked(images: Folder, drawn: _Drawn) -> str | None:
    """Return the picture; None, which is not kept, for what cannot be used now and may be mended."""
    found = look(images, drawn.image)
    return to_json(found) if isinstance(found, Picture) else None


def _pictured(drawn: _Drawn, images: Folder, held_out: Container[str], body: str | None) -> Row | Reject:
    """Return the row with the picture that was seen."""
    item, image = drawn.item, drawn.image
    picture = look(images, image) if body is None else from_json(Picture, body)
    if isinstance(picture, Reject):
        return replace(picture, stage="instruction", subject=_name(item), detail=f"{image}: {picture.detail}")
    if picture.image_id in held_out:
        return _reject("picture is in the validation split", item, image)
    assert isinstance(drawn.row, Row)
    return replace(
        drawn.row,
        image_id=picture.image_id,
        # LLaVA's pool keeps each data set in a folder of its own: coco/, gqa/, ocr_vqa/, textvqa/, vg/.
        image_source=PurePosixPath(image).parts[0] if "/" in image else images.origin(image)[0],
        image_license=picture.image_license,
        read_picture=partial(images.read, image),
    )


def _reject(reason: str, item: Any, detail: str = "") -> Reject:
    return Reject("instruction", reason, _name(item), detail)


def _name(item: Any) -> str:
    return str(item.get("id", "")) if isinstance(item, dict) else ""
