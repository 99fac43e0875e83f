"""Writes a release: a directory that `load_dataset` can read, complete or not at all.

The directory contains README.md, CHANGELOG.md and Parquet files with embedded images (schema.py). Row groups have at
most 100 rows and 100 MB, files about 500 MB (sizes that suit the Hub's dataset viewer). Memory use does not grow with
the number of rows: it is one unfinished row group per split, and one that a thread is writing. The same rows in the
same order give the same Parquet files, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compact_hf.dataset.card import (
    CHANGELOG,
    draw_figures,
    is_dataset_directory,
    render_card,
    write_figures,
)
from compact_hf.dataset.changelog import initial_changelog
from compact_hf.dataset.provenance import Provenance
from compact_hf.dataset.row_kinds import get_row_kind
from compact_hf.dataset.schema import data_path, features, get_split, get_subset, subset_order, to_record
from compact_hf.dataset.stats import DatasetStats, RowCounter, SplitSize
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.card import CARD, is_edited, mark_card, read_card
from compact_hf.hub.card_rules import LICENSES
from compact_hf.images.codec import ImageError, clean_image
from compact_hf.images.inspection import compute_image_id
from compact_hf.records import Reject, Row
from compact_hf.storage import prefetch, replace_directory, translate_disk_errors

# The Hub's viewer refuses row groups of more than about 286 MiB.
MAX_GROUP_ROWS: Final = 100
MAX_GROUP_BYTES: Final = 100 * 10**6
# In bytes of Arrow tables, which is about the size of the file: images are already compressed.
MAX_FILE_BYTES: Final = 500 * 10**6


class DatasetWriter:
    """Writes the data files of a release. Use it as a context manager; `close` gives the files their final names.

    Args:
        root (`Path`): directory of the release.
        features (`datasets.Features`): the columns.
    """

    def __init__(self, root: Path, features: Any) -> None:
        self._root, self._features = root, features
        self._splits: dict[tuple[str, str], _SplitWriter] = {}
        # One thread: row groups are written in their order, and pyarrow compresses while the next rows are read.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Waits for the pending row group, which uses the files that are closed next.
        self._executor.shutdown()
        for split in self._splits.values():
            split.abandon()

    def add(self, subset: str, split: str, record: dict[str, Any]) -> None:
        """Add a row.

        Args:
            subset (`str`): subset of the row.
            split (`str`): split of the row.
            record (`dict[str, Any]`): values of all columns; images as `{"bytes": ..., "path": None}`.

        Raises:
            OSError: an earlier row group could not be written; it is written in a thread.
        """
        split_key = subset, split
        if split_key not in self._splits:
            self._splits[split_key] = _SplitWriter(self._root, *split_key, self._features)
        if group := self._splits[split_key].add(record):
            self._write(self._splits[split_key], group)

    def close(self) -> dict[tuple[str, str], SplitSize]:
        """Write the remaining rows, number the files, and return their sizes in the order of the subsets."""
        for split in self._splits.values():
            if group := split.pop_group():
                self._write(split, group)
        self._wait()
        ordered_keys = sorted(self._splits, key=lambda split_key: (subset_order(split_key[0]), split_key[1]))
        return {split_key: self._splits[split_key].close() for split_key in ordered_keys}

    def _write(self, split: _SplitWriter, group: list[dict[str, Any]]) -> None:
        self._wait()  # at most one row group is pending, else memory would grow on a slow disk
        self._pending = self._executor.submit(split.write, group)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


class _SplitWriter:
    """Writes the files of one split of one subset.

    `add` and `pop_group` must be called in the same thread; `write` may be called in another one.
    """

    def __init__(self, root: Path, subset: str, split: str, features: Any) -> None:
        self._root, self._subset, self._split, self._features = root, subset, split, features
        self._schema = features.arrow_schema
        self._group: list[dict[str, Any]] = []
        self._group_bytes = 0
        self._writer: Any = None
        self._file_bytes = 0  # size of the open file, in bytes of its Arrow tables
        self._files: list[Path] = []
        self._rows = self._nbytes = 0

    def add(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Add a record; return a row group that is now complete (with or without this record), or an empty list."""
        # Only the images: the texts are negligible. An image above the limit gets a row group of its own.
        size = sum(len(image["bytes"]) for image in record["images"])
        group = self.pop_group() if self._group and self._group_bytes + size > MAX_GROUP_BYTES else []
        self._group.append(record)
        self._group_bytes += size
        return self.pop_group() if len(self._group) == MAX_GROUP_ROWS else group

    def pop_group(self) -> list[dict[str, Any]]:
        """Return and remove the records that are not in a row group yet."""
        group, self._group, self._group_bytes = self._group, [], 0
        return group

    def write(self, group: list[dict[str, Any]]) -> None:
        """Write one row group; start a new file if the current one would become too large."""
        import pyarrow as pa

        table = pa.Table.from_pylist(group, schema=self._schema)
        if self._writer is not None and self._file_bytes + table.nbytes > MAX_FILE_BYTES:
            self._close_file()
        if self._writer is None:
            self._open_file()
        # One call is one row group.
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._file_bytes += table.nbytes
        self._nbytes += table.nbytes
        self._rows += table.num_rows

    def close(self) -> SplitSize:
        """Give the files their final, numbered names, and return their sizes."""
        self._close_file()
        for index, path in enumerate(self._files):
            # `train-00000.parquet` becomes `train-00000-of-00002.parquet`.
            path.rename(self._root / data_path(self._subset, self._split, index, len(self._files)))
        directory = self._root / "data" / self._subset
        sizes = [path.stat().st_size for path in sorted(directory.glob(f"{self._split}-*.parquet"))]
        return SplitSize(rows=self._rows, files=len(sizes), nbytes=self._nbytes, file_bytes=sum(sizes))

    def abandon(self) -> None:
        """Close the open file, which the caller will delete; does nothing after `close`."""
        if self._writer is not None:
            with suppress(OSError):  # after an error such as a full disk, closing may fail as well
                self._writer.close()

    def _open_file(self) -> None:
        """Open the next file of the split; its final name is not known yet, because it contains the number of files."""
        import pyarrow.parquet as pq
        from datasets.arrow_writer import get_parquet_column_options
        from datasets.config import DEFAULT_CDC_OPTIONS

        path = self._root / "data" / self._subset / f"{self._split}-{len(self._files):05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.append(path)
        # As in `Dataset.to_parquet`: with content-defined chunks, the Hub stores data that versions share only once.
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
            self._writer, self._file_bytes = None, 0


