"""Samples the instruction part of a release from a file of conversations, such as llava_v1_5_mix665k.json.

It reads a JSON list or JSON lines (images/json_rows.py) with conversations in the formats of LLaVA, ShareGPT or TRL
(images/conversations.py), and the image files that they name. It yields a `Row` or a `Reject` for each sampled row.

The sample consists of the n rows with the smallest hashes of (seed, row content). The same rows in any order give the
same sample in the same order, and a larger n only adds rows to it. The file is read as a stream, so only the sample is
in memory. Images are read ahead in threads, each only once (image_similarity.py).
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

from compact_hf.dataset.image_similarity import FingerprintCache
from compact_hf.dataset.reasons import InstructionReason
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.errors import UsageError
from compact_hf.images.conversations import (
    Defect,
    find_image_path,
    parse_nonempty_messages,
    refers_to_image,
)
from compact_hf.images.folder import ImageFolder
from compact_hf.images.inspection import inspect_image
from compact_hf.images.json_rows import check_json_rows, iter_json_rows
from compact_hf.images.reasons import RowReason
from compact_hf.records import ImageInfo, Reject, Row, RowReject, digest, from_json, to_json


def sample_instruction_rows(
    file: Path,
    *,
    image_root: Path,
    seed: int,
    rows: int | None = None,
    fraction: float | None = None,
    held_out: Container[str] = frozenset(),
    fingerprint_cache: FingerprintCache | None = None,
) -> Iterator[Row | Reject]:
    """Sample rows of a file of conversations.

    Args:
        file (`Path`): a JSON list or JSON lines; see the module docstring.
        image_root (`Path`): directory to which the `image` paths of the rows are relative.
        seed (`int`): random seed of the sample.
        rows (`int`, *optional*): number of rows to sample, at least 1; all rows if the file has fewer. Give either
            this or `fraction`.
        fraction (`float`, *optional*): share of the file's rows to sample, above 0 and at most 1. The file is then read
            twice, first to count its rows. The paper uses 0.05.
        held_out (`Container[str]`, *optional*): ids of the validation images, which must not be trained on.
        fingerprint_cache (`FingerprintCache`, *optional*): cache of what is known about the images; none by default.

    Returns:
        An iterator over the sample, in the order of the hashes. A row that cannot be used becomes a `Reject` of stage
        `instruction`. It is not replaced by another row, so that the sample does not depend on which images exist.

    Raises:
        UsageError: the arguments contradict each other or are out of range, or the file does not exist or has no rows
            that can be read (a syntax error may also be raised while iterating).
        SourceError: `image_root` does not exist.
    """
    if (rows is None) == (fraction is None):
        raise UsageError("an instruction sample needs either a number of rows or a fraction: give one of them")
    if rows is not None and rows < 1:
        raise UsageError(f"the number of instruction rows is {rows}: give at least 1, or omit the instruction file")
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"the instruction fraction is {fraction}: it must be above 0 and at most 1")
    check_json_rows(file)
    source = ImageFolder(image_root)
    return _iter_sample(file, source, seed, rows, fraction, held_out, fingerprint_cache or FingerprintCache())


@dataclass(frozen=True, slots=True)
class _SampledItem:
    """One item of the sample: its row, still without the image, and the path of the image, if it names one."""

    item: Any
    row: Row | Reject
    ref: str = ""


def _iter_sample(
    file: Path,
    source: ImageFolder,
    seed: int,
    rows: int | None,
    fraction: float | None,
    held_out: Container[str],
    fingerprint_cache: FingerprintCache,
) -> Iterator[Row | Reject]:
    """Yield the sample: select items by hash, then add the images, whose inspection is cached."""
    if fraction is not None:
        # Pass 1 counts the items; nothing of them is kept. At least one row is sampled, however small the share.
        total = sum(1 for _ in iter_json_rows(file))
        rows = min(total, max(1, round(fraction * total)))
    sample = chain.from_iterable(
        _expand_copies(source, *entry) for entry in _select_smallest(iter_json_rows(file), rows or 0, seed)
    )
    for sampled, body in fingerprint_cache.iter_cached(
        sample, partial(_cache_key, source), partial(_inspect_image, source)
    ):
        yield _add_image(sampled, source, held_out, body) if sampled.ref else sampled.row


def _select_smallest(items: Iterator[Any], n: int, seed: int) -> Iterator[tuple[str, int]]:
    """Yield the `n` items with the smallest hashes, smallest first: each as JSON, with its number of occurrences."""
    # Invariant: the at most n smallest hashes so far. A dropped item never returns, because the largest hash only
    # falls, so its copies need no count.
    by_key: dict[int, tuple[str, int]] = {}
    negated_keys: list[int] = []  # a heap of the negated keys of `by_key`: its first item is the largest key
    for item in items:
        key = int(digest(seed, item), 16)
        if key in by_key:
            text, copies = by_key[key]
            by_key[key] = text, copies + 1
        elif len(by_key) < n:
            heapq.heappush(negated_keys, -key)
            # As text, which needs less memory than Python objects.
            by_key[key] = json.dumps(item), 1
        elif by_key and key < -negated_keys[0]:
            del by_key[-heapq.heapreplace(negated_keys, -key)]
            by_key[key] = json.dumps(item), 1
    for key in sorted(by_key):
        yield by_key[key]


def _expand_copies(source: ImageFolder, text: str, copies: int) -> Iterator[_SampledItem]:
    """Yield an item once as a row, preceded by a reject for each repetition in the file."""
    item = json.loads(text)
    for _ in range(copies - 1):
        yield _SampledItem(item, _reject(InstructionReason.REPETITION, item))
    yield _parse_item(source, item)


def _parse_item(source: ImageFolder, item: Any) -> _SampledItem:
    """Check the text of an item, and return its row or the reject that says what is wrong with it."""
    messages = parse_nonempty_messages(item)
    if isinstance(messages, Defect):
        return _SampledItem(item, _reject(messages.reason, item, messages.detail))
    row = Row(id=digest(INSTRUCTION, item), messages=messages, source=INSTRUCTION)
    ref = find_image_path(item)
    if not isinstance(ref, Defect):
        return _SampledItem(item, row, source.normalise(ref))
    if ref.reason != RowReason.NO_IMAGE:
        return _SampledItem(item, _reject(ref.reason, item, ref.detail))
    if refers_to_image(item):
        return _SampledItem(item, _reject(InstructionReason.NO_IMAGE, item))
    return _SampledItem(item, row)


def _cache_key(source: ImageFolder, sampled: _SampledItem) -> str | None:
    """Return the cache key of the item's image, which needs no reading: its path, size and time of change."""
    return f"{source.identity}/{sampled.ref} {source.stamp(sampled.ref)}" if sampled.ref else None


