"""Data sets at the Hub's double, and what of them crossed the network."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from compact_hf.images.inspection import compute_image_id
from tests.doubles.hub.http import USER
from tests.doubles.hub.server import HubServer
from tests.doubles.hub.store import MAIN, Commit, File

ROWS_IN_GROUP: Final = 3
COLUMNS: Final = Features(
    {"image": Image(), "mask": Image(), "question": Value("string"), "answer": Value("string"), "id": Value("string")}
)
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")
_FOOTER: Final = 2**16
"""What pyarrow reads of a file's end to find its footer there."""


def noise(number: int) -> bytes:
    """A picture of 110 KB that cannot be compressed, so that bytes served can be told apart from everything else."""
    pixels = np.random.default_rng(number).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def rows(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Rows with a picture each, a mask as large that nobody asked for, and a question."""
    mask = {"bytes": noise(10**6), "path": None}
    return [
        {
            "image": {"bytes": noise(number), "path": f"{number}.png"},
            "mask": mask,
            "question": f"What is {number}?",
            "answer": "noise",
            "id": str(number),
        }
        for number in numbers
    ]


def parquet(records: Sequence[Mapping[str, Any]], features: Features = COLUMNS) -> bytes:
    """A file with row groups of three rows."""
    file = io.BytesIO()
    Dataset.from_list(list(records), features=features).to_parquet(file, batch_size=ROWS_IN_GROUP)
    return file.getvalue()


def put(hub: HubServer, name: str, files: Mapping[str, bytes], *, private: bool = False) -> Commit:
    """Commit files on top of what a repository's main holds."""
    if not hub.store.has("dataset", name):
        hub.store.create("dataset", name, private=private, author=USER)
    repository = hub.store.repository("dataset", name)
    held = {**repository.at(MAIN).files, **{path: File.of(data, lfs=b"\0" in data) for path, data in files.items()}}
    return repository.add(MAIN, held, title="More", message="", author=USER)


def ranges(hub: HubServer, commit: Commit, *, since: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yield (file, first byte, byte after the last) of every range that was asked for, footers left out."""
    for asked in hub.asked[since:]:
        path = asked.path.partition(f"/resolve/{commit.sha}/")[2]
        if asked.method == "GET" and path.endswith(".parquet"):
            match = _RANGE.fullmatch(asked.headers["range"])
            assert match is not None
            first, end = int(match[1]), int(match[2]) + 1
            if end < len(commit.files[path].data):
                yield path, first, end


def fetched_twice(found: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Those ranges that begin within an earlier one of the same file, in order."""
    ordered = sorted(found)
    return [later for earlier, later in pairwise(ordered) if earlier[0] == later[0] and later[1] < earlier[2]]


def served(hub: HubServer) -> int:
    """Bytes of Parquet files that were sent, footers included."""
    return sum(sent for path, sent in hub.served.items() if path.endswith(".parquet"))


def group_bytes(pictures: int = ROWS_IN_GROUP) -> int:
    """About what the pictures of a row group take."""
    return pictures * len(noise(0))


def footer_bytes(files: int) -> int:
    """What the footers of so many files take."""
    return files * _FOOTER


def picture_ranges(hub: HubServer, commit: Commit, *, since: int = 0) -> list[tuple[str, int, int]]:
    """Those of the ranges that hold pictures: one for each row group that was fetched."""
    return [one for one in ranges(hub, commit, since=since) if one[2] - one[1] > len(noise(0)) // 2]


def ids(numbers: Sequence[int]) -> list[str]:
    return [compute_image_id(noise(number)) for number in numbers]