_VERSION: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")


def write_dataset(
    rows: Iterable[Row | Reject],
    out: Path,
    *,
    version: str,
    sources: Collection[str],
    license: str | None = None,
    provenance: Provenance | None = None,
) -> DatasetStats:
    """Write a release.

    Args:
        rows (`Iterable[Row | Reject]`): the rows, in their order inside each subset, and the rejects, which the card
            counts. They are read once, as a stream.
        out (`Path`): the output directory: new, empty, or an earlier release, which is replaced unless its card was
            edited by hand.
        version (`str`): version of the release, X.Y.Z.
        sources (`Collection[str]`): names of the methods that rows may come from, and `instruction`. The files have the
            columns of all of them.
        license (`str`, *optional*, defaults to the license that all images share, else `other`): one of `LICENSES`.
        provenance (`Provenance`, *optional*): how the rows were made, for the card. Without it the card says that this
            is not recorded.

    Returns:
        The statistics of the release, as stated in the card.

    Raises:
        UsageError: `version` is not X.Y.Z, the Hub does not know the license, or a source is not a registered method.
        ReleaseError: `out` contains other files or an edited card, or cannot be written, there are no rows, or an image
            cannot be read any more or has changed since the run. `out` is then left unchanged.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"{version!r} is not a version: give three numbers such as 1.0.0")
    for source in sources:
        if get_row_kind(source) is None:
            raise UsageError(
                f"rows of {source} cannot be validated because no installed package registers a method of that name: "
                'register it under [project.entry-points."compact_hf.methods"]'
            )
    if license is not None and license not in LICENSES:
        raise UsageError(
            f"{license!r} is not a license identifier of the Hub: choose one of "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    with (
        translate_disk_errors(ReleaseError, out, "nothing was changed, free some disk space or choose another --out"),
        replace_directory(out, is_replaceable=_is_replaceable) as directory,
    ):
        row_counter = RowCounter()
        sizes = _write_splits(rows, directory, features(sources), row_counter)
        if not sizes:
            raise ReleaseError(f"there are no rows for {out}: {_describe_rejects(row_counter)}")
        stats = DatasetStats(version, sizes, row_counter, tuple(sorted(sources)), license, provenance)
        figures = draw_figures(stats)
        write_figures(figures, stats, directory)
        (directory / CARD).write_text(mark_card(render_card(stats, figures)), encoding="utf-8")
        (directory / CHANGELOG).write_text(initial_changelog(stats), encoding="utf-8")
    return stats


def _is_replaceable(directory: Path) -> bool:
    """Return whether a directory is an earlier release; raise ReleaseError if its card was edited by hand."""
    if not is_dataset_directory(directory):
        return False
    if is_edited(read_card(directory)):
        raise ReleaseError(
            f"{directory / CARD} was edited by hand and would be replaced: choose another --out and copy what you "
            f"wrote to its {CARD}, or remove {directory}"
        )
    return True


def _write_splits(
    rows: Iterable[Row | Reject], directory: Path, columns: Any, row_counter: RowCounter
) -> dict[tuple[str, str], SplitSize]:
    """Write and count all rows; images are read ahead in threads."""
    with DatasetWriter(directory, columns) as writer:
        for row, images in prefetch(_count_rejects(rows, row_counter), _read_images):
            record = to_record(row, images, columns)
            row_counter.add(record)
            writer.add(get_subset(row.source, record), get_split(row.source, row.image_id), record)
        return writer.close()


def _read_images(row: Row) -> list[bytes]:
    return [_read_image(row, image_id, read) for image_id, read in zip(row.image_ids, row.read_images, strict=True)]


def _read_image(row: Row, image_id: str, read: Callable[[], bytes]) -> bytes:
    """Read an image, check that it is still the one of the run, and return it without metadata."""
    try:
        data = read()
        # The id decides the split and is published, so the bytes must be those that it was computed from.
        if compute_image_id(data) != image_id:
            raise ReleaseError(
                f"the image of row {row.id} has changed since it was inspected: run the same command again"
            )
        return clean_image(data)
    except (OSError, ImageError) as error:
        raise ReleaseError(
            f"the image of row {row.id} cannot be read any more ({error}): restore it, or run the same command again"
        ) from error


def _count_rejects(rows: Iterable[Row | Reject], row_counter: RowCounter) -> Iterator[Row]:
    """Yield the rows, and count the rejects among them."""
    for row in rows:
        if isinstance(row, Reject):
            row_counter.add_reject(row)
        else:
            yield row


def _describe_rejects(row_counter: RowCounter) -> str:
    if not row_counter.rejects:
        return "the runs have no accepted or rejected questions yet; generate more first"
    reasons = ", ".join(f"{reason} {count}" for (_, reason), count in row_counter.rejects.most_common(5))
    return f"all rows were rejected ({reasons}); generate more first"
