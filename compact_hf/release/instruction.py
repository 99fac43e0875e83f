"""The instruction part: a sample of a LLaVA-format file, such as llava_v1_5_mix665k.json, as rows of a release.

In: a JSON list of `{id, image, conversations: [{from, value}]}`, `image` left out where there is no picture, and
the folder that the image paths start from. Out: a `Row` or a `Reject` for each row of the sample.

The sample is the n smallest hashes of (seed, row content): the same rows in any order give the same sample in the
same order, and a larger n only adds to it. The file is read as a stream, so that only the sample is in memory.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Container, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from compact_hf.errors import UsageError
from compact_hf.images.folder import Folder
from compact_hf.images.look import look
from compact_hf.records import Message, Reject, Row, digest
from compact_hf.release.layout import INSTRUCTION

_ROLES: Final[dict[str, Literal["user", "assistant"]]] = {"human": "user", "gpt": "assistant"}
_TURN_OF: Final = ("user", "assistant")
_MARK: Final = "<image>"
_MARK_AND_BREAK: Final = re.compile(r"<image>\n|\n?<image>")


def instruction_rows(
    file: Path,
    *,
    image_root: Path,
    seed: int,
    rows: int | None = None,
    fraction: float | None = None,
    held_out: Container[str] = frozenset(),
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
    _refuse_other_formats(file)
    images = Folder(image_root)
    return _sampled(file, images, seed, rows, fraction, held_out)


def without_image_marks(text: str) -> str:
    """Return `text` without any `<image>` and the line break beside it, and without white space around it."""
    while _MARK in text:  # what is left after one pass may spell the mark again
        text = _MARK_AND_BREAK.sub("", text)
    return text.strip()


def _sampled(
    file: Path, images: Folder, seed: int, rows: int | None, fraction: float | None, held_out: Container[str]
) -> Iterator[Row | Reject]:
    if fraction is not None:
        total = sum(1 for _ in _items(file))
        rows = min(total, max(1, round(fraction * total)))
    for text, copies in _smallest(_items(file), rows or 0, seed):
        item = json.loads(text)
        for _ in range(copies - 1):
            yield _reject("repeats another row", item)
        yield _row(item, images, held_out)


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


def _row(item: Any, images: Folder, held_out: Container[str]) -> Row | Reject:
    messages = _messages(item)
    if isinstance(messages, Reject):
        return messages
    row = Row(id=digest(INSTRUCTION, item), messages=messages, source=INSTRUCTION)
    image = item.get("image")
    if image is None:
        if any(_MARK in turn["value"] for turn in item["conversations"]):
            return _reject("names no picture for its <image>", item)
        return row
    if not isinstance(image, str) or not image or "\0" in image:
        return _reject("image is not a path", item, repr(image))
    picture = look(images, image)
    if isinstance(picture, Reject):
        return replace(picture, stage="instruction", subject=_name(item), detail=f"{image}: {picture.detail}")
    if picture.image_id in held_out:
        return _reject("picture is in the validation split", item, image)
    return replace(
        row,
        image_id=picture.image_id,
        # LLaVA's pool keeps each data set in a folder of its own: coco/, gqa/, ocr_vqa/, textvqa/, vg/.
        image_source=PurePosixPath(image).parts[0] if "/" in image else images.image_source,
        image_license=picture.image_license,
        read_picture=partial(images.read, image),
    )


def _messages(item: Any) -> tuple[Message, ...] | Reject:
    """Return the item's messages: user and assistant in turn, none empty."""
    if not isinstance(item, dict):
        return _reject("not an object", item, type(item).__name__)
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        return _reject("no conversations", item)
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return _reject("message without text", item, repr(turn)[:80])
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            return _reject("unknown role", item, repr(turn.get("from")))
        messages.append(Message(role, without_image_marks(turn["value"])))
    if messages[0].role == "assistant":
        # LLaVA's own trainer skips a first message that is not the user's; a few of its rows have one.
        del messages[0]
    alternate = all(message.role == _TURN_OF[at % 2] for at, message in enumerate(messages))
    if not messages or len(messages) % 2 or not alternate:
        return _reject("roles do not alternate", item, " ".join(message.role for message in messages))
    if not all(message.content for message in messages):
        return _reject("empty message", item)
    return tuple(messages)


def _reject(reason: str, item: Any, detail: str = "") -> Reject:
    return Reject("instruction", reason, _name(item), detail)


def _name(item: Any) -> str:
    return str(item.get("id", "")) if isinstance(item, dict) else ""


def _items(file: Path) -> Iterator[Any]:
    import ijson

    try:
        with file.open("rb") as stream:
            yield from ijson.items(stream, "item", use_float=True)
    except ijson.JSONError as error:
        reason = str(error).strip().split("\n")[0].strip()  # the lines after it quote the file
        raise UsageError(f"{file} is not valid JSON ({reason}); get or write it anew") from None


def _refuse_other_formats(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            start = stream.read(4096).lstrip()[:1]
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); give LLaVA's JSON file") from None
    if start != b"[":
        raise UsageError(
            f"{file} does not start as a JSON list; LLaVA's format is one list of objects "
            "(`jq -s .` makes one of JSON lines)"
        )
