"""Write a dataset: rows in, and a directory that `load_dataset` reads out, whole or not at all.

The directory holds README.md, CHANGELOG.md and Parquet files with embedded images (schema.py). Row groups have at most
100 rows and 100 MB, files about 500 MB (what the Hub's viewer likes). Memory does not grow with the number of rows: it
holds the row group that each split is at, and one that a thread is writing meanwhile. The same rows in the same order
give the same Parquet files, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compact_hf.dataset.card import CARD, CHANGELOG, LICENSES, card, drawn, is_release, write_pictures
from compact_hf.dataset.changelog import first_entry
from compact_hf.dataset.provenance import Making
from compact_hf.dataset.schema import features, file_name, leaf_of, order_of, record, split_of
from compact_hf.dataset.stats import Facts, Shards, Tally
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.codec import PictureError, clean
from compact_hf.images.inspection import image_id_of
from compact_hf.records import Reject, Row
from compact_hf.storage import prefetch, replace_directory

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


_VERSION: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")


def write(
    rows: Iterable[Row | Reject],
    out: Path,
    *,
    version: str,
    license: str | None = None,
    making: Making | None = None,
) -> Facts:
    """Write a release.

    Args:
        rows (`Iterable[Row | Reject]`): the rows, in the order in which they shall lie in their leaf, and the
            rejects that the card shall count. Read once, as a stream.
        out (`Path`): a folder that is new, empty, or an earlier release, which is then replaced.
        version (`str`): X.Y.Z.
        license (`str`, *optional*, defaults to the pictures' one licence, or `other`): one of `LICENSES`.
        making (`Making`, *optional*): how the rows came about, for the card; it says so where that is not recorded.

    Returns:
        What was written, as the card says it.

    Raises:
        UsageError: `version` is not X.Y.Z, or the licence is none of the Hub's.
        ReleaseError: `out` holds something else or cannot be written, there are no rows, or a picture cannot be
            read any more or is another than the one that was asked about. `out` is as it was before.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"{version!r} is not a version; give three numbers such as 1.0.0")
    if license is not None and license not in LICENSES:
        raise UsageError(
            f"{license!r} is no licence that the Hub's cards know; there are {', '.join(sorted(LICENSES))}"
        )
    try:
        with replace_directory(out, ours=is_release) as folder:
            tally = Tally()
            shards = _write_shards(_counted(rows, tally), folder)
            if not shards:
                raise ReleaseError(f"there are no rows for {out}: {_told(tally)}")
            facts = Facts(version, shards, tally, license, making)
            pictures = drawn(tally.combinations)
            write_pictures(pictures, tally.combinations, folder)
            (folder / CARD).write_text(card(facts, pictures), encoding="utf-8")
            (folder / CHANGELOG).write_text(first_entry(facts), encoding="utf-8")
    except OSError as error:
        raise ReleaseError(
            f"{out} cannot be written ({error.strerror or error}); "
            "nothing was changed, make room or choose another --out"
        ) from error
    return facts


def _write_shards(rows: Iterable[Row], folder: Path) -> dict[tuple[str, str], Shards]:
    with ParquetFolder(folder, features()) as files:
        for row, picture in prefetch(rows, _picture):
            files.add(leaf_of(row.k, row.image_id), split_of(row.k, row.image_id), record(row, picture))
        return files.close()


def _picture(row: Row) -> bytes | None:
    if row.read_picture is None:
        return None
    try:
        data = row.read_picture()
        if image_id_of(data) != row.image_id:
            raise ReleaseError(f"the picture of row {row.id} has changed since it was asked about; put it back")
        return clean(data)
    except (OSError, PictureError) as error:
        raise ReleaseError(f"the picture of row {row.id} cannot be read any more ({error}); put it back") from error


def _counted(rows: Iterable[Row | Reject], tally: Tally) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, Reject):
            tally.reject(row)
        else:
            tally.row(row)
            yield row


def _told(tally: Tally) -> str:
    if not tally.rejects:
        return "nothing was accepted or rejected; generate more first"
    told = ", ".join(f"{reason} {count}" for (_, reason), count in tally.rejects.most_common(5))
    return f"everything was rejected ({told}); generate more first"
