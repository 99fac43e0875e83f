"""Tests that only the needed files and row groups of a release on the Hub are read. The server counts the bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.responses import Response

from compact_hf.dataset.writer import MAX_GROUP_BYTES, MAX_GROUP_ROWS, write_dataset
from tests.doubles.hub.http import StalledResponse, service_unavailable, too_many_requests
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import File
from tests.hub.clients import COMPACT, run, run_source

from .samples import make_row, make_rows

FILES: Final = "/datasets/org/compact/resolve/"
VIEWERS_LIMIT: Final = 286 * 2**20
"""Bytes of a row group above which the Hub's viewer shows nothing."""
READ_AHEAD: Final = 6 * 2**20
"""Bytes that the client's file system reads ahead (5 MiB), and those of Parquet's footer."""
UPLOAD: Final = """
import sys
from huggingface_hub import HfApi
api, place = HfApi(), {"repo_id": "org/compact", "repo_type": "dataset"}
api.create_repo(**place)
told = []
for tag, folder in zip(("v1.0.0", "v1.1.0"), sys.argv[1:]):
    api.upload_folder(**place, folder_path=folder, delete_patterns="*")
    api.create_tag(**place, tag=tag)
    told.append(tag)
"""


def make_noise_image(number: int, edge: int = 160) -> bytes:
    """Return an image of noise, which cannot be compressed: about 77 KB for an edge of 160 pixels."""
    out = BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 10 rows of k = 1, 10 of k = 2, 320 of k = 3; the training file of k3 has four row groups of up to 8 MB."""
    out = tmp_path_factory.mktemp("pictures") / "release"
    counts = {1: 10, 2: 10, 3: 320}
    ks = [k for k, count in counts.items() for _ in range(count)]
    write_dataset(
        (make_row(number, k=k, data=make_noise_image(number)) for number, k in enumerate(ks)),
        out,
        sources=("compact",),
        version="1.1.0",
    )
    return out


@pytest.fixture(scope="module")
def hub(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Return a Hub with the release as v1.1.0, and another release of 60 small rows as v1.0.0."""
    older = tmp_path_factory.mktemp("older") / "release"
    write_dataset(make_rows(60), older, sources=("compact",), version="1.0.0")
    with HubServer() as server:
        assert run_source(server, UPLOAD, older, release, home=tmp_path_factory.mktemp("home")) == ["v1.0.0", "v1.1.0"]
        yield server


def snippets(server: HubServer) -> list[str]:
    """Return the Python examples of the card on main."""
    card = server.store.repository("dataset", "org/compact").get_commit("main").files["README.md"].data.decode()
    return re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


@pytest.fixture
def server(hub: HubServer) -> HubServer:
    """Return the same Hub with an empty list of requests."""
    hub.requests.clear()
    hub.bytes_sent.clear()
    return hub


def file_sizes(release: Path, subset: str) -> dict[str, int]:
    """Return the sizes of the files of a subset in bytes, by path."""
    return {f"data/{subset}/{path.name}": path.stat().st_size for path in (release / "data" / subset).iterdir()}


def count_data_bytes(server: HubServer) -> Counter[str]:
    """Return the number of bytes that were sent of each data file, by path."""
    served: Counter[str] = Counter()
    for path, count in server.bytes_sent.items():
        if path.startswith(FILES) and count and "/data/" in path:
            served["data/" + path.partition("/data/")[2]] += count
    return served


def load_source(expression: str) -> str:
    return f"from datasets import load_dataset\nloaded = load_dataset('org/compact', {expression})\n"


def test_a_config_downloads_each_of_its_files_once_and_no_other(
    server: HubServer, release: Path, tmp_path: Path
) -> None:
    source = load_source("'k3'") + "told = {split: len(loaded[split]) for split in loaded}"
    assert sum(run_source(server, source, home=tmp_path).values()) == 320
    assert count_data_bytes(server) == file_sizes(release, "k3")
    assert len(server.requests) < 20


