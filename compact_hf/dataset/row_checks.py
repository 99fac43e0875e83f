"""What one row of a release must fulfil. Pure: in goes a record as Parquet holds it, out come its defects.

A defect is a pair: the name of the check, a short fixed phrase under which defects are counted, and what was got.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.dataset.schema import INSTRUCTION, get_split, get_subset
from compact_hf.images.codec import ImageError, clean_image, decode, strip_metadata
from compact_hf.records import MAX_CONFIDENCE

RowDefect = tuple[str, str]
Record = dict[str, Any]

_PROVENANCE_COLUMNS: Final = ("teacher", "verifier", "preset_version")
_IMAGE_COLUMNS: Final = ("image_id", "image_source", "image_license")
_NULLABLE_COLUMNS: Final = ("k", *_IMAGE_COLUMNS, *_PROVENANCE_COLUMNS)
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{32}")
_ABSOLUTE_PATH: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")


def iter_defects(record: Record, *, subset: str, split: str) -> Iterator[RowDefect]:
    """Yield every defect of a record of `features()` that lies in this subset and split."""
    if null_column := _find_null_column(record):
        yield "null value", null_column
        return  # the other checks could not look at it
    yield from _check_location(record, subset, split)
    yield from _check_messages(record)
    yield from _check_paths(record)
    yield from _check_images(record)
    yield from _check_instruction(record) if record["k"] is None else _check_compositional(record)


def _find_null_column(record: Record) -> str:
    """Return the name of a column that holds a null where none may be, or an empty string."""
    required = (name for name in record if name not in _NULLABLE_COLUMNS)
    return next((name for name in required if _holds_null(record[name])), "")


def _holds_null(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_null, value))
    if isinstance(value, dict):
        return any(_holds_null(inner) for name, inner in value.items() if name != "path")
    return value is None


def _check_location(record: Record, subset: str, split: str) -> Iterator[RowDefect]:
    k, image_id = record["k"], record["image_id"]
    if image_id is not None and not _IMAGE_ID.fullmatch(image_id):
        yield "image_id is no hash", repr(image_id)
        return
    if get_subset(k, image_id) != subset:
        yield "wrong leaf", f"belongs into {get_subset(k, image_id)}"
    if get_split(k, image_id) != split:
        yield "wrong split", f"belongs into {get_split(k, image_id)}"


def _check_messages(record: Record) -> Iterator[RowDefect]:
    messages = record["messages"]
    roles = [message["role"] for message in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        yield "roles do not alternate", " ".join(roles) or "no messages"
    for message in messages:
        if "<image>" in message["content"]:
            yield "<image> in the text", repr(message["content"][:80])
        if not message["content"].strip():
            yield "empty message", message["role"]


def _check_paths(record: Record) -> Iterator[RowDefect]:
    for name, value in record.items():
        if isinstance(value, str) and _ABSOLUTE_PATH.match(value):
            yield "absolute path", f"{name} is {value!r}"
    for image in record["images"]:
        if re.search(r"[/\\]", image["path"] or ""):
            yield "absolute path", f"the picture's path names folders: {image['path']!r}"


def _check_images(record: Record) -> Iterator[RowDefect]:
    images = record["images"]
    if len(images) != (record["image_id"] is not None):
        yield "picture and image_id do not match", f"{len(images)} pictures, image_id {record['image_id']}"
    for name in _IMAGE_COLUMNS:
        if (record[name] is None) != (record["image_id"] is None):
            yield "picture and image_id do not match", f"{name} is {record[name]}"
    for image in images:
        try:
            decode(strip_metadata(image["bytes"]), target_edge=1)
        except ImageError as error:
            yield "picture does not decode", str(error)
            continue
        # Cleaning changes nothing that is clean: no EXIF, GPS, XMP, comment, thumbnail or second frame is left.
        if clean_image(image["bytes"]) != image["bytes"]:
            yield "picture is not clean", "has metadata, an orientation, further frames or no proper end"


def _check_instruction(record: Record) -> Iterator[RowDefect]:
    if record["source"] != INSTRUCTION:
        yield "instruction row with other facts", f"k is null but source is {record['source']}"
    for name in ("capabilities", "turns", *_PROVENANCE_COLUMNS):
        if record[name]:
            yield "instruction row with other facts", f"{name} is {record[name]}"


def _check_compositional(record: Record) -> Iterator[RowDefect]:
    if record["source"] == INSTRUCTION:
        yield "instruction row with other facts", f"k is {record['k']}"
    for name in _PROVENANCE_COLUMNS:
        if not record[name]:
            yield "provenance is missing", name
    if not record["turns"]:
        yield "no turns", ""
    for turn in record["turns"]:
        yield from _check_turn(turn, record["k"])
    turn_capabilities = set(chain.from_iterable(turn["capabilities"] for turn in record["turns"]))
    if len(record["capabilities"]) != len(turn_capabilities) or set(record["capabilities"]) != turn_capabilities:
        yield "capabilities are not those of the turns", ", ".join(record["capabilities"])
    yield from _check_turn_messages(record)


def _check_turn(turn: Record, k: int) -> Iterator[RowDefect]:
    requested, verified = turn["capabilities"], turn["verified_capabilities"]
    if unknown := set(requested) - CAPABILITIES.keys():
        yield "unknown capability", ", ".join(sorted(unknown))
    if len(requested) != k or len(set(requested)) != k:
        yield "k is not the number of capabilities", f"k = {k}, {', '.join(requested)}"
    if len(verified) != len(set(verified)) or set(verified) != set(requested):
        yield "verified capabilities differ", f"asked {', '.join(requested)}; verified {', '.join(verified)}"
    if not 0 <= turn["confidence"] <= MAX_CONFIDENCE:
        yield "confidence out of range", str(turn["confidence"])


def _check_turn_messages(record: Record) -> Iterator[RowDefect]:
    contents = [message["content"] for message in record["messages"]]
    turns = record["turns"]
    exchanges = zip(turns, contents[::2], contents[1::2], strict=False)
    if 2 * len(turns) != len(contents) or any(
        turn["question"] not in question or turn["answer"] != answer for turn, question, answer in exchanges
    ):
        yield "turns and messages differ", f"{len(turns)} turns, {len(contents)} messages"
