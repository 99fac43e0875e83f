"""Reads rows of Parquet files on the Hub, downloading only the row groups that are used, each once.

The footers give the number of rows. A row group is downloaded as a stream when the first of its rows is read, and only
the requested columns of it. Each row group is stored as an Arrow file below the cache of `datasets` once it is
complete. From then on its rows are read from that memory-mapped file: in later runs, in other processes and offline.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol

from filelock import FileLock

from compact_hf.errors import SourceError
from compact_hf.hub.download import open_hub_file
from compact_hf.images.address import Address
from compact_hf.images.hub_repository import (
    ParquetListing,
    get_cache_directory,
    translate_source_errors,
)
from compact_hf.records import digest
from compact_hf.storage import atomic_file

BATCH_ROWS: Final = 64
"""Maximum number of rows per batch of `Rows.iter_batches`."""


class Rows(Protocol):
    """Access to rows by their index from 0. Values are those of Arrow: an image is `{bytes, path}`, not decoded."""

    def __len__(self) -> int: ...

    def cell(self, index: int, column: str) -> Any:
        """Return one value as a Python object.

        Args:
            index (`int`): index of the row, from 0.
            column (`str`): name of the column.

        Raises:
            SourceError: the row group has to be downloaded and cannot be.
        """
        ...

    def iter_lengths(self, column: str) -> Iterator[int]:
        """Yield the length of the list in each row, 0 for null, in the order of the rows."""
        ...

    def iter_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield all rows in order, as `pyarrow.Table` objects of at most `BATCH_ROWS` rows."""
        ...

    def block(self, index: int) -> int | None:
        """Return the number of the row group that contains a row, or None if all rows are on this machine."""
        ...


class LoadedRows:
    """Rows of a dataset that `datasets` has loaded into memory-mapped files; see `Rows`.

    Args:
        rows (`datasets.Dataset`): one split.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def cell(self, index: int, column: str) -> Any:
        """See `Rows.cell`."""
        return self._rows[index][column][0].as_py()

    def iter_lengths(self, column: str) -> Iterator[int]:
        """See `Rows.iter_lengths`."""
        import pyarrow.compute as pc

        for batch in self._rows.select_columns([column]).iter(1000):
            yield from (length or 0 for length in pc.list_value_length(batch[column]).to_pylist())

    def iter_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Rows.iter_batches`."""
        yield from self._rows.select_columns(list(columns)).iter(BATCH_ROWS)

    def block(self, index: int) -> None:  # noqa: ARG002 (the protocol names it)
        """Return None, because all rows are on this machine."""
        return


_HUB_THREADS: Final = 8  # parallel requests for footers and list lengths
_REQUEST_BYTES: Final = 8 * 2**20  # size of the range requests for the columns of a row group
_MAX_BATCH_BYTES: Final = 16 * 2**20  # decompressed at a time, so that memory does not grow with the row group
_CACHED_GROUPS: Final = 16  # memory-mapped tables that stay open
_PREFETCH_GROUPS: Final = 2  # row groups that are downloaded ahead when rows are read in order


class HubParquetFile:
    """One Parquet file of a repository, with a local cache of its footer and row groups.

    Args:
        url (`str`): URL of the file, `hf://datasets/org/name@COMMIT/path`.
        address (`Address`): the dataset, for error messages and the path in the cache.
        features (`datasets.Features`): the columns to read.
    """

    def __init__(self, url: str, address: Address, features: Any) -> None:
        self._url, self._address, self._features = url, address, features
        self._cache_directory = get_cache_directory(address) / digest(url, features.to_dict(), length=16)
        self._error: SourceError | None = None

    @cached_property
    def footer(self) -> Any:
        """The footer as `pyarrow.parquet.FileMetaData`; SourceError if it cannot be read."""
        import pyarrow.parquet as pq

        cache_file = self._cache_directory / "footer"
        with translate_source_errors(self._address):
            if not cache_file.exists():
                with open_hub_file(self._url) as file:
                    metadata = pq.read_metadata(file)
                with atomic_file(cache_file, is_shared=True) as temp_file:
                    metadata.write_metadata_file(str(temp_file))
            return pq.read_metadata(cache_file)

    @cached_property
    def group_sizes(self) -> list[int]:
        """The number of rows in each row group."""
        return [self.footer.row_group(group).num_rows for group in range(self.footer.num_row_groups)]

    def read_lengths(self, column: str) -> list[int]:
        """Return the length of the list in each row, downloading as little as possible.

        Args:
            column (`str`): name of the list column.
        """
        cache_file = self._cache_directory / f"{digest(column, length=16)}.json"
        with translate_source_errors(self._address):
            if not cache_file.exists():
                values = [
                    length
                    for group in range(len(self.group_sizes))
                    for length in self._read_group_lengths(group, column)
                ]
                with atomic_file(cache_file, is_shared=True) as temp_file:
                    temp_file.write_text(json.dumps(values))
            lengths: list[int] = json.loads(cache_file.read_text())
        return lengths

    def read_group(self, group: int) -> Any:
        """Return the requested columns of a row group as a memory-mapped `pyarrow.Table`, downloading it if needed.

        Args:
            group (`int`): index of the row group, from 0.

        Raises:
            SourceError: the row group is not in the cache and cannot be downloaded.
        """
        import pyarrow as pa

        cache_file = self._cache_directory / f"{group:05d}.arrow"
        with translate_source_errors(self._address):
            if not cache_file.exists():
                # If several threads or processes need the row group, one downloads it and the others wait.
                with FileLock(cache_file.with_suffix(".lock")):
                    if not cache_file.exists():
                        self._fetch_once(group, cache_file)
            with pa.memory_map(str(cache_file)) as file:
                return pa.ipc.open_file(file).read_all()

    def _fetch_once(self, group: int, cache_file: Path) -> None:
        """Download a row group into the cache; raise the earlier error if a download of this file has failed."""
        # The client has already retried for half a minute. Threads that waited for the lock do not try again.
        if self._error is not None:
            raise self._error
        try:
            # The caller holds the lock of this row group, so no other process writes the file.
            with translate_source_errors(self._address), atomic_file(cache_file) as temp_file:
                self._fetch(group, temp_file)
        except SourceError as error:
            self._error = error
            raise

    def _fetch(self, group: int, path: Path) -> None:
        """Stream a row group from the Hub into an Arrow file."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from datasets.table import table_cast

        group_metadata = self.footer.row_group(group)
        rows = max(1, _MAX_BATCH_BYTES * group_metadata.num_rows // max(1, group_metadata.total_byte_size))
        schema = self._features.arrow_schema
        with (
            open_hub_file(self._url) as file,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            parquet = pq.ParquetFile(file, metadata=self.footer, pre_buffer=False, buffer_size=_REQUEST_BYTES)
            # Without threads, because all columns are read from the same file object.
            for batch in parquet.iter_batches(rows, [group], columns=list(self._features), use_threads=False):
                # As in `datasets`: the files of a dataset may store the same column in different Arrow types.
                writer.write_table(table_cast(pa.Table.from_batches([batch]), schema))

    def _read_group_lengths(self, group: int, column: str) -> list[int]:
        """Return the list lengths of a row group without downloading images.

        If the footer shows one non-null value per row, nothing is downloaded. Otherwise the smallest leaf column is
        downloaded, such as the paths of the images.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        group_metadata = self.footer.row_group(group)
        leaves = [group_metadata.column(leaf) for leaf in range(group_metadata.num_columns)]
        leaves = [leaf for leaf in leaves if leaf.path_in_schema.startswith(f"{column}.")]
        if any(leaf.num_values == group_metadata.num_rows and _has_no_nulls(leaf.statistics) for leaf in leaves):
            return [1] * group_metadata.num_rows
        shortest = min(leaves, key=lambda leaf: leaf.total_compressed_size).path_in_schema
        with open_hub_file(self._url) as file:
            parquet = pq.ParquetFile(file, metadata=self.footer, pre_buffer=False)
            lists = parquet.read_row_group(group, columns=[shortest])[column]
        return [length or 0 for length in pc.list_value_length(lists).to_pylist()]


