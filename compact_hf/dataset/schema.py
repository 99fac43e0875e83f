"""Columns and file layout of a dataset: one explicit `datasets.Features`, its subset directories, splits and configs.

    README.md
    data/k1/train-00000-of-00001.parquet       subsets: k1, k2, ..., instruction, instruction_text
    data/k1/validation-00000-of-00001.parquet  splits: train, validation

Every file of every subset is written with this one schema, so that no config mixes types (a CastError at `load_dataset`
otherwise). Every config is a set of globs over the subsets, so each file exists once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from compact_hf.records import Row

INSTRUCTION: Final = "instruction"
"""`source` of instruction rows, and the subset of those with an image."""
INSTRUCTION_TEXT: Final = "instruction_text"
SPLITS: Final = ("train", "validation")
DEFAULT_CONFIG: Final = "all"

_VALIDATION_MODULUS: Final = 20  # 5% of the images are for validation
_DATA_PATH: Final = re.compile(
    r"data/(?P<subset>k[1-9]\d*|instruction|instruction_text)/(?P<split>train|validation)-\d{5}-of-\d{5}\.parquet"
)


def get_subset(k: int | None, image_id: str | None) -> str:
    """Return the subset of a row: `k{k}`, or for instruction rows (k None) by whether there is an image."""
    if k is not None:
        return f"k{k}"
    return INSTRUCTION_TEXT if image_id is None else INSTRUCTION


def get_split(k: int | None, image_id: str | None) -> str:
    """Return `validation` for 5% of the images of the compositional part, by their hash, else `train`.

    Args:
        k (`int`, *optional*): None for instruction rows, which are for training only.
        image_id (`str`, *optional*): hex digits of the hash of the image's bytes.
    """
    if k is None or image_id is None:
        return "train"
    return "validation" if int(image_id, 16) % _VALIDATION_MODULUS == 0 else "train"


def data_path(subset: str, split: str, index: int, count: int) -> str:
    """Return the path inside a release of file `index` (from 0) of `count`."""
    return f"data/{subset}/{split}-{index:05d}-of-{count:05d}.parquet"


def parse_data_path(path: str) -> tuple[str, str] | None:
    """Return (subset, split) of a data file's path inside a release, None for any other path."""
    match = _DATA_PATH.fullmatch(path)
    return (match["subset"], match["split"]) if match else None


def subset_order(subset: str) -> tuple[int, int, str]:
    """Return a sort key for subsets: k1, k2, ..., k10, instruction, instruction_text."""
    digits = subset[1:]
    return (0, int(digits), subset) if subset[0] == "k" and digits.isdigit() else (1, 0, subset)


def configs_from_subsets(subsets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return config -> its subsets, for the configs that have any of `subsets`; the default comes first."""
    ordered = sorted(set(subsets), key=subset_order)
    compositional = [subset for subset in ordered if subset[0] == "k"]
    instruction = [subset for subset in ordered if subset[0] != "k"]
    by_config = {
        DEFAULT_CONFIG: ordered,
        "compositional": compositional,
        "instruction": instruction,
        "with_images": [subset for subset in ordered if subset != INSTRUCTION_TEXT],
        **{subset: [subset] for subset in compositional},
    }
    return {name: tuple(members) for name, members in by_config.items() if members}


def features() -> Any:
    """Return the `datasets.Features` of a row (DESIGN, "A row of a release").

    `images` holds one image or none; `k`, `teacher`, `verifier` and `preset_version` are null for instruction
    rows; `image_id`, `image_source` and `image_license` are null for rows without an image.
    """
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("int64")
    return Features(
        {
            "id": text,
            "images": List(Image()),
            "messages": List({"role": text, "content": text}),
            "k": number,
            "capabilities": List(text),
            "turns": List(
                {
                    "question": text,
                    "answer": text,
                    "capabilities": List(text),
                    "verified_capabilities": List(text),
                    "confidence": number,
                }
            ),
            "source": text,
            "image_id": text,
            "image_source": text,
            "image_license": text,
            "teacher": text,
            "verifier": text,
            "preset_version": text,
        }
    )


def card_features() -> list[dict[str, Any]]:
    """Return the features as `dataset_info` in a card's header spells them."""
    # The one way to this spelling that does not go through a card of `datasets`' own making.
    yaml_features: list[dict[str, Any]] = features()._to_yaml_list()
    return yaml_features


def to_record(row: Row, image: bytes | None) -> dict[str, Any]:
    """Return `row` as a record of `features()`, with `image` (an encoded file) embedded without a path."""
    return {
        "id": row.id,
        "images": [] if image is None else [{"bytes": image, "path": None}],
        "messages": [{"role": message.role, "content": message.content} for message in row.messages],
        "k": row.k,
        "capabilities": list(row.capabilities),
        "turns": [
            {
                "question": turn.question,
                "answer": turn.answer,
                "capabilities": list(turn.capabilities),
                "verified_capabilities": list(turn.verified_capabilities),
                "confidence": turn.confidence,
            }
            for turn in row.turns
        ],
        "source": row.source,
        "image_id": row.image_id,
        "image_source": row.image_source,
        "image_license": row.image_license,
        "teacher": row.teacher,
        "verifier": row.verifier,
        "preset_version": row.preset_version,
    }
