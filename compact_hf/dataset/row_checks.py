"""Checks single rows of a release.

A defect is a pair of the name of the check (a fixed phrase by which defects are counted) and a detail. This module
checks what is required of all rows; the `RowKind` of a method checks what is required of its own rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from compact_hf.dataset.row_kinds import INSTRUCTION, get_row_kind
from compact_hf.dataset.schema import COMMON_COLUMNS, get_empty_value, get_split
from compact_hf.images.codec import ImageError, clean_image, decode, strip_metadata
from compact_hf.methods.row_kind import Column, Record, RowDefect, RowKind
from compact_hf.records import is_validation_image, split_image_ids
from compact_hf.wording import format_count

_PROVENANCE_COLUMNS: Final = ("teacher", "verifier", "preset_version")
_IMAGE_COLUMNS: Final = ("image_id", "image_source", "image_license")
_NULLABLE_COLUMNS: Final = (*_IMAGE_COLUMNS, *_PROVENANCE_COLUMNS)
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{32}")
# The start of a POSIX, network or home path, of a Windows path with a drive, or of a file URL.
_ABSOLUTE_PATH: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")


def iter_defects(record: Record, *, columns: Mapping[str, Any], subset: str, split: str) -> Iterator[RowDefect]:
    """Yield every defect of a row.

    Args:
        record (`Record`): a row as read from a Parquet file, with all of `columns`.
        columns (`Mapping[str, Any]`): the features of the release.
        subset (`str`): subset of the file that contains the row.
        split (`str`): split of the file that contains the row.
    """
    kind = get_row_kind(record["source"] or "")
    if kind is None:
        yield "unknown source", f"no installed method has the name {record['source']!r}"
        return
    # The order matters: without these columns, or with nulls in them, the checks below would raise.
    own_columns = _own_columns(kind.name)
    if null_column := _find_null_column(record, own_columns):
        yield "null value", null_column
        return  # the other checks cannot handle nulls
    if missing := own_columns.keys() - columns.keys():
        yield "column is missing", ", ".join(sorted(missing))
        return
    yield from _check_location(record, kind, subset, split)
    yield from _check_messages(record)
    yield from _check_paths(record)
    yield from _check_images(record)
    yield from _check_foreign_columns(record, columns, own_columns)
    yield from kind.check(record)


@cache  # called for every row
def _own_columns(source: str) -> dict[str, Column]:
    kind = get_row_kind(source)
    return {} if kind is None else kind.columns()


def _find_null_column(record: Record, own_columns: Mapping[str, Any]) -> str:
    """Return the name of the first column with a null that is not allowed there, or an empty string."""
    required = (
        name for name in record if name in own_columns or (name in COMMON_COLUMNS and name not in _NULLABLE_COLUMNS)
    )
    return next((name for name in required if _holds_null(record[name])), "")


def _holds_null(value: Any) -> bool:
    """Return whether a value is null or contains a null; the `path` of an embedded image may be null."""
    if isinstance(value, list):
        return any(map(_holds_null, value))
    if isinstance(value, dict):
        return any(_holds_null(inner) for name, inner in value.items() if name != "path")
    return value is None


def _check_foreign_columns(
    record: Record, columns: Mapping[str, Any], own_columns: Mapping[str, Any]
) -> Iterator[RowDefect]:
    """Yield a defect for each column of another method in which the row has a value."""
    for name in columns.keys() - COMMON_COLUMNS - own_columns.keys():
        if record[name] != get_empty_value(columns[name]):
            check = (
                "instruction row with other facts" if record["source"] == INSTRUCTION else "column of another method"
            )
            yield check, f"{name} is {record[name]}"


def _check_location(record: Record, kind: type[RowKind], subset: str, split: str) -> Iterator[RowDefect]:
    """Check that the row is in the right subset and split, which follow from its content and its image ids."""
    image_id = record["image_id"]
    ids = split_image_ids(image_id)
    # First and alone: the split is computed from the hex digits, and other text would raise an exception.
    if image_id is not None and not (ids and all(map(_IMAGE_ID.fullmatch, ids))):
        yield "image_id is not a hash", repr(image_id)
        return
    if kind.get_subset(record) != subset:
        yield "wrong subset", f"should be in {kind.get_subset(record)}"
    if get_split(record["source"], image_id) != split:
        yield "wrong split", f"should be in {get_split(record['source'], image_id)}"
    if kind.has_validation and len(set(map(is_validation_image, ids))) > 1:
        yield "images of both splits", image_id


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
            yield "absolute path", f"the image's path contains directories: {image['path']!r}"


def _check_images(record: Record) -> Iterator[RowDefect]:
    images = record["images"]
    if len(images) != len(split_image_ids(record["image_id"])):
        yield "image and image_id do not match", f"{format_count(len(images), 'image')}, image_id {record['image_id']}"
    for name in _IMAGE_COLUMNS:
        if (record[name] is None) != (record["image_id"] is None):
            yield "image and image_id do not match", f"{name} is {record[name]}"
    for image in images:
        try:
            # target_edge=1: a JPEG is decoded at 1/8 of its size, which reads all its bytes and is several times
            # faster.
            decode(strip_metadata(image["bytes"]), target_edge=1)
        except ImageError as error:
            yield "image cannot be decoded", str(error)
            continue
        # A clean image has no EXIF, GPS, XMP, comment, thumbnail or second frame: cleaning does not change it.
        if clean_image(image["bytes"]) != image["bytes"]:
            yield "image is not clean", "it has metadata, an orientation or further frames, or is truncated"