def test_every_snippet_of_the_card_runs_against_the_repository(server: HubServer, tmp_path: Path) -> None:
    examples = snippets(server)
    source = "\n".join(examples).replace("org/name", "org/compact")
    assert "load_dataset" in source
    names = run_source(server, source + "\ntold = sorted(name for name in dir() if name[0] != '_')", home=tmp_path)
    assert {"load_dataset", "data", "k3", "stream", "pinned"} <= set(names)


def test_columns_are_chosen_by_name(server: HubServer, tmp_path: Path) -> None:
    source = (
        load_source("'k3', split='train', columns=['id', 'k', 'messages']") + "told = [loaded.column_names, loaded[0]]"
    )
    names, first = run_source(server, source, home=tmp_path)
    assert sorted(names) == ["id", "k", "messages"]
    assert (first["k"], first["messages"][0]["role"]) == (3, "user")


def test_a_tag_is_read_as_it_was_then(server: HubServer, tmp_path: Path) -> None:
    source = load_source("revision='v1.0.0'") + "told = sum(map(len, loaded.values()))"
    assert run_source(server, source, home=tmp_path) == 60


def test_a_stream_gives_its_first_row_after_one_row_group(server: HubServer, release: Path, tmp_path: Path) -> None:
    """`reshard` makes a shard of every row group. Without it, Arrow requests 32 MB at once, and `datasets` yields the
    first row group only when Arrow has read the next one."""
    source = """
import os
from datasets import load_dataset
loaded = load_dataset("org/compact", "k3", split="train", streaming=True).reshard()
print(next(iter(loaded))["id"], loaded.num_shards, flush=True)
os._exit(0)  # requests for read-ahead are never answered
"""
    (path,) = (path for path in file_sizes(release, "k3") if "train" in path)
    with pq.ParquetFile(release / path) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        expected = file.read_row_group(0, ["id"])["id"][0].as_py()
    first_group_bytes = sum(groups[0].column(column).total_compressed_size for column in range(groups[0].num_columns))

    def answer_one_group_only(request: HubRequest, number: int) -> Response | None:
        start, end = map(int, request.headers.get("range", "bytes=0-0").removeprefix("bytes=").split("-"))
        is_footer = start >= file_sizes(release, "k3")[path] - 2**16  # the footer is read first
        is_past_first = end > first_group_bytes + READ_AHEAD and not is_footer
        return StalledResponse() if request.method == "GET" and path in request.path and is_past_first else None

    server.fault = answer_one_group_only
    process = run(server, source, home=tmp_path)
    server.fault = lambda request, number: None
    assert process.stdout.split() == [expected, str(len(groups))], process.stderr
    assert count_data_bytes(server).keys() == {path}
    assert count_data_bytes(server)[path] < first_group_bytes + READ_AHEAD < file_sizes(release, "k3")[path] / 1.5


def test_row_groups_are_what_the_viewer_takes(release: Path, tmp_path: Path) -> None:
    """Also tests large images: 12 images of 17 MB are in three row groups, although one has room for 100 rows."""
    large = make_noise_image(0, 2400)
    write_dataset(
        (make_row(number, data=large + bytes([number])) for number in range(12)),
        tmp_path / "large",
        sources=("compact",),
        version="1.0.0",
    )
    group_count = 0
    for path in [*release.rglob("*.parquet"), *(tmp_path / "large").rglob("*.parquet")]:
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                group = file.metadata.row_group(index)
                assert group.num_rows <= MAX_GROUP_ROWS
                assert group.total_byte_size < MAX_GROUP_BYTES + 2**20 < VIEWERS_LIMIT
                group_count += 1
    assert group_count > 8


def test_a_picture_of_two_rows_lies_whole_and_uncompressed_in_its_file_twice(tmp_path: Path) -> None:
    """A dictionary could store it once, but only within a row group. Uncompressed, it is the same chunk for the Hub's
    storage in every row, file and version, and is stored once there."""
    shared = make_noise_image(1)
    write_dataset(
        (make_row(number, data=shared if number % 2 else make_noise_image(number)) for number in range(2, 12)),
        tmp_path / "out",
        sources=("compact",),
        version="1.0.0",
    )
    data = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet"))
    assert data.count(shared) == 5


