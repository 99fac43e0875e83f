"""Defines the columns and the file layout of a release: its features, subset directories, splits and configs.

    README.md
    data/k1/train-00000-of-00001.parquet       subsets: those of the methods, instruction, instruction_text
    data/k1/validation-00000-of-00001.parquet  splits: train, validation

All files of all subsets have the same schema: the common columns and those of all methods in the release. If types
differed between files of a config, `load_dataset` would raise a CastError. A config is a set of globs over subset
directories, so each file exists only once.
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

# data/SUBSET/SPLIT-00000-of-00001.parquet; subsets have lower-case letters, digits and underscores.
_DATA_PATH: Final = re.compile(r"data/(?P<subset>[a-z][a-z0-9_]*)/(?P<split>train|validation)-\d{5}-of-\d{5}\.parquet")


def get_split(source: str, image_id: str | None) -> str:
    """Return `validation` if all images of a row are validation images, else `train`.

    Args:
        source (`str`): source of the row. Kinds of rows without a validation split, such as instruction rows, are
            always in `train`.
        image_id (`str`, *optional*): ids of the row's images, separated by commas; None for a row without images.
    """
    kind, ids = get_row_kind(source), split_image_ids(image_id)
    if not ids or (kind is not None and not kind.has_validation):
        return "train"
    return "validation" if all(map(is_validation_image, ids)) else "train"


def data_path(subset: str, split: str, index: int, count: int) -> str:
    """Return the path of a data file inside a release.

    Args:
        subset (`str`): subset of its rows.
        split (`str`): split of its rows.
        index (`int`): index of the file among those of the split, from 0.
        count (`int`): number of files of the split.
    """
    return f"data/{subset}/{split}-{index:05d}-of-{count:05d}.parquet"


def parse_data_path(path: str) -> tuple[str, str] | None:
    """Return (subset, split) of a data file, or None for any other path.

    Args:
        path (`str`): path inside a release.
    """
    match = _DATA_PATH.fullmatch(path)
    return (match["subset"], match["split"]) if match else None


def subset_order(subset: str) -> tuple[int, int, str]:
    """Return a sort key for subsets: k1, k2, ..., k10, others by name, instruction, instruction_text.

    Args:
        subset (`str`): name of the subset.
    """
    digits = subset[1:]
    if subset[0] == "k" and digits.isdigit():
        return 0, int(digits), subset
    return 2 if subset.startswith(INSTRUCTION) else 1, 0, subset


def configs_from_subsets(subsets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the subsets of each config, for all configs that contain any of `subsets`; the default config is first.

    All subsets of a method together form a config, and each subset is also a config by itself.

    Args:
        subsets (`Iterable[str]`): the subsets that exist.
    """
    ordered = sorted(set(subsets), key=subset_order)
    kinds = {subset: get_subset_kind(subset) for subset in ordered}
    configs: dict[str, list[str]] = {DEFAULT_CONFIG: ordered}
    for subset, kind in kinds.items():
        if kind is not None:
            # Several methods may share a config, so subsets are appended.
            configs.setdefault(kind.config or kind.name, []).append(subset)
    # Sharded training needs an image in every batch. A subset of an unknown method counts as one with images.
    configs["with_images"] = [
        subset for subset, kind in kinds.items() if kind is None or subset not in kind.text_subsets
    ]
    for subset, kind in kinds.items():
        # The two instruction subsets, with images and without, only form a config together.
        if kind is None or kind.name != INSTRUCTION:
            configs.setdefault(subset, [subset])
    return {name: tuple(members) for name, members in configs.items() if members}


COMMON_COLUMNS: Final = {
    "id": "hash of the content; it changes only with the content",
    "images": "list of images; empty for rows without an image",
    "messages": "turns of `user` and `assistant` for training; the text has no `<image>` placeholder",
    "source": "the method that made the row (`compact`: the method of the paper), or `instruction`",
    "image_id": "hash of the original image file; several are separated by commas",
    "image_source": "origin of the image",
    "image_license": "license of the image",
    "teacher": "model that wrote the text",
    "verifier": "model that verified it",
    "preset_version": "version of the settings of the method",
}
"""Column -> its meaning, in the order of the files."""

