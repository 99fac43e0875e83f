"""A dataset of `datasets`, on the Hub or in a folder, as a source of images.

In: `hf://datasets/org/name@revision[/config]`, or a folder that `load_dataset` takes. Out: references `SPLIT/ROW`
(`SPLIT/ROW/PLACE` where a row has a list of images), and images' bytes as they lie there.

A repository is read at one commit. Of Parquet files, which most are, a row group is fetched when one of its images is
asked for (parquet.py); anything else has no n-th row, and `datasets` loads all of it first. `?split=NAME` leaves the
other splits where they are, `?files=data/train-0000*.parquet` takes some files only.
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
from compact_hf.images.address import Address
from compact_hf.images.hub_repository import (
    get_cache_directory,
    list_parquet_files,
    progress_bars_on_terminal,
    read_license,
    resolve_commit,
    translate_source_errors,
)
from compact_hf.images.hub_rows import LoadedRows, Rows, open_hub_rows
from compact_hf.images.question_rows import detect_row_format, question_columns
from compact_hf.records import digest

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ABSOLUTE_PATH: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")
_ORIGIN_COLUMNS: Final = ("image_source", "image_license")


class DatasetSource:
    """The images of a dataset.

    Args:
        address (`Address`): which; a repository's revision is taken at the commit that it stands for now.
        on_wait (`Callable[[str], None]`, *optional*): told in a line that all of a dataset is loaded first.

    Attributes:
        splits (`Mapping[str, Rows]`): split -> its rows, in the order of their names.
        features (`datasets.Features`): all columns.
        columns (`tuple[str, ...]`): those of them that are read: images, their origin, questions.
        image_column (`str`): the one that holds the images: `images`, `image`, or the first of that kind.
        is_list_column (`bool`): it holds a list of images in each row.

    Raises:
        SourceError: there is no such dataset, it cannot be read, or it has no column of images.
    """

    def __init__(self, address: Address, *, on_wait: Callable[[str], None] = lambda line: None) -> None:
        if address.on_hub and not _COMMIT.fullmatch(address.revision):
            address = replace(address, revision=resolve_commit(address))
        self.address = address
        self.identity = str(address)
        listing = list_parquet_files(address) if address.on_hub else None
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
            raise SourceError(f"{address.display_name} has no rows; give another data set")
        self._allowed_roots = tuple(_allowed_roots(address))
        self._stamp = address.revision if address.on_hub else _hash_files(Path(address.path))

    def refs(self) -> Iterator[str]:
        """Yield a reference for every image, split by split, in the order of the rows."""
        for split, rows in self.splits.items():
            if self.is_list_column:
                for index, count in enumerate(rows.iter_lengths(self.image_column)):
                    yield from (f"{split}/{index}/{position}" for position in range(count))
            else:
                yield from (f"{split}/{index}" for index in range(len(rows)))

    def block(self, ref: str) -> str:
        """Return the row group in which the image comes, or `ref` where it is here."""
        location = self._parse_ref(ref)
        block = None if location is None else self.splits[location[0]].block(location[1])
        return ref if location is None or block is None else f"{location[0]} {block}"

    def origin(self, ref: str) -> tuple[str, str]:
        """Return what the row says, as a release's does, else the dataset's name and the licence in its card."""
        location = self._parse_ref(ref)
        source, license = (
            str(self.splits[location[0]].cell(location[1], name) or "")
            if location is not None and name in self.columns
            else ""
            for name in _ORIGIN_COLUMNS
        )
        if not source or _ABSOLUTE_PATH.match(source):
            source = self.address.path if self.address.on_hub else Path(self.address.path).name
        return source, license or self._license

    @cached_property
    def _license(self) -> str:
        return read_license(self.address) if self.address.on_hub else "unknown"

    def stamp(self, ref: str) -> str:
        """Return the commit, or for a folder a hash of its files' names, sizes and times."""
        return self._stamp if self._parse_ref(ref) else ""

    def read(self, ref: str) -> bytes:
        """Return the image file's bytes.

        Raises:
            OSError: there is no such row, or no image in it.
            SourceError: it has to be fetched and cannot be.
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
        """Return the file of an image as Arrow holds it: its bytes, or the path of a file.

        Raises:
            OSError: it holds neither, or the file cannot be read or is none of the dataset's.
        """
        if image and image["bytes"]:
            data: bytes = image["bytes"]
            return data
        if not (image and image["path"]):
            raise FileNotFoundError(errno.ENOENT, "no picture in this row", ref)
        path = Path(image["path"]).resolve()
        # Somebody else's table may name any file of this machine.
        if not any(path.is_relative_to(root) for root in self._allowed_roots):
            raise PermissionError(errno.EPERM, "leads out of the data set", ref)
        return path.read_bytes()

    def _parse_ref(self, ref: str) -> tuple[str, int, int] | None:
        match = re.fullmatch(r"(.+?)/(\d{1,18})(?:/(\d{1,9}))?", ref)
        if match is None or match[1] not in self.splits or (match[3] is None) == self.is_list_column:
            return None
        index = int(match[2])
        return (match[1], index, int(match[3] or 0)) if index < len(self.splits[match[1]]) else None


def _select_splits(splits: Mapping[str, Any], address: Address) -> list[str]:
    if address.split and address.split not in splits:
        raise SourceError(
            f"{address.display_name} has the splits {', '.join(sorted(splits))}; give one of them, or none for all"
        )
    return [split for split in sorted(splits) if address.split in ("", split)]


def _columns_to_read(image_column: str, features: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that anything here reads: beside images the others are small, so that none has to be fetched later.

    Other images are not: masks and depths are as large again.
    """
    row_format = detect_row_format(features)
    text_columns = question_columns(row_format, features) if row_format is not None else []
    return (
        image_column,
        *(
            name
            for name in dict.fromkeys((*_ORIGIN_COLUMNS, *text_columns, "id"))
            if name in features and name != image_column
        ),
    )


def _load_dataset_dict(address: Address, on_wait: Callable[[str], None]) -> dict[str, Any]:
    from datasets import load_dataset

    options: dict[str, Any] = {}
    if address.on_hub:
        on_wait(f"{address.display_name} is not in Parquet: all of it is loaded before anything is asked")
        # Without the Hub `datasets` takes what it loaded last of a repository: so each address has a cache of its own.
        cache_key = digest(str(replace(address, split="")), length=16)
        options = {"revision": address.revision, "cache_dir": str(get_cache_directory(address) / cache_key)}
    if address.files:
        options["data_files"] = address.files
    with translate_source_errors(address), progress_bars_on_terminal():
        return dict(load_dataset(address.path, address.config or None, **options))


def _find_image_column(features: Any, address: Address) -> tuple[str, bool]:
    from datasets import Image, List

    image_columns = {
        name: isinstance(feature, List)
        for name, feature in features.items()
        if isinstance(feature.feature if isinstance(feature, List) else feature, Image)
    }
    for name in ("images", "image", *image_columns):
        if name in image_columns:
            return name, image_columns[name]
    raise SourceError(
        f"{address.display_name} has no column of pictures (it has {', '.join(features)}); one of the type "
        "Image is needed"
    )


def _allowed_roots(address: Address) -> Iterator[Path]:
    """The folders in which a dataset's files lie."""
    from datasets import config
    from huggingface_hub import constants

    if not address.on_hub:
        yield Path(address.path).resolve()
    yield from (Path(directory).resolve() for directory in (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE))


def _hash_files(directory: Path) -> str:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    entries = [(str(path.relative_to(directory)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    return digest(entries, length=16)
