"""A data set of `datasets`, on the Hub or in a folder, as a source of pictures.

In: `hf://datasets/org/name@revision[/config]`, or a folder that `load_dataset` takes. Out: references `SPLIT/ROW`
(`SPLIT/ROW/PLACE` where a row has a list of pictures), and pictures' bytes as they lie there.

The rows are taken once into the cache of `datasets`, at one commit, and read there: the n-th picture, now or when a
release is made, is one look into a memory-mapped file. A stream has no n-th row. `?files=data/train-0000*.parquet` at
the end takes some files of a large repository only.
"""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import SourceError
from compact_hf.images.address import Address
from compact_hf.records import digest

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ABSOLUTE: Final = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|file:")


class DatasetPictures:
    """The pictures of a data set.

    Args:
        address (`Address`): which; a repository's revision is taken at the commit that it stands for now.

    Attributes:
        splits (`dict[str, Any]`): split -> its `datasets.Dataset`, in the order of their names.
        column (`str`): the one that holds the pictures: `images`, `image`, or the first of that kind.
        several (`bool`): it holds a list of pictures in each row.

    Raises:
        SourceError: there is no such data set, it cannot be read, or it has no column of pictures.
    """

    def __init__(self, address: Address) -> None:
        if address.on_hub and not _COMMIT.fullmatch(address.revision):
            address = replace(address, revision=_commit(address))
        self.address = address
        self.identity = str(address)
        self.splits = _loaded(address)
        features = next(iter(self.splits.values())).features
        self.column, self.several = _picture_column(features, address)
        # As Arrow a picture is the bytes of its file; as a row it would be decoded.
        self._pictures = {
            split: rows.select_columns([self.column]).with_format("arrow") for split, rows in self.splits.items()
        }
        said = [name for name in ("image_source", "image_license") if name in features]
        self._origins = {split: rows.select_columns(said) for split, rows in self.splits.items() if said}
        self._roots = tuple(_roots(address))
        self._stamp = address.revision if address.on_hub else _stamp_of(Path(address.path))

    def refs(self) -> Iterator[str]:
        """Yield a reference for every picture, split by split, in the order of the rows."""
        import pyarrow.compute as pc

        for split, rows in self._pictures.items():
            number = 0
            for batch in rows.iter(1000):
                counts = pc.list_value_length(batch[self.column]).to_pylist() if self.several else [1] * len(batch)
                for count in counts:
                    if self.several:
                        yield from (f"{split}/{number}/{place}" for place in range(count or 0))
                    else:
                        yield f"{split}/{number}"
                    number += 1

    def origin(self, ref: str) -> tuple[str, str]:
        """Return what the row says, as a release's does, else the data set's name and the licence in its card."""
        found = self._found(ref)
        said = self._origins[found[0]][found[1]] if found is not None and self._origins else {}
        source, license = str(said.get("image_source") or ""), str(said.get("image_license") or "")
        if not source or _ABSOLUTE.match(source):
            source = self.address.path if self.address.on_hub else Path(self.address.path).name
        return source, license or self._license

    @cached_property
    def _license(self) -> str:
        return _license(self.address) if self.address.on_hub else "unknown"

    def stamp(self, ref: str) -> str:
        """Return the commit, or for a folder a hash of its files' names, sizes and times."""
        return self._stamp if self._found(ref) else ""

    def read(self, ref: str) -> bytes:
        """Return the picture file's bytes.

        Raises:
            OSError: there is no such row, or no picture in it.
        """
        found = self._found(ref)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such row", ref)
        split, number, place = found
        held = self._pictures[split][number][self.column][0].as_py()
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
        if match is None or match[1] not in self._pictures or (match[3] is None) == self.several:
            return None
        number = int(match[2])
        return (match[1], number, int(match[3] or 0)) if number < len(self._pictures[match[1]]) else None


def _commit(address: Address) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx' or httpx2's

    try:
        return HfApi().dataset_info(address.path, revision=address.revision or None).sha or ""
    except (OSError, ValueError, HTTPError) as error:
        raise SourceError(_told(address, error)) from error


def _license(address: Address) -> str:
    from huggingface_hub import _CACHED_NO_EXIST, DatasetCard, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,  # httpx' or httpx2's
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
    )

    known = try_to_load_from_cache(address.path, "README.md", repo_type="dataset", revision=address.revision)
    if known is _CACHED_NO_EXIST:
        return "unknown"  # seen before, so that it holds without the Hub too
    try:
        card = hf_hub_download(address.path, "README.md", repo_type="dataset", revision=address.revision)
    except RemoteEntryNotFoundError:
        return "unknown"  # it has no card
    except (LocalEntryNotFoundError, OSError, ValueError, HTTPError) as error:
        # A Hub that is away for a moment must not change what stands in the rows.
        raise SourceError(_told(address, error)) from error
    try:
        license = DatasetCard.load(card).data.get("license")
    except (OSError, ValueError):
        return "unknown"  # its card is not one
    return license if isinstance(license, str) else "unknown"


def _loaded(address: Address) -> dict[str, Any]:
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx' or httpx2's

    wanted: dict[str, Any] = {}
    if address.on_hub:
        # Without the Hub `datasets` takes what it loaded last of a repository: so each address has a cache of its own.
        own = digest(str(replace(address, split="")), length=16)
        wanted = {"revision": address.revision, "cache_dir": str(Path(config.HF_DATASETS_CACHE) / "compact_hf" / own)}
    if address.files:
        wanted["data_files"] = address.files
    try:
        with _bars_on_a_terminal():
            loaded = load_dataset(address.path, address.config or None, **wanted)
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        raise SourceError(_told(address, error)) from error
    if address.split and address.split not in loaded:
        raise SourceError(
            f"{address.told} has the splits {', '.join(sorted(loaded))}; give one of them, or none for all"
        )
    chosen = {split: loaded[split] for split in sorted(loaded) if address.split in ("", split)}
    if not any(len(rows) for rows in chosen.values()):
        raise SourceError(f"{address.told} has no rows; give another data set")
    return chosen


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


@contextlib.contextmanager
def _bars_on_a_terminal() -> Iterator[None]:
    """Let `datasets` show what it downloads where somebody can see it, and nowhere else."""
    import datasets
    from huggingface_hub import utils as hub

    shown = [bars for bars in (datasets, hub) if not bars.are_progress_bars_disabled()]
    seen = sys.stderr is not None and sys.stderr.isatty()
    for bars in shown if not seen else ():
        bars.disable_progress_bars()
    try:
        yield
    finally:
        for bars in shown:
            bars.enable_progress_bars()


def _told(address: Address, error: Exception) -> str:
    said = " ".join(str(error).split())
    to_do = "check the name, the revision and HF_TOKEN" if address.on_hub else "give a folder that load_dataset takes"
    return f"{address.told} cannot be read ({said}); {to_do}"
