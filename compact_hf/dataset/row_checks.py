"""What one row of a release must fulfil. Pure: in goes a record as Parquet holds it, out come its defects.

A defect is a pair: the name of the check, a short fixed phrase under which defects are counted, and what was got.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.dataset.schema import INSTRUCTION, leaf_of, split_of
from compact_hf.images.codec import PictureError, clean, loaded, stripped
from compact_hf.records import MAX_CONFIDENCE

Defect = tuple[str, str]
Record = dict[str, Any]

_PROVENANCE: Final = ("teacher", "verifier", "preset_version")
_PICTURE: Final = ("image_id", "image_source", "image_license")
_NULLABLE: Final = ("k", *_PICTURE, *_PROVENANCE)
_ID: Final = re.compile(r"[0-9a-f]{32}")
_ABSOLUTE: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")


def defects(record: Record, *, leaf: str, split: str) -> Iterator[Defect]:
    """Yield every defect of a record of `features()` that lies in this leaf and split."""
    if null := _null(record):
        yield "null value", null
        return  # the other checks could not look at it
    yield from _place(record, leaf, split)
    yield from _messages(record)
    yield from _paths(record)
    yield from _pictures(record)
    yield from _instruction(record) if record["k"] is None else _compositional(record)


def _null(record: Record) -> str:
    """Return the name of a column that holds a null where none may be, or an empty string."""
    required = (name for name in record if name not in _NULLABLE)
    return next((name for name in required if _holds_null(record[name])), "")


def _holds_null(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_null, value))
    if isinstance(value, dict):
        return any(_holds_null(inner) for name, inner in value.items() if name != "path")
    return value is None


def _place(record: Record, leaf: str, split: str) -> Iterator[Defect]:
    k, image_id = record["k"], record["image_id"]
    if image_id is not None and not _ID.fullmatch(image_id):
        yield "image_id is no hash", repr(image_id)
        return
    if leaf_of(k, image_id) != leaf:
        yield "wrong leaf", f"belongs into {leaf_of(k, image_id)}"
    if split_of(k, image_id) != split:
        yield "wrong split", f"belongs into {split_of(k, image_id)}"


def _messages(record: Record) -> Iterator[Defect]:
    messages = record["messages"]
    roles = [message["role"] for message in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        yield "roles do not alternate", " ".join(roles) or "no messages"
    for message in messages:
        if "<image>" in message["content"]:
            yield "<image> in the text", repr(message["content"][:80])
        if not message["content"].strip():
            yield "empty message", message["role"]


def _paths(record: Record) -> Iterator[Defect]:
    for name, value in record.items():
        if isinstance(value, str) and _ABSOLUTE.match(value):
            yield "absolute path", f"{name} is {value!r}"
    for image in record["images"]:
        if re.search(r"[/\\]", image["path"] or ""):
            yield "absolute path", f"the picture's path names folders: {image['path']!r}"


def _pictures(record: Record) -> Iterator[Defect]:
    images = record["images"]
    if len(images) != (record["image_id"] is not None):
        yield "picture and image_id do not match", f"{len(images)} pictures, image_id {record['image_id']}"
    for name in _PICTURE:
        if (record[name] is None) != (record["image_id"] is None):
            yield "picture and image_id do not match", f"{name} is {record[name]}"
    for image in images:
        try:
            loaded(stripped(image["bytes"]), at_least=1)
        except PictureError as error:
            yield "picture does not decode", str(error)
            continue
        # Cleaning changes nothing that is clean: no EXIF, GPS, XMP, comment, thumbnail or second frame is left.
        if clean(image["bytes"]) != image["bytes"]:
            yield "picture is not clean", "has metadata, an orientation, further frames or no proper end"


def _instruction(record: Record) -> Iterator[Defect]:
    if record["source"] != INSTRUCTION:
        yield "instruction row with other facts", f"k is null but source is {record['source']}"
    for name in ("capabilities", "turns", *_PROVENANCE):
        if record[name]:
            yield "instruction row with other facts", f"{name} is {record[name]}"


def _compositional(record: Record) -> Iterator[Defect]:
    if record["source"] == INSTRUCTION:
        yield "instruction row with other facts", f"k is {record['k']}"
    for name in _PROVENANCE:
        if not record[name]:
            yield "provenance is missing", name
    if not record["turns"]:
        yield "no turns", ""
    for turn in record["turns"]:
        yield from _turn(turn, record["k"])
    named = set(chain.from_iterable(turn["capabilities"] for turn in record["turns"]))
    if len(record["capabilities"]) != len(named) or set(record["capabilities"]) != named:
        yield "capabilities are not those of the turns", ", ".join(record["capabilities"])
    yield from _turns_as_messages(record)


def _turn(turn: Record, k: int) -> Iterator[Defect]:
    asked, found = turn["capabilities"], turn["verified_capabilities"]
    if unknown := set(asked) - CAPABILITIES.keys():
        yield "unknown capability", ", ".join(sorted(unknown))
    if len(asked) != k or len(set(asked)) != k:
        yield "k is not the number of capabilities", f"k = {k}, {', '.join(asked)}"
    if len(found) != len(set(found)) or set(found) != set(asked):
        yield "verified capabilities differ", f"asked {', '.join(asked)}; verified {', '.join(found)}"
    if not 0 <= turn["confidence"] <= MAX_CONFIDENCE:
        yield "confidence out of range", str(turn["confidence"])


def _turns_as_messages(record: Record) -> Iterator[Defect]:
    contents = [message["content"] for message in record["messages"]]
    turns = record["turns"]
    said = zip(turns, contents[::2], contents[1::2], strict=False)
    if 2 * len(turns) != len(contents) or any(
        turn["question"] not in asked or turn["answer"] != answer for turn, asked, answer in said
    ):
        yield "turns and messages differ", f"{len(turns)} turns, {len(contents)} messages"