def _inspect_image(source: ImageFolder, sampled: _SampledItem) -> str | None:
    """Return the inspected image as JSON, or None for an unusable one, which is not cached because it may be fixed."""
    result = inspect_image(source, sampled.ref)
    return to_json(result) if isinstance(result, ImageInfo) else None


def _add_image(sampled: _SampledItem, source: ImageFolder, held_out: Container[str], body: str | None) -> Row | Reject:
    """Return the row with its image, or a reject if the image cannot be used or is in the validation split."""
    item, ref = sampled.item, sampled.ref
    # The cache stores no unusable image; a second inspection returns the reason.
    image = inspect_image(source, ref) if body is None else from_json(ImageInfo, body)
    if isinstance(image, Reject):
        return _reject(image.reason, item, f"{ref}: {image.detail}")
    # Tested late: when the sample is read, the runs have filled `held_out`.
    if image.image_id in held_out:
        return _reject(InstructionReason.VALIDATION_IMAGE, item, ref)
    assert isinstance(sampled.row, Row)
    return replace(
        sampled.row,
        image_id=image.image_id,
        # In LLaVA's image pool each dataset has its own directory: coco/, gqa/, ocr_vqa/, textvqa/, vg/.
        image_source=PurePosixPath(ref).parts[0] if "/" in ref else source.origin(ref)[0],
        image_license=image.image_license,
        read_images=(partial(source.read, ref),),
    )


def _reject(reason: str, item: Any, detail: str = "") -> RowReject:
    """Return the reject of an item, which counts its questions; none if they cannot be read."""
    messages = parse_nonempty_messages(item)
    questions = 0 if isinstance(messages, Defect) else len(messages) // 2
    id = str(item.get("id", "")) if isinstance(item, dict) else ""
    return RowReject("instruction", reason, id, detail, rows=1, questions=questions)