VALIDATE: Final = """
import sys
from compact_hf import CompactError, validate
told = []
for name in sys.argv[1:]:
    try:
        report = validate(name)
        told.append([sum(report.rows.values()), report.counts])
    except CompactError as error:
        told.append([type(error).__name__, str(error)])
"""


def test_a_repository_is_checked_as_a_folder_is(server: HubServer, tmp_path: Path) -> None:
    names = ("org/compact", "org/compact@v1.0.0", "hf://datasets/org/compact@v1.1.0")
    assert run_source(server, VALIDATE, *names, home=tmp_path) == [[340, {}], [60, {}], [340, {}]]


def test_defects_of_a_repository_are_found_at_its_revision(server: HubServer, tmp_path: Path) -> None:
    repository = server.store.repository("dataset", "org/compact")
    files = dict(repository.get_commit("v1.0.0").files)
    name = "data/k2/train-00000-of-00001.parquet"
    spoiled = File.from_bytes(files[name].data[:-100], lfs=True)
    repository.add_commit("refs/pr/7", files | {name: spoiled}, title="", message="", author="tester")
    whole, broken = run_source(server, VALIDATE, "org/compact@v1.0.0", "org/compact@refs/pr/7", home=tmp_path)
    assert whole == [60, {}]
    assert broken[1]["unreadable file"] == 1
    process = run(server, "import sys\n" + COMPACT + "\n", "validate", "org/compact@refs/pr/7", home=tmp_path)
    assert process.returncode == 1
    assert "unreadable file: data/k2/train-00000-of-00001.parquet" in process.stdout
    assert "compact: org/compact@refs/pr/7 is not a valid release" in process.stderr


def test_what_load_dataset_has_fetched_is_not_fetched_again(server: HubServer, release: Path, tmp_path: Path) -> None:
    run_source(server, load_source("'k3'") + "told = len(loaded)", home=tmp_path)
    run_source(server, VALIDATE, "org/compact", home=tmp_path)
    assert count_data_bytes(server) == file_sizes(release, "k1") | file_sizes(release, "k2") | file_sizes(release, "k3")


def test_a_hub_that_is_busy_or_failing_is_one_clear_line(server: HubServer, tmp_path: Path) -> None:
    faults = ((503, service_unavailable()), (429, too_many_requests(retry_after_s=0)))
    for status, fault in faults:
        server.fault = lambda request, number: fault  # noqa: B023 - it is over before the next
        process = run(server, COMPACT, "validate", "org/compact", home=tmp_path)
        server.fault = lambda request, number: None
        assert (process.returncode, process.stdout) == (1, "")
        assert re.fullmatch(rf"compact: the Hub is busy or failing \({status}: .+\): try again later\n", process.stderr)


def test_a_repository_that_cannot_be_had_is_one_clear_line(server: HubServer, tmp_path: Path) -> None:
    secret = server.store.create("dataset", "org/secret", private=True, author="tester")
    assert secret.private
    cases = {
        "org/nothing": ("HubError", "org/nothing was not found on the Hub, and there is no such directory"),
        "org/compact@v9.9.9": ("HubError", "org/compact@v9.9.9 was not found on the Hub"),
        "org/secret": ("HubError", "org/secret was not found on the Hub"),
        "org/a..b": ("UsageError", "is not the name of a repository"),
        "nowhere": ("UsageError", "is not a directory: give the directory of a release, or org/name[@revision]"),
    }
    errors = run_source(server, VALIDATE, *cases, home=tmp_path / "home", HF_TOKEN="")
    for (kind, line), (expected, part) in zip(errors, cases.values(), strict=True):
        assert (kind, "\n" in line) == (expected, False)
        assert part in line
    known = run_source(server, VALIDATE, "org/compact", home=tmp_path / "known")
    assert run_source(server, VALIDATE, "org/compact", home=tmp_path / "known", HF_HUB_OFFLINE="1") == known
    nowhere = "http://127.0.0.1:9"  # the cache must not be used for main without being told so
    ((kind, line),) = run_source(server, VALIDATE, "org/compact", home=tmp_path / "known", HF_ENDPOINT=nowhere)
    assert (kind, "the Hub cannot be reached" in line, "\n" in line) == ("HubUnavailableError", True, False)
