"""A data set of `datasets`, on the Hub or in a folder, as a source of pictures.

In: `hf://datasets/org/name@revision[/config]`, or a folder that `load_dataset` takes. Out: references `SPLIT/ROW`
(`SPLIT/ROW/PLACE` where a row has a list of pictures), and pictures' bytes as they lie there.

A repository is read at one commit. Of Parquet files, which most are, a row group is fetched when one of its pictures is
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
from compact_hf.images.conversations import columns_of, shape_of
from compact_hf.images.hub_repository import bars_on_a_terminal, cache_of, commit_of, license_of, listing_of, readable
from compact_hf.images.hub_rows import LoadedRows, Rows, rows_of
from compact_hf.records import digest

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ABSOLUTE: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")
_SAID: Final = ("image_source", "image_license")


class DatasetPictures:
    """The pictures of a data set.

    Args:
        address (`Address`): which; a repository's revision is taken at the commit that it stands for now.
        on_wait (`Callable[[str], None]`, *optional*): told in a line that all of a data set is loaded first.

    Attributes:
        splits (`Mapping[str, Rows]`): split -> its rows, in the order of their names.
        features (`datasets.Features`): all columns.
        columns (`tuple[str, ...]`): those of them that are read: pictures, their origin, questions.
        column (`str`): the one that holds the pictures: `images`, `image`, or the first of that kind.
        several (`bool`): it holds a list of pictures in each row.

    Raises:
        SourceError: there is no such data set, it cannot be read, or it has no column of pictures.
    """

    def __init__(self, address: Address, *, on_wait: Callable[[str], None] = lambda line: None) -> None:
        if address.on_hub and not _COMMIT.fullmatch(address.revision):
            address = replace(address, revision=commit_of(address))
        self.address = address
        self.identity = str(address)
        listing = listing_of(address) if address.on_hub else None
        loaded = {} if listing is not None else _loaded(address, on_wait)
        self.features = next(iter(loaded.values())).features if listing is None else listing.features
        self.column, self.several = _picture_column(self.features, address)
        self.columns = _readable_columns(self.column, self.features)
        chosen = _chosen(loaded if listing is None else listing.files, address)
        self.splits: Mapping[str, Rows]
        if listing is None:
            self.splits = {split: LoadedRows(loaded[split]) for split in chosen}
        else:
            self.splits = rows_of(address, listing, chosen, self.columns)
        if not any(len(rows) for rows in self.splits.values()):
            raise SourceError(f"{address.told} has no rows; give another data set")
        self._roots = tuple(_roots(address))
        self._stamp = address.revision if address.on_hub else _stamp_of(Path(address.path))

    def refs(self) -> Iterator[str]:
        """Yield a reference for every picture, split by split, in the order of the rows."""
        for split, rows in self.splits.items():
            if self.several:
                for number, count in enumerate(rows.lengths(self.column)):
                    yield from (f"{split}/{number}/{place}" for place in range(count))
            else:
                yield from (f"{split}/{number}" for number in range(len(rows)))

    def block(self, ref: str) -> str:
        """Return the row group in which the picture comes, or `ref` where it is here."""
        found = self._found(ref)
        block = None if found is None else self.splits[found[0]].block(found[1])
        return ref if found is None or block is None else f"{found[0]} {block}"

    def origin(self, ref: str) -> tuple[str, str]:
        """Return what the row says, as a release's does, else the data set's name and the licence in its card."""
        found = self._found(ref)
        source, license = (
            str(self.splits[found[0]].cell(found[1], name) or "") if found is not None and name in self.columns else ""
            for name in _SAID
        )
        if not source or _ABSOLUTE.match(source):
            source = self.address.path if self.address.on_hub else Path(self.address.path).name
        return source, license or self._license

    @cached_property
    def _license(self) -> str:
        return license_of(self.address) if self.address.on_hub else "unknown"

    def stamp(self, ref: str) -> str:
        """Return the commit, or for a folder a hash of its files' names, sizes and times."""
        return self._stamp if self._found(ref) else ""

    def read(self, ref: str) -> bytes:
        """Return the picture file's bytes.

        Raises:
            OSError: there is no such row, or no picture in it.
            SourceError: it has to be fetched and cannot be.
        """
        found = self._found(ref)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such row", ref)
        split, number, place = found
        held = self.splits[split].cell(number, self.column)
        if self.several:
            held = held[place] if held and place < len(held) else None
        return self.bytes_of(held, ref)

    def bytes_of(self, held: dict[str, Any] | None, ref: str) -> bytes:
        """Return the file of a picture as Arrow holds it: its bytes, or the path of a file.

        Raises:
            OSError: it holds neither, or the file cannot be read or is none of the data set's.
        """
        if held and held["bytes"]:
            data: bytes = held["bytes"]
            return data
        if not (held and held["path"]):
            raise FileNotFoundError(errno.ENOENT, "no picture in this row", ref)
        path = Path(held["path"]).resolve()
        # Somebody else's table may name any file of this machine.
        if not any(path.is_relative_to(root) for root in self._roots):
            raise PermissionError(errno.EPERM, "leads out of the data set", ref)
        return path.read_bytes()

    def _found(self, ref: str) -> tuple[str, int, int] | None:
        match = re.fullmatch(r"(.+?)/(\d{1,18})(?:/(\d{1,9}))?", ref)
        if match is None or match[1] not in self.splits or (match[3] is None) == self.several:
            return None
        number = int(match[2])
        return (match[1], number, int(match[3] or 0)) if number < len(self.splits[match[1]]) else None


