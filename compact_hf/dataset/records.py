"""A release to be read: in goes a folder or a repository on the Hub, out come its records, one row group in memory.

Of a repository only the files that are asked for are downloaded, at one commit, into the Hub client's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.layout import DEFAULT_CONFIG, SPLITS, configs, order_of, place_of
from compact_hf.dataset.parquet import MAX_GROUP_ROWS
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.download import listing, snapshot
from compact_hf.images.address import HUB, Address

COLUMNS: Final = ("id", "images", "messages", "turns", "source")
"""What exports need of a row; only these columns are read."""


@dataclass(frozen=True, slots=True)
class Part:
    """A config of a release, or some of its splits.

    Attributes:
        root (`Path`): the folder in which the files lie.
        config (`str`): the config's name.
        files (`dict[str, tuple[str, ...]]`): split -> its files inside `root`, in the order of the rows.
    """

    root: Path
    config: str
    files: Mapping[str, tuple[str, ...]]

    def records(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a split as records of `COLUMNS`, pictures as the bytes of their files.

        Raises:
            ReleaseError: a file cannot be read, or lacks a column.
        """
        for name in self.files[split]:
            yield from _records(self.root / name)


def open_part(release: str | Path, *, config: str = DEFAULT_CONFIG, split: str | None = None) -> Part:
    """Find a config's files.

    Args:
        release (`str | Path`): a folder, or `org/name[@revision]`, with or without `hf://datasets/` before it.
        config (`str`, *optional*, defaults to `all`): one of the configs in the release's card.
        split (`str`, *optional*): `train` or `validation`; those that are there by default.

    Raises:
        UsageError: there is no such folder, config or split, or it is not a repository's name.
        ReleaseError: there are no data files of a release.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"got the split {split!r}; a release has {' and '.join(SPLITS)}")
    folder = Path(release)
    if folder.is_dir():
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
        return Part(folder, config, _chosen(str(release), names, config, split))
    if folder.is_absolute() or (not str(release).startswith(HUB) and str(release).count("/") != 1):
        raise UsageError(f"there is no folder {release}; give one, or org/name of a data set on the Hub")
    return _from_hub(Address.parse(f"{HUB}{str(release).removeprefix(HUB)}"), config, split)


def _from_hub(address: Address, config: str, split: str | None) -> Part:
    config = address.config or config
    there = listing(address.path, repo_type="dataset", revision=address.revision or None)
    chosen = _chosen(address.told, list(there.files), config, split)
    names = [name for of_split in chosen.values() for name in of_split]
    return Part(snapshot(address.path, repo_type="dataset", revision=there.commit, files=names), config, chosen)


def _chosen(told: str, names: list[str], config: str, split: str | None) -> dict[str, tuple[str, ...]]:
    places = {name: place for name in names if (place := place_of(name))}
    if not places:
        raise ReleaseError(f"{told} holds no data files of a release; give what `compact assemble` wrote")
    there = configs(leaf for leaf, _ in places.values())
    if config not in there:
        raise UsageError(f"{told} has no config {config!r}; it has {', '.join(there)}")
    in_order = sorted(places, key=lambda name: (order_of(places[name][0]), name))
    chosen = {
        each: tuple(name for name in in_order if places[name][0] in there[config] and places[name][1] == each)
        for each in SPLITS
        if split in (None, each)
    }
    if not any(chosen.values()):
        raise UsageError(f"config {config!r} of {told} has no rows in {split}; leave the split out, or give another")
    return {each: of_split for each, of_split in chosen.items() if of_split}


def _records(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False) as opened:
            if missing := set(COLUMNS) - set(opened.schema_arrow.names):
                raise ReleaseError(f"{file} lacks {', '.join(sorted(missing))}; it is no file of a release")
            for batch in opened.iter_batches(batch_size=MAX_GROUP_ROWS, columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        told = " ".join(str(error).split())
        raise ReleaseError(f"{file} cannot be read ({told}); `compact validate` says what else is wrong") from error
