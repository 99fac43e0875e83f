"""Rows of Parquet files in a repository of the Hub, of which only the row groups that are read are downloaded, once.

Footers say how many rows there are; a row group comes when the first of its rows is read, as a stream, and only with
the columns that are wanted. All of it is kept in the cache of `datasets`, each piece put there when it is whole: a row
is read from a memory-mapped file from then on, also after a kill, in another process, and without the Hub.
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
from compact_hf.images.address import Address
from compact_hf.images.hub_repository import Listing, cache_of, keep, readable
from compact_hf.records import digest

BATCH: Final = 64
"""Rows that are handed out at a time."""


class Rows(Protocol):
    """Rows by their number from 0, values as Arrow holds them: a picture is `{bytes, path}`, never decoded."""

    def __len__(self) -> int: ...

    def cell(self, number: int, column: str) -> Any:
        """Return one value as a Python object; SourceError where the rows cannot be read any more."""
        ...

    def lengths(self, column: str) -> Iterator[int]:
        """Yield how many values each row's list has, 0 for none, in the order of the rows."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield all rows in their order as `pyarrow.Table` of at most `BATCH` rows."""
        ...

    def block(self, number: int) -> int | None:
        """Return which of the pieces in which rows are fetched this one lies in; None where all of them are here."""
        ...


class LoadedRows:
    """Rows in memory-mapped files.

    Args:
        rows (`datasets.Dataset`): as loaded.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def cell(self, number: int, column: str) -> Any:
        """See `Rows.cell`."""
        return self._rows[number][column][0].as_py()

    def lengths(self, column: str) -> Iterator[int]:
        """See `Rows.lengths`."""
        import pyarrow.compute as pc

        for batch in self._rows.select_columns([column]).iter(1000):
            yield from (length or 0 for length in pc.list_value_length(batch[column]).to_pylist())

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Rows.batches`."""
        yield from self._rows.select_columns(list(columns)).iter(BATCH)

    def block(self, number: int) -> None:  # noqa: ARG002 (the protocol names it)
        """Return None: every row is here."""
        return


_AT_ONCE: Final = 8  # requests for footers
_REQUEST_BYTES: Final = 8 * 2**20
_DECODED_BYTES: Final = 16 * 2**20  # at a time, so that a row group of a gigabyte takes no more memory
_OPEN_GROUPS: Final = 16
_GROUPS_AHEAD: Final = 2  # where rows are read in their order


