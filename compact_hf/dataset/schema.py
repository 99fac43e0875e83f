"""Columns and file layout of a dataset: one `datasets.Features`, its subset directories, splits and configs.

    README.md
    data/k1/train-00000-of-00001.parquet       subsets: those of the methods, instruction, instruction_text
    data/k1/validation-00000-of-00001.parquet  splits: train, validation

Every file of every subset is written with one schema, the common columns and those of all methods in the dataset, so
that no config mixes types (a CastError at `load_dataset` otherwise). Every config is a set of globs over the subsets:
each file exists once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from compact_hf.dataset.row_kinds import INSTRUCTION, get_row_kind, get_row_kinds, get_subset_kind
from compact_hf.errors import UsageError
from compact_hf.methods.row_kind import Column, Record
from compact_hf.records import Row, is_validation_image, split_image_ids

SPLITS: Final = ("train", "validation")
DEFAULT_CONFIG: Final = "all"

_DATA_PATH: Final = re.compile(r"data/(?P<subset>[a-z][a-z0-9_]*)/(?P<split>train|validation)-\d{5}-of-\d{5}\.parquet")


def get_split(source: str, image_id: str | None) -> str:
    """Return `validation` for a row all of whose images are for validation, else `train`.

    Args:
        source (`str`): the row's; those of a kind without a validation split, as instruction rows, are for training.
        image_id (`str`, *optional*): the row's: ids with commas between.
    """
    kind, ids = get_row_kind(source), split_image_ids(image_id)
    if not ids or (kind is not None and not kind.has_validation):
        return "train"
    return "validation" if all(map(is_validation_image, ids)) else "train"


def data_path(subset: str, split: str, index: int, count: int) -> str:
    """Return the path inside a release of file `index` (from 0) of `count`."""
    return f"data/{subset}/{split}-{index:05d}-of-{count:05d}.parquet"


def parse_data_path(path: str) -> tuple[str, str] | None:
    """Return (subset, split) of a data file's path inside a release, None for any other path."""
    match = _DATA_PATH.fullmatch(path)
    return (match["subset"], match["split"]) if match else None


def subset_order(subset: str) -> tuple[int, int, str]:
    """Return a sort key for subsets: k1, k2, ..., k10, others by name, instruction, instruction_text."""
    digits = subset[1:]
    if subset[0] == "k" and digits.isdigit():
        return 0, int(digits), subset
    return 2 if subset.startswith(INSTRUCTION) else 1, 0, subset


