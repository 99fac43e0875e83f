"""Makes datasets on the local test server for the Hub, and counts what clients download of them."""

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
"""Number of bytes that pyarrow reads at the end of a file to find the footer."""


def noise_png(number: int) -> bytes:
    """Return an image of 110 KB that cannot be compressed, so that its downloads are larger than all others."""
    pixels = np.random.default_rng(number).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def make_rows(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return rows with an image, a mask of the same size that no test reads, and a question."""
    mask = {"bytes": noise_png(10**6), "path": None}
    return [
        {
            "image": {"bytes": noise_png(number), "path": f"{number}.png"},
            "mask": mask,
            "question": f"What is {number}?",
            "answer": "noise",
            "id": str(number),
        }
        for number in numbers
    ]


def to_parquet(records: Sequence[Mapping[str, Any]], features: Features = COLUMNS) -> bytes:
    """Return a Parquet file with row groups of three rows."""
    file = io.BytesIO()
    Dataset.from_list(list(records), features=features).to_parquet(file, batch_size=ROWS_IN_GROUP)
    return file.getvalue()


def commit_files(hub: HubServer, name: str, files: Mapping[str, bytes], *, private: bool = False) -> Commit:
    """Add files to the main branch of a repository, which is created if needed."""
    if not hub.store.has("dataset", name):
        hub.store.create("dataset", name, private=private, author=USER)
    repository = hub.store.repository("dataset", name)
    merged = {
        **repository.get_commit(MAIN).files,
        **{path: File.from_bytes(data, lfs=b"\0" in data) for path, data in files.items()},
    }
    return repository.add_commit(MAIN, merged, title="More", message="", author=USER)


def iter_ranges(hub: HubServer, commit: Commit, *, since: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yield (file, first byte, byte after the last) for each requested range except footers."""
    for request in hub.requests[since:]:
        path = request.path.partition(f"/resolve/{commit.sha}/")[2]
        if request.method == "GET" and path.endswith(".parquet"):
            match = _RANGE.fullmatch(request.headers["range"])
            assert match is not None
            first, end = int(match[1]), int(match[2]) + 1
            if end < len(commit.files[path].data):
                yield path, first, end


def find_repeated_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return the ranges that overlap with another range of the same file, in order."""
    ordered = sorted(ranges)
    return [later for earlier, later in pairwise(ordered) if earlier[0] == later[0] and later[1] < earlier[2]]


def served_bytes(hub: HubServer) -> int:
    """Return the number of bytes sent of Parquet files, including footers."""
    return sum(sent for path, sent in hub.bytes_sent.items() if path.endswith(".parquet"))


def group_bytes(num_images: int = ROWS_IN_GROUP) -> int:
    """Return the approximate size of the images of a row group."""
    return num_images * len(noise_png(0))


def footer_bytes(files: int) -> int:
    """Return the number of bytes that clients read to get the footers of some files."""
    return files * _FOOTER


def image_ranges(hub: HubServer, commit: Commit, *, since: int = 0) -> list[tuple[str, int, int]]:
    """Return the requested ranges that contain images: one for each row group that was downloaded."""
    return [item for item in iter_ranges(hub, commit, since=since) if item[2] - item[1] > len(noise_png(0)) // 2]


def image_ids(numbers: Sequence[int]) -> list[str]:
    return [compute_image_id(noise_png(number)) for number in numbers]
