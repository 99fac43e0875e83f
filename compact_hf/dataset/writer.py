"""Writing a release: in go rows (and rejects, to be counted), out comes a folder that `load_dataset` reads.

The folder holds README.md, CHANGELOG.md and Parquet files with embedded pictures (layout.py). Memory does not grow with
the number of rows; the same rows in the same order give the same Parquet files, byte for byte; and the folder is there
completely or not at all (folder.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from compact_hf.dataset.card import CARD, CHANGELOG, LICENSES, card, is_release
from compact_hf.dataset.card_pictures import drawn, write_pictures
from compact_hf.dataset.changelog import first_entry
from compact_hf.dataset.layout import leaf_of, split_of
from compact_hf.dataset.parquet import ParquetFolder
from compact_hf.dataset.provenance import Making
from compact_hf.dataset.schema import features, record
from compact_hf.dataset.stats import Facts, Shards
from compact_hf.dataset.tally import Tally
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.codec import PictureError, clean
from compact_hf.images.inspection import image_id_of
from compact_hf.records import Reject, Row
from compact_hf.storage import prefetch, replace_directory

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
