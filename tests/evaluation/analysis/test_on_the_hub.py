"""Tests that a repository has the same statistics as its directory, at a revision, without downloading images."""

from __future__ import annotations

import random
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from compact_hf.dataset.writer import write_dataset
from compact_hf.records import Row
from tests.dataset.samples import make_row
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source

PUBLISH = """
import sys
from compact_hf import publish
for folder in sys.argv[1:]:
    publish(folder, "org/compact")
told = None
"""
ANALYZE = """
import sys
from compact_hf import CompactError, analyze
told = [analyze(one, config="compositional").to_json() for one in sys.argv[1:]]
for wrong in ("org/compact@v9.0.0", "org/nothing", "org/compact/k9"):
    try:
        analyze(wrong)
    except CompactError as error:
        told.append([type(error).__name__, str(error)])
"""


def noise_row(number: int) -> Row:
    """Return a row with an image of 40 KB, which is as large relative to the text as a photograph."""
    file = BytesIO()
    Image.frombytes("RGB", (120, 110), random.Random(number).randbytes(3 * 120 * 110)).save(file, "PNG")
    return make_row(number, k=number % 3 + 1, data=file.getvalue())


def test_a_repository_has_the_figures_of_its_folder_without_its_pictures(tmp_path: Path) -> None:
    older, newer = [noise_row(number) for number in range(30)], [noise_row(number) for number in range(60)]
    write_dataset(older, tmp_path / "a", sources=("compact",), version="1.0.0")
    write_dataset(
        [replace(item, teacher="another") for item in newer], tmp_path / "b", sources=("compact",), version="1.1.0"
    )
    with HubServer() as server:
        run_source(server, PUBLISH, tmp_path / "a", tmp_path / "b", home=tmp_path / "home")
        server.bytes_sent.clear()
        addresses = ("org/compact@v1.0.0", "org/compact", tmp_path / "a", tmp_path / "b")
        first, main, a, b, *errors = run_source(server, ANALYZE, *addresses, home=tmp_path / "elsewhere")
        served_bytes = sum(count for path, count in server.bytes_sent.items() if path.endswith(".parquet"))
    total_bytes = sum(file.stat().st_size for name in "ab" for file in (tmp_path / name).rglob("*.parquet"))
    assert served_bytes < 0.2 * total_bytes  # mostly footers, which are read in blocks of 64 KB; the files are small
    for remote, local, count in ((first, a, 60), (main, b, 120)):
        ((remote_data,), (local_data,)) = remote["data"], local["data"]
        assert remote_data["questions"] == count
        assert {**remote_data, "name": ""} == {**local_data, "name": ""}
    assert [item["data"][0]["name"] for item in (first, b)] == [
        "org/compact@v1.0.0 (compositional)",
        "b (compositional)",
    ]
    assert [kind for kind, _ in errors] == ["SourceError"] * 3
    assert all("cannot be read" in line and "\n" not in line for _, line in errors)