class ParquetFile:
    """One file of a repository, and what is here of it.

    Args:
        url (`str`): `hf://datasets/org/name@COMMIT/path`.
        address (`Address`): of the data set, for errors and the place in the cache.
        features (`datasets.Features`): the columns that are wanted.
        hub (`huggingface_hub.HfFileSystem`): where to read.
    """

    def __init__(self, url: str, address: Address, features: Any, hub: Any) -> None:
        self._url, self._address, self._features, self._hub = url, address, features, hub
        self._folder = cache_of(address) / digest(url, features.to_dict(), length=16)
        self._failure: SourceError | None = None

    @cached_property
    def footer(self) -> Any:
        """The `pyarrow.parquet.FileMetaData`; SourceError where it cannot be read."""
        import pyarrow.parquet as pq

        kept = self._folder / "footer"
        with readable(self._address):
            if not kept.exists():
                with self._open() as file:
                    found = pq.read_metadata(file)
                keep(kept, lambda path: found.write_metadata_file(str(path)))
            return pq.read_metadata(kept)

    @cached_property
    def sizes(self) -> list[int]:
        """The rows of each row group."""
        return [self.footer.row_group(group).num_rows for group in range(self.footer.num_row_groups)]

    def lengths(self, column: str) -> list[int]:
        """Return how many values each row's list has; asks for as little as tells it."""
        kept = self._folder / f"{digest(column, length=16)}.json"
        with readable(self._address):
            if not kept.exists():
                found = [length for group in range(len(self.sizes)) for length in self._lengths(group, column)]
                keep(kept, lambda path: path.write_text(json.dumps(found)))
            lengths: list[int] = json.loads(kept.read_text())
        return lengths

    def table(self, group: int) -> Any:
        """Return a row group's wanted columns as a `pyarrow.Table` in a memory-mapped file.

        Raises:
            SourceError: it is not here yet and cannot be fetched.
        """
        import pyarrow as pa

        kept = self._folder / f"{group:05d}.arrow"
        with readable(self._address):
            if not kept.exists():
                # Of several threads and processes one fetches, the others wait.
                with FileLock(kept.with_suffix(".lock")):
                    if not kept.exists():
                        self._fetch_once(group, kept)
            with pa.memory_map(str(kept)) as file:
                return pa.ipc.open_file(file).read_all()

    def _fetch_once(self, group: int, kept: Path) -> None:
        # The client has tried for half a minute; those who waited meanwhile need not do the same.
        if self._failure is not None:
            raise self._failure
        try:
            with readable(self._address):
                for left_by_a_kill in self._folder.glob(f"{kept.stem}-*.part"):
                    left_by_a_kill.unlink()
                keep(kept, lambda path: self._fetch(group, path))
        except SourceError as error:
            self._failure = error
            raise

    def _fetch(self, group: int, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from datasets.table import table_cast

        facts = self.footer.row_group(group)
        rows = max(1, _DECODED_BYTES * facts.num_rows // max(1, facts.total_byte_size))
        schema = self._features.arrow_schema
        with self._open() as file, pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            parquet = pq.ParquetFile(file, metadata=self.footer, pre_buffer=False, buffer_size=_REQUEST_BYTES)
            # One column after the other, as they share the file.
            for batch in parquet.iter_batches(rows, [group], columns=list(self._features), use_threads=False):
                # As `datasets` does: files of one data set may differ in how they write the same columns.
                writer.write_table(table_cast(pa.Table.from_batches([batch]), schema))

    def _lengths(self, group: int, column: str) -> list[int]:
        """A footer tells where there is one picture in each row; elsewhere the shortest leaf does, never pictures."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        facts = self.footer.row_group(group)
        leaves = [facts.column(leaf) for leaf in range(facts.num_columns)]
        leaves = [leaf for leaf in leaves if leaf.path_in_schema.startswith(f"{column}.")]
        if any(leaf.num_values == facts.num_rows and _without_nulls(leaf.statistics) for leaf in leaves):
            return [1] * facts.num_rows
        shortest = min(leaves, key=lambda leaf: leaf.total_compressed_size).path_in_schema
        with self._open() as file:
            parquet = pq.ParquetFile(file, metadata=self.footer, pre_buffer=False)
            lists = parquet.read_row_group(group, columns=[shortest])[column]
        return [length or 0 for length in pc.list_value_length(lists).to_pylist()]

    def _open(self) -> Any:
        # No reading ahead: what follows a column is another one.
        return self._hub.open(self._url, "rb", cache_type="none")


class HubRows:
    """The rows of some Parquet files one after the other; see `Rows`.

    Args:
        files (`Sequence[ParquetFile]`): in order.
    """

    def __init__(self, files: Sequence[ParquetFile]) -> None:
        self._files = files
        groups = [(file, group, size) for file in files for group, size in enumerate(file.sizes)]
        self._groups = [(file, group) for file, group, _ in groups]
        self._starts = [0, *accumulate(size for *_, size in groups)]
        self._table = lru_cache(_OPEN_GROUPS)(self._table_of)

    def __len__(self) -> int:
        return self._starts[-1]

    def cell(self, number: int, column: str) -> Any:
        """See `Rows.cell`."""
        block = self.block(number)
        return self._table(block)[column][number - self._starts[block]].as_py()

    def lengths(self, column: str) -> Iterator[int]:
        """See `Rows.lengths`."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for lengths in pool.map(lambda file: file.lengths(column), self._files):
                yield from lengths

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Rows.batches`."""
        ahead: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(_GROUPS_AHEAD, thread_name_prefix="fetch") as pool:
            for block in range(len(self._groups) + _GROUPS_AHEAD):
                if block < len(self._groups):
                    ahead.append(pool.submit(self._table_of, block))
                if block >= _GROUPS_AHEAD:
                    table = ahead.popleft().result().select(list(columns))
                    yield from (table.slice(start, BATCH) for start in range(0, len(table), BATCH))

    def block(self, number: int) -> int:
        """Return which row group, of all files', a row lies in."""
        return bisect_right(self._starts, number) - 1

    def _table_of(self, block: int) -> Any:
        file, group = self._groups[block]
        return file.table(group)


def rows_of(address: Address, listing: Listing, splits: Sequence[str], columns: Sequence[str]) -> dict[str, HubRows]:
    """Return the rows of some splits; all that is fetched now are footers.

    Raises:
        SourceError: a file cannot be read, or is no Parquet.
    """
    from datasets import Features
    from huggingface_hub import HfFileSystem

    wanted = Features({name: listing.features[name] for name in columns})
    hub = HfFileSystem()
    files = {split: [ParquetFile(url, address, wanted, hub) for url in listing.files[split]] for split in splits}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda file: file.footer, [file for split in splits for file in files[split]]))
    return {split: HubRows(files[split]) for split in splits}


def _without_nulls(statistics: Any) -> bool:
    return bool(statistics is not None and statistics.has_null_count and not statistics.null_count)