def _chosen(splits: Mapping[str, Any], address: Address) -> list[str]:
    if address.split and address.split not in splits:
        raise SourceError(
            f"{address.told} has the splits {', '.join(sorted(splits))}; give one of them, or none for all"
        )
    return [split for split in sorted(splits) if address.split in ("", split)]


def _readable_columns(picture: str, features: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that anything here reads: beside pictures the others are small, so that none has to be fetched later.

    Other pictures are not: masks and depths are as large again.
    """
    shape = shape_of(features)
    asked = columns_of(shape, features) if shape is not None else []
    return (picture, *(name for name in dict.fromkeys((*_SAID, *asked, "id")) if name in features and name != picture))


def _loaded(address: Address, on_wait: Callable[[str], None]) -> dict[str, Any]:
    from datasets import load_dataset

    wanted: dict[str, Any] = {}
    if address.on_hub:
        on_wait(f"{address.told} is not in Parquet: all of it is loaded before anything is asked")
        # Without the Hub `datasets` takes what it loaded last of a repository: so each address has a cache of its own.
        own = digest(str(replace(address, split="")), length=16)
        wanted = {"revision": address.revision, "cache_dir": str(cache_of(address) / own)}
    if address.files:
        wanted["data_files"] = address.files
    with readable(address), bars_on_a_terminal():
        return dict(load_dataset(address.path, address.config or None, **wanted))


def _picture_column(features: Any, address: Address) -> tuple[str, bool]:
    from datasets import Image, List

    kinds = {
        name: isinstance(kind, List)
        for name, kind in features.items()
        if isinstance(kind.feature if isinstance(kind, List) else kind, Image)
    }
    for name in ("images", "image", *kinds):
        if name in kinds:
            return name, kinds[name]
    raise SourceError(
        f"{address.told} has no column of pictures (it has {', '.join(features)}); one of the type Image is needed"
    )


def _roots(address: Address) -> Iterator[Path]:
    """The folders in which a data set's files lie."""
    from datasets import config
    from huggingface_hub import constants

    if not address.on_hub:
        yield Path(address.path).resolve()
    yield from (Path(folder).resolve() for folder in (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE))


def _stamp_of(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [(str(path.relative_to(folder)), (found := path.stat()).st_size, found.st_mtime_ns) for path in files]
    return digest(facts, length=16)
