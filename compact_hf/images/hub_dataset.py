"""Reads images from a dataset on the Hub or in a local directory that `load_dataset` accepts.

    compact generate hf://datasets/org/name@revision/config --out run

An image's reference is `SPLIT/ROW`, or `SPLIT/ROW/POSITION` if a row has a list of images. The encoded bytes are
returned as the dataset stores them.

A repository is read at one commit. If its files are Parquet, as most are, a row group is downloaded when one of its
images is read (hub_rows.py). Other formats have no random access to rows, so `datasets` loads all of the dataset first.
`?split=NAME` skips the other splits, `?files=data/train-0000*.parquet` only takes some files.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import SourceError
from compact_hf.hub.cache import find_cached_dataset
from compact_hf.images.address import Address
from compact_hf.images.folder import MAX_BYTES
from compact_hf.images.hub_repository import (
    get_cache_directory,
    has_cached_listing,
    list_parquet_files,
    progress_bars_on_terminal,
    read_license,
    resolve_address,
    translate_source_errors,
)
from compact_hf.images.hub_rows import LoadedRows, Rows, open_hub_rows
from compact_hf.images.inspection import compute_image_id
from compact_hf.images.question_rows import list_text_columns
from compact_hf.records import digest
from compact_hf.regular_files import check_regular_files, read_regular, resolve

# Beginnings of absolute paths: /, \, ~, a drive of Windows, or file:.
_ABSOLUTE_PATH: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")
_ORIGIN_COLUMNS: Final = ("image_source", "image_license")


class DatasetSource:
    """An image source of all images in a dataset.

    Args:
        address (`Address`): the dataset; the revision of a repository is resolved to its current commit.
        on_wait (`Callable[[str], None]`, *optional*): called with a one-line message if all of the dataset has to be
            loaded first.

    Attributes:
        address (`Address`): the dataset, at a commit if it is on the Hub.
        identity (`str`): the address as text.
        splits (`Mapping[str, Rows]`): split -> its rows, sorted by the name of the split.
        features (`datasets.Features`): all columns of the dataset.
        columns (`tuple[str, ...]`): the columns that are read: images, their origin, questions.
        image_column (`str`): the column with the images: `images`, `image`, or else the first column of images.
        is_list_column (`bool`): whether each row has a list of images.

    Raises:
        SourceError: the dataset does not exist, cannot be read, has no rows or no column of images.
    """

    def __init__(self, address: Address, *, on_wait: Callable[[str], None] = lambda line: None) -> None:
        if address.on_hub:
            address = resolve_address(address)
        self.address = address
        self.identity = str(address)
        # None for a directory and for files other than Parquet: `datasets` then loads all rows.
        listing = list_parquet_files(address) if address.on_hub and not _is_only_cached(address) else None
        dataset_dict = {} if listing is not None else _load_dataset_dict(address, on_wait)
        self.features = next(iter(dataset_dict.values())).features if listing is None else listing.features
        self.image_column, self.is_list_column = _find_image_column(self.features, address)
        self.columns = _columns_to_read(self.image_column, self.features)
        splits = _select_splits(dataset_dict if listing is None else listing.files, address)
        self.splits: Mapping[str, Rows]
        if listing is None:
            self.splits = {split: LoadedRows(dataset_dict[split]) for split in splits}
        else:
            self.splits = open_hub_rows(address, listing, splits, self.columns)
        if not any(len(rows) for rows in self.splits.values()):
            raise SourceError(f"{address.display_name} has no rows: give another dataset")
        self._allowed_roots = tuple(_allowed_roots(address))
        self._stamp = address.revision if address.on_hub else _hash_files(Path(address.path))

    def refs(self) -> Iterator[str]:
        """Yield the reference of every image, split by split, in the order of the rows."""
        for split, rows in self.splits.items():
            if self.is_list_column:
                for index, count in enumerate(rows.iter_lengths(self.image_column)):
                    yield from (f"{split}/{index}/{position}" for position in range(count))
            else:
                yield from (f"{split}/{index}" for index in range(len(rows)))

    def describe_skipped(self) -> str:
        """Return an empty string: every image is listed."""
        return ""

    def block(self, ref: str) -> str:
        """Return the row group that contains the image, or `ref` if the image is on this machine already."""
        location = self._parse_ref(ref)
        block = None if location is None else self.splits[location[0]].block(location[1])
        return ref if location is None or block is None else f"{location[0]} {block}"

    def origin(self, ref: str) -> tuple[str, str]:
        """Return the origin and license of an image.

        They are taken from the row if it has `image_source` and `image_license`, as the rows of our own datasets do.
        Otherwise they are the name of the dataset and the license in its card.
        """
        location = self._parse_ref(ref)
        source, license = (
            str(self.splits[location[0]].cell(location[1], name) or "")
            if location is not None and name in self.columns
            else ""
            for name in _ORIGIN_COLUMNS
        )
        # An absolute path would publish names of directories on the machine on which the dataset was made.
        if not source or _ABSOLUTE_PATH.match(source):
            source = self.address.path if self.address.on_hub else Path(self.address.path).name
        return source, license or self._license

    @cached_property
    def _license(self) -> str:
        return read_license(self.address) if self.address.on_hub else "unknown"

    def partial_hash(self, ref: str) -> str:
        """Return the id of the image, for which it is read: a dataset has nothing smaller that tells images apart."""
        return compute_image_id(self.read(ref))

    def stamp(self, ref: str) -> str:
        """Return the commit; for a directory a hash of the names, sizes and times of change of its files."""
        return self._stamp if self._parse_ref(ref) else ""

    def read(self, ref: str) -> bytes:
        """Return the image file's bytes.

        Raises:
            OSError: the row does not exist or has no image, or its image file cannot be read or is outside the dataset.
            SourceError: the row group has to be downloaded and cannot be.
        """
        location = self._parse_ref(ref)
        if location is None:
            raise FileNotFoundError(errno.ENOENT, "no such row", ref)
        split, index, position = location
        value = self.splits[split].cell(index, self.image_column)
        if self.is_list_column:
            value = value[position] if value and position < len(value) else None
        return self.read_bytes(value, ref)

    def read_bytes(self, image: dict[str, Any] | None, ref: str) -> bytes:
        """Return the encoded bytes of an image from its Arrow value.

        Args:
            image (`dict[str, Any]`, *optional*): the value, `{bytes, path}`; one of the two is set.
            ref (`str`): reference of the image, for error messages.

        Raises:
            OSError: neither is set, the file at `path` cannot be read, or it is outside the dataset's directories.
        """
        if image and image["bytes"]:
            data: bytes = image["bytes"]
            return data
        if not (image and image["path"]):
            raise FileNotFoundError(errno.ENOENT, "no image in this row", ref)
        path = resolve(image["path"])
        # A downloaded table is not trusted: its paths may point to any file of this machine. The text of the error is
        # hashed into the identity of runs (VqaSource.content_hash), so it must not change.
        if not any(path.is_relative_to(root) for root in self._allowed_roots):
            raise PermissionError(errno.EPERM, "leads out of the data set", ref)
        return read_regular(path, max_bytes=MAX_BYTES)

    def _parse_ref(self, ref: str) -> tuple[str, int, int] | None:
        """Return (split, row, position in the row's list), or None if the dataset has no such reference."""
        # SPLIT/ROW, or SPLIT/ROW/POSITION if, and only if, the column has lists.
        match = re.fullmatch(r"(.+?)/(\d{1,18})(?:/(\d{1,9}))?", ref)
        if match is None or match[1] not in self.splits or (match[3] is None) == self.is_list_column:
            return None
        index = int(match[2])
        return (match[1], index, int(match[3] or 0)) if index < len(self.splits[match[1]]) else None


def _select_splits(splits: Mapping[str, Any], address: Address) -> list[str]:
    """Return the split of the address, or all splits by name; SourceError if there is no such split."""
    if address.split and address.split not in splits:
        raise SourceError(
            f"{address.display_name} has the splits {', '.join(sorted(splits))}: give one of them, or none for all"
        )
    return [split for split in sorted(splits) if address.split in ("", split)]


def _columns_to_read(image_column: str, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns to download: the images, their origin, questions and ids.

    All text columns are downloaded together with the images, because they are small in comparison. Further image
    columns, such as masks and depth maps, are as large as the images and are left out.
    """
    return (
        image_column,
        *(
            name
            for name in dict.fromkeys((*_ORIGIN_COLUMNS, *list_text_columns(features), "id"))
            if name in features and name != image_column
        ),
    )


def _is_only_cached(address: Address) -> bool:
    """Return whether a repository has to be read from the tables that `load_dataset` has cached."""
    from huggingface_hub import constants

    return constants.is_offline_mode() and not address.files and not has_cached_listing(address)


def _load_dataset_dict(address: Address, on_wait: Callable[[str], None]) -> dict[str, Any]:
    """Load all of a dataset with `datasets` and return split -> `datasets.Dataset`."""
    from datasets import load_dataset

    if address.on_hub and _is_only_cached(address):
        with translate_source_errors(address):
            return dict(find_cached_dataset(address.path, address.revision).load(address.config or None))
    options: dict[str, Any] = {}
    if address.on_hub:
        on_wait(f"{address.display_name} is not in Parquet: loading all of it first")
        # If the Hub is unreachable, `datasets` takes whatever version of a repository it loaded last. Each address
        # therefore has its own cache directory.
        cache_key = digest(str(replace(address, split="")), length=16)
        options = {"revision": address.revision, "cache_dir": str(get_cache_directory(address) / cache_key)}
    if address.files:
        options["data_files"] = address.files
    with translate_source_errors(address), progress_bars_on_terminal():
        if not address.on_hub:
            check_regular_files(address.path)
        return dict(load_dataset(address.path, address.config or None, **options))


def _find_image_column(features: Any, address: Address) -> tuple[str, bool]:
    """Return the name of the column of images, and whether each of its cells is a list."""
    from datasets import Image, List

    # Column of images -> whether its cells are lists.
    image_columns = {
        name: isinstance(feature, List)
        for name, feature in features.items()
        if isinstance(feature.feature if isinstance(feature, List) else feature, Image)
    }
    for name in ("images", "image", *image_columns):
        if name in image_columns:
            return name, image_columns[name]
    raise SourceError(
        f"{address.display_name} has no column of images (it has {', '.join(features)}): give a dataset with a "
        "column of the type Image"
    )


def _allowed_roots(address: Address) -> Iterator[Path]:
    """Yield the directories that may contain the files of a dataset."""
    from datasets import config
    from huggingface_hub import constants

    if not address.on_hub:
        yield Path(address.path).resolve()
    # `datasets` stores the files of some formats in its own cache or in that of the Hub.
    yield from (Path(directory).resolve() for directory in (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE))


def _hash_files(directory: Path) -> str:
    """Return a hash of the paths, sizes and times of change of all files in a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    stats = [path.stat() for path in files]
    entries = [
        (str(path.relative_to(directory)), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for path, stat in zip(files, stats, strict=True)
    ]
    return digest(entries, length=16)
