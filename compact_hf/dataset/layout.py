"""Where a row of a release lies: its leaf folder, its split, and the configs over the leaves. Pure rules, no I/O.

    README.md
    data/k1/train-00000-of-00001.parquet       leaves: k1, k2, ..., instruction, instruction_text
    data/k1/validation-00000-of-00001.parquet  splits: train, validation

Every config is a set of globs over the leaves, so each file exists once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

INSTRUCTION: Final = "instruction"
"""`source` of instruction rows, and the leaf of those with a picture."""
INSTRUCTION_TEXT: Final = "instruction_text"
SPLITS: Final = ("train", "validation")
DEFAULT_CONFIG: Final = "all"

_ONE_IN: Final = 20  # 5% of the pictures are for validation
_FILE: Final = re.compile(
    r"data/(?P<leaf>k[1-9]\d*|instruction|instruction_text)/(?P<split>train|validation)-\d{5}-of-\d{5}\.parquet"
)


def leaf_of(k: int | None, image_id: str | None) -> str:
    """Return the leaf of a row: `k{k}`, or for instruction rows (k None) by whether there is a picture."""
    if k is not None:
        return f"k{k}"
    return INSTRUCTION_TEXT if image_id is None else INSTRUCTION


def split_of(k: int | None, image_id: str | None) -> str:
    """Return `validation` for 5% of the pictures of the compositional part, by their hash, else `train`.

    Args:
        k (`int`, *optional*): None for instruction rows, which are for training only.
        image_id (`str`, *optional*): hex digits of the hash of the picture's bytes.
    """
    if k is None or image_id is None:
        return "train"
    return "validation" if int(image_id, 16) % _ONE_IN == 0 else "train"


def file_name(leaf: str, split: str, index: int, count: int) -> str:
    """Return the path inside a release of file `index` (from 0) of `count`."""
    return f"data/{leaf}/{split}-{index:05d}-of-{count:05d}.parquet"


def place_of(path: str) -> tuple[str, str] | None:
    """Return (leaf, split) of a data file's path inside a release, None for any other path."""
    match = _FILE.fullmatch(path)
    return (match["leaf"], match["split"]) if match else None


def order_of(leaf: str) -> tuple[int, int, str]:
    """Return a sort key for leaves: k1, k2, ..., k10, instruction, instruction_text."""
    digits = leaf[1:]
    return (0, int(digits), leaf) if leaf[0] == "k" and digits.isdigit() else (1, 0, leaf)


def configs(leaves: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return config -> its leaves, for the configs that have any of `leaves`; the default comes first."""
    there = sorted(set(leaves), key=order_of)
    composed = [leaf for leaf in there if leaf[0] == "k"]
    rest = [leaf for leaf in there if leaf[0] != "k"]
    chosen = {
        DEFAULT_CONFIG: there,
        "compositional": composed,
        "instruction": rest,
        "with_images": [leaf for leaf in there if leaf != INSTRUCTION_TEXT],
        **{leaf: [leaf] for leaf in composed},
    }
    return {name: tuple(of) for name, of in chosen.items() if of}