def configs_from_subsets(subsets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return config -> its subsets, for the configs that have any of `subsets`; the default comes first.

    Each method's subsets have a config together, and each subset one of its own.
    """
    ordered = sorted(set(subsets), key=subset_order)
    kinds = {subset: get_subset_kind(subset) for subset in ordered}
    configs: dict[str, list[str]] = {DEFAULT_CONFIG: ordered}
    for subset, kind in kinds.items():
        if kind is not None:
            configs.setdefault(kind.config or kind.name, []).append(subset)
    configs["with_images"] = [
        subset for subset, kind in kinds.items() if kind is None or subset not in kind.text_subsets
    ]
    for subset, kind in kinds.items():
        # An instruction file is one thing, with images and without.
        if kind is None or kind.name != INSTRUCTION:
            configs.setdefault(subset, [subset])
    return {name: tuple(members) for name, members in configs.items() if members}


COMMON_COLUMNS: Final = {
    "id": "stable hash of the content",
    "images": "the images of the row; empty if it has none",
    "messages": "`user` and `assistant` in turn, ready for training; the text contains no `<image>`",
    "source": "the method that made the row (`compact` is the paper's), or `instruction`",
    "image_id": "hash of the image file as it was found; several are separated by commas",
    "image_source": "where the image comes from",
    "image_license": "the license of the image",
    "teacher": "the model that wrote the questions and answers",
    "verifier": "the model that verified them",
    "preset_version": "the settings of the method, with their version",
}
"""Column -> its meaning, in the order of the files."""

_MESSAGES_INDEX: Final = list(COMMON_COLUMNS).index("messages") + 1
"""The columns of methods come after these."""


def own_columns(sources: Collection[str]) -> dict[str, Column]:
    """Return the columns beside the common ones of rows of these sources, by name.

    Raises:
        UsageError: two methods have a column of one name and different types, or one of a common column's name.
    """
    columns: dict[str, Column] = {}
    for kind in get_row_kinds():
        for name, column in kind.columns().items() if kind.name in sources else ():
            if name in COMMON_COLUMNS:
                raise UsageError(f"the column {name} of {kind.name} is one that all rows have; rename it")
            if columns.setdefault(name, column).feature != column.feature:
                raise UsageError(f"the column {name} of {kind.name} is of another type in another method; rename it")
    return columns


def find_column_sources(schema: Any) -> tuple[str, ...]:
    """Return the methods whose columns a file of this `pyarrow.Schema` has, but none that has only a part of another's.

    A package that has nothing to do with the dataset may have a method with a column of the same name.
    """
    from datasets import Features

    types = {field.name: field.type for field in schema}
    found: dict[str, set[str]] = {}
    for kind in get_row_kinds():
        own = Features({name: column.feature for name, column in kind.columns().items()}).arrow_schema
        if own.names and all(types.get(field.name) == field.type for field in own):
            found[kind.name] = set(own.names)
    return tuple(name for name, names in found.items() if not any(names < others for others in found.values()))


def find_unknown_columns(names: Iterable[str]) -> list[str]:
    """Return those of the columns that are neither common ones nor a method's that is installed."""
    known = {*COMMON_COLUMNS, *(name for kind in get_row_kinds() for name in kind.columns())}
    return [name for name in names if name not in known]


def features(sources: Collection[str]) -> Any:
    """Return the `datasets.Features` of a dataset whose rows are of these sources.

    `images` holds a row's images, or none; `image_id`, `image_source` and `image_license` are null for rows without an
    image, `teacher`, `verifier` and `preset_version` for instruction rows. In rows of another method, a method's own
    columns are null, or empty where they are lists.
    """
    from datasets import Features, Image, List, Value

    text = Value("string")
    types: dict[str, Any] = dict.fromkeys(COMMON_COLUMNS, text) | {
        "images": List(Image()),
        "messages": List({"role": text, "content": text}),
    }
    own = {name: column.feature for name, column in own_columns(sources).items()}
    common = list(COMMON_COLUMNS)
    names = [*common[:_MESSAGES_INDEX], *own, *common[_MESSAGES_INDEX:]]
    return Features({name: own[name] if name in own else types[name] for name in names})


def card_features(sources: Collection[str]) -> list[dict[str, Any]]:
    """Return the features as `dataset_info` in a card's header spells them."""
    # The one way to this spelling that does not go through a card of `datasets`' own making.
    yaml_features: list[dict[str, Any]] = features(sources)._to_yaml_list()
    return yaml_features


def to_record(row: Row, images: Sequence[bytes], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` as a record of these `features`, its images (encoded files) embedded without a path."""
    values = row.to_record() | {"images": [{"bytes": image, "path": None} for image in images]}
    if unknown := values.keys() - columns.keys():
        raise UsageError(f"rows of {row.source} have a column {min(unknown)} that its method's columns() does not name")
    return {name: values[name] if name in values else get_empty_value(feature) for name, feature in columns.items()}


def get_empty_value(feature: Any) -> list[Any] | None:
    """Return what rows of other methods have in a method's own column: an empty list in one of lists, else null."""
    from datasets import List

    return [] if isinstance(feature, List) else None


def get_subset(source: str, record: Record) -> str:
    """Return the subset of a row; one of a method that is not installed has a subset of the method's name."""
    kind = get_row_kind(source)
    return source if kind is None else kind.get_subset(record)