class HubRows:
    """The concatenated rows of several Parquet files; see `Rows`.

    Args:
        files (`Sequence[HubParquetFile]`): the files in order.
    """

    def __init__(self, files: Sequence[HubParquetFile]) -> None:
        self._files = files
        groups = [(file, group, size) for file in files for group, size in enumerate(file.group_sizes)]
        self._groups = [(file, group) for file, group, _ in groups]
        self._starts = [0, *accumulate(size for *_, size in groups)]
        self._cached_table = lru_cache(_CACHED_GROUPS)(self._read_table)

    def __len__(self) -> int:
        return self._starts[-1]

    def cell(self, index: int, column: str) -> Any:
        """See `Rows.cell`."""
        block = self.block(index)
        return self._cached_table(block)[column][index - self._starts[block]].as_py()

    def iter_lengths(self, column: str) -> Iterator[int]:
        """See `Rows.iter_lengths`."""
        with ThreadPoolExecutor(_HUB_THREADS) as pool:
            for lengths in pool.map(lambda file: file.read_lengths(column), self._files):
                yield from lengths

    def iter_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Rows.iter_batches`."""
        # The queue holds up to _PREFETCH_GROUPS downloads that are ahead of the row group that is yielded.
        pending: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(_PREFETCH_GROUPS, thread_name_prefix="fetch") as pool:
            for block in range(len(self._groups) + _PREFETCH_GROUPS):
                if block < len(self._groups):
                    pending.append(pool.submit(self._read_table, block))
                if block >= _PREFETCH_GROUPS:
                    table = pending.popleft().result().select(list(columns))
                    yield from (table.slice(start, BATCH_ROWS) for start in range(0, len(table), BATCH_ROWS))

    def block(self, index: int) -> int:
        """Return the number of the row group that contains a row, counted over all files."""
        return bisect_right(self._starts, index) - 1

    def _read_table(self, block: int) -> Any:
        file, group = self._groups[block]
        return file.read_group(group)


def open_hub_rows(
    address: Address, listing: ParquetListing, splits: Sequence[str], columns: Sequence[str]
) -> dict[str, HubRows]:
    """Return the rows of some splits. Only the footers are downloaded now.

    Args:
        address (`Address`): the dataset, at a commit.
        listing (`ParquetListing`): its files and columns.
        splits (`Sequence[str]`): names of the splits to open.
        columns (`Sequence[str]`): names of the columns to read.

    Returns:
        Split -> its rows.

    Raises:
        SourceError: a file cannot be read or is not a Parquet file.
    """
    from datasets import Features

    features = Features({name: listing.features[name] for name in columns})
    files = {split: [HubParquetFile(url, address, features) for url in listing.files[split]] for split in splits}
    with ThreadPoolExecutor(_HUB_THREADS) as pool:
        list(pool.map(lambda file: file.footer, [file for split in splits for file in files[split]]))
    return {split: HubRows(files[split]) for split in splits}


def _has_no_nulls(statistics: Any) -> bool:
    return bool(statistics is not None and statistics.has_null_count and not statistics.null_count)
