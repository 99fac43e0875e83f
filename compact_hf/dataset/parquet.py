"""A folder of Parquet files, written as a stream: in go records for a split of a leaf, out come numbered files.

Row groups of at most 100 rows and 100 MB, files of about 500 MB (what the Hub's viewer likes). What is in memory is the
row group that each split is at, and one that a thread is writing meanwhile: Parquet's writer lets go of Python's lock.
The same records give the same files, byte for byte.

A picture of several rows lies in the file as often, each time whole and uncompressed. Parquet's dictionary encoding
would hold it once, but only among the 100 rows of a row group, where COMPACT hardly ever has one twice (a picture has
one row a run); and it makes whoever wants one row read all pictures of its row group first. Tried on 100 pictures of
100 KB of which 50 are other rows' too: 5.0 MB instead of 10.0, writing distinct ones takes 0.9 to 1.8 times as long.
As it is, the Hub's storage, which cuts files by their content, finds the same chunks in every row, file and version.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compact_hf.dataset.layout import file_name, order_of
from compact_hf.dataset.stats import Shards

MAX_GROUP_ROWS: Final = 100
MAX_GROUP_BYTES: Final = 100 * 10**6
MAX_FILE_BYTES: Final = 500 * 10**6


class ParquetFolder:
    """Writes below `root`; `close` gives the files their final names. To be left with `with`, whatever happens.

    Args:
        root (`Path`): the folder of the release.
        features (`datasets.Features`): the columns.
    """

    def __init__(self, root: Path, features: Any) -> None:
        self._root, self._features = root, features
        self._splits: dict[tuple[str, str], _Split] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        for split in self._splits.values():
            split.abandon()

    def add(self, leaf: str, split: str, record: dict[str, Any]) -> None:
        """Take one record of `features`; an OSError means that the disk did not take what came before."""
        place = leaf, split
        if place not in self._splits:
            self._splits[place] = _Split(self._root, *place, self._features)
        if group := self._splits[place].take(record):
            self._write(self._splits[place], group)

    def close(self) -> dict[tuple[str, str], Shards]:
        """Write what is left, number the files, and say what was written, in the order of the leaves."""
        for split in self._splits.values():
            if group := split.left():
                self._write(split, group)
        self._wait()
        in_order = sorted(self._splits, key=lambda place: (order_of(place[0]), place[1]))
        return {place: self._splits[place].close() for place in in_order}

    def _write(self, split: _Split, group: list[dict[str, Any]]) -> None:
        self._wait()  # or memory would grow where the disk is slower than the rows
        self._writing = self._thread.submit(split.write, group)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()


class _Split:
    """The files of one split of one leaf. `take` and `left` belong to one thread, `write` may be called by another."""

    def __init__(self, root: Path, leaf: str, split: str, features: Any) -> None:
        self._root, self._leaf, self._split, self._features = root, leaf, split, features
        self._schema = features.arrow_schema
        self._group: list[dict[str, Any]] = []
        self._group_bytes = 0
        self._writer: Any = None
        self._in_file = 0  # bytes, as Arrow, in the file that is open
        self._files: list[Path] = []
        self._rows = self._nbytes = 0

    def take(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Take one record, and return the row group that is complete with it or before it, or an empty list."""
        size = sum(len(image["bytes"]) for image in record["images"])
        full = self.left() if self._group and self._group_bytes + size > MAX_GROUP_BYTES else []
        self._group.append(record)
        self._group_bytes += size
        return self.left() if len(self._group) == MAX_GROUP_ROWS else full

    def left(self) -> list[dict[str, Any]]:
        """Return the records that are in no row group yet, and forget them."""
        group, self._group, self._group_bytes = self._group, [], 0
        return group

    def write(self, group: list[dict[str, Any]]) -> None:
        """Write one row group."""
        import pyarrow as pa

        table = pa.Table.from_pylist(group, schema=self._schema)
        if self._writer is not None and self._in_file + table.nbytes > MAX_FILE_BYTES:
            self._close_file()
        if self._writer is None:
            self._open_file()
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._in_file += table.nbytes
        self._nbytes += table.nbytes
        self._rows += table.num_rows

    def close(self) -> Shards:
        """Number the files, and say what was written."""
        self._close_file()
        for index, path in enumerate(self._files):
            path.rename(self._root / file_name(self._leaf, self._split, index, len(self._files)))
        folder = self._root / "data" / self._leaf
        sizes = [path.stat().st_size for path in sorted(folder.glob(f"{self._split}-*.parquet"))]
        return Shards(rows=self._rows, files=len(sizes), nbytes=self._nbytes, file_bytes=sum(sizes))

    def abandon(self) -> None:
        """Let go of the open file, which will be deleted; nothing to do after `close`."""
        if self._writer is not None:
            with suppress(OSError):  # the disk may be full, which is why we are here
                self._writer.close()

    def _open_file(self) -> None:
        import pyarrow.parquet as pq
        from datasets.arrow_writer import get_parquet_column_options
        from datasets.config import DEFAULT_CDC_OPTIONS

        path = self._root / "data" / self._leaf / f"{self._split}-{len(self._files):05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.append(path)
        # As `Dataset.to_parquet` writes: content-defined chunks let the Hub store what versions have in common once.
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            use_content_defined_chunking=DEFAULT_CDC_OPTIONS,
            write_page_index=True,
            **get_parquet_column_options(self._features, self._schema),
        )
        self._writer.add_key_value_metadata({"content_defined_chunking": json.dumps(DEFAULT_CDC_OPTIONS)})

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._in_file = None, 0