_MESSAGES_INDEX: Final = list(COMMON_COLUMNS).index("messages") + 1
"""Number of common columns that precede the columns of the methods."""


def own_columns(sources: Collection[str]) -> dict[str, Column]:
    """Return the additional columns of rows from these sources, by name.

    Args:
        sources (`Collection[str]`): names of methods, and `instruction`.

    Raises:
        UsageError: two methods have a column of the same name with different types, or a method has a column with the
            name of a common column.
    """
    columns: dict[str, Column] = {}
    for kind in get_row_kinds():
        for name, column in kind.columns().items() if kind.name in sources else ():
            if name in COMMON_COLUMNS:
                raise UsageError(f"the column {name} of {kind.name} has the name of a common column: rename it")
            # Two methods may share a column of the same type: all files have one schema.
            if columns.setdefault(name, column).feature != column.feature:
                raise UsageError(f"the column {name} of {kind.name} has a different type in another method: rename it")
    return columns


def describe_columns(sources: Collection[str]) -> dict[str, str]:
    """Return column -> its meaning, in the order of the files, for a dataset with rows of these sources."""
    own = {name: column.description for name, column in own_columns(sources).items()}
    common = list(COMMON_COLUMNS.items())
    return {**dict(common[:_MESSAGES_INDEX]), **own, **dict(common[_MESSAGES_INDEX:])}


def find_column_sources(schema: Any) -> tuple[str, ...]:
    """Return the methods whose columns a file has.

    A method is ignored if its columns are a proper subset of another method's: an unrelated package may happen to have
    a method with a column of the same name.

    Args:
        schema (`pyarrow.Schema`): schema of the file.
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
    """Return the columns that are neither common columns nor columns of an installed method.

    Args:
        names (`Iterable[str]`): names of the columns.
    """
    known = {*COMMON_COLUMNS, *(name for kind in get_row_kinds() for name in kind.columns())}
    return [name for name in names if name not in known]


def features(sources: Collection[str]) -> Any:
    """Return the `datasets.Features` of a release with rows from these sources.

    `images` is the list of a row's images, which may be empty. `image_id`, `image_source` and `image_license` are null
    for rows without an image; `teacher`, `verifier` and `preset_version` are null for instruction rows. A method's own
    columns are null in the rows of other methods, or empty if they are lists.

    Args:
        sources (`Collection[str]`): names of methods, and `instruction`.
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
    """Return the features in the YAML form of `dataset_info` in a card's header.

    Args:
        sources (`Collection[str]`): names of methods, and `instruction`.
    """
    # A private method: its public counterparts in `datasets` write a whole card.
    yaml_features: list[dict[str, Any]] = features(sources)._to_yaml_list()
    return yaml_features


def to_record(row: Row, images: Sequence[bytes], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row to a record for Parquet.

    Args:
        row (`Row`): the row.
        images (`Sequence[bytes]`): its images as encoded files, which are embedded without a path.
        columns (`Mapping[str, Any]`): the features of the release.

    Raises:
        UsageError: the row has a column that its method does not declare.
    """
    # No path: it would be published, and it may name a private directory.
    values = row.to_record() | {"images": [{"bytes": image, "path": None} for image in images]}
    if unknown := values.keys() - columns.keys():
        raise UsageError(
            f"rows of {row.source} have a column {min(unknown)} that the columns() of the method does not declare"
        )
    return {name: values[name] if name in values else get_empty_value(feature) for name, feature in columns.items()}


def get_empty_value(feature: Any) -> list[Any] | None:
    """Return the value of a method's own column in rows of other methods: an empty list for a list, else None.

    Args:
        feature (`Any`): feature of the column.
    """
    from datasets import List

    return [] if isinstance(feature, List) else None


def get_subset(source: str, record: Record) -> str:
    """Return the subset of a row; for a method that is not installed it is the name of the method.

    Args:
        source (`str`): source of the row.
        record (`Record`): the row.
    """
    kind = get_row_kind(source)
    return source if kind is None else kind.get_subset(record)
