"""What the processes of benchmarks/release.py do, each step in one of its own: writing, checking, publishing, reading.

In: what is asked, as JSON. Out: seconds, CPU seconds and the peak of memory, and what else the step tells.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from release_data import journalled, known_ids, picture, records, rows

from compact_hf.runs.journal import Journal
from compact_hf.testing.scripted_model import KEY

GROUP = 100  # rows that plain pyarrow takes at once, as many as ours


def _warm() -> None:
    """Write three rows, so that what is imported once is not timed."""
    from compact_hf.dataset.writer import write as write_release

    with tempfile.TemporaryDirectory() as folder:
        write_release(rows(known_ids(3)), Path(folder) / "out", version="1.0.0")


def write(asked: dict[str, Any]) -> dict[str, Any]:
    """Write a release."""
    from compact_hf.dataset.writer import write as write_release

    ids = known_ids(asked["rows"])
    _warm()
    with Timed() as timed:
        write_release(rows(ids), Path(asked["out"]), version="1.0.0")
    return timed.said


def pyarrow(asked: dict[str, Any]) -> dict[str, Any]:
    """Write the same records with the same settings by pyarrow alone, into one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets.arrow_writer import get_parquet_column_options
    from datasets.config import DEFAULT_CDC_OPTIONS

    from compact_hf.dataset.schema import features

    columns = features()
    schema, ids = columns.arrow_schema, known_ids(asked["rows"])
    options = get_parquet_column_options(columns, schema)
    with (
        Timed() as timed,
        pq.ParquetWriter(
            asked["out"], schema, use_content_defined_chunking=DEFAULT_CDC_OPTIONS, write_page_index=True, **options
        ) as writer,
    ):
        group: list[dict[str, Any]] = []
        for record in records(ids):
            group.append(record)
            if len(group) == GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group.clear()
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return timed.said


def validate(asked: dict[str, Any]) -> dict[str, Any]:
    """Check a release: every row, every picture decoded."""
    from compact_hf.dataset.validate import validate as checked

    with Timed() as timed:
        report = checked(asked["out"])
    if not report.is_valid:
        raise SystemExit(f"the release in {asked['out']} is not valid")
    return timed.said


def choose(asked: dict[str, Any]) -> dict[str, Any]:
    """Choose among the questions of a run: near-duplicates are dropped, the rest is balanced."""
    from compact_hf.methods.compact.rows import conversation_rows

    journalled(asked["rows"], Path(asked["run"]))
    with Timed() as timed:
        deque(conversation_rows([Path(asked["run"])], balance=True), maxlen=0)
    return timed.said


def publish(asked: dict[str, Any]) -> dict[str, Any]:
    """Write a release and publish it. Its checks, which come before the first step that is told, are timed apart."""
    from compact_hf.dataset.publish import publish as publish_release
    from compact_hf.dataset.writer import write as write_release

    ids, out, told = known_ids(asked["rows"]), Path(asked["out"]), list[float]()
    _warm()
    with Timed() as timed:
        write_release(rows(ids), out, version="1.0.0")
        checking = time.perf_counter()
        publish_release(out, asked["repository"], on_progress=lambda step: told.append(time.perf_counter()))
    return timed.said | {"checks_s": told[0] - checking}


def push_to_hub(asked: dict[str, Any]) -> dict[str, Any]:
    """Do what `datasets` offers for the same rows."""
    from datasets import Dataset

    from compact_hf.dataset.schema import features

    ids = known_ids(asked["rows"])
    with Timed() as timed:
        data = Dataset.from_generator(
            records, features=features(), cache_dir=asked["out"], gen_kwargs={"ids": ids}, split="train"
        )
        data.push_to_hub(asked["repository"])
    return timed.said


def stream(asked: dict[str, Any]) -> dict[str, Any]:
    """Read one config as a stream, to its end."""
    from datasets import load_dataset

    loaded = load_dataset(asked["repository"], "k3", split="train", streaming=True).decode(False)
    with Timed() as timed:
        count = sum(1 for _ in loaded)
    return timed.said | {"rows": count}


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Look at the pictures of a folder for the first time, hashes and decoding, and once more by the journal."""
    from compact_hf.images.folder import Folder
    from compact_hf.runs.image_index import looked_at

    folder = Path(asked["out"])
    folder.mkdir()
    for number in range(asked["rows"]):
        (folder / f"{number:06}.jpg").write_bytes(picture(number))
    source, seconds = Folder(folder), list[float]()

    async def all_of_them(journal: Journal) -> None:
        began = time.perf_counter()
        async for _, image_id in looked_at(source, journal, list(source.refs())):
            assert image_id
        seconds.append(time.perf_counter() - began)

    with Timed() as timed, Journal.open(Path(asked["run"]), {}) as journal:
        for _ in range(2):
            asyncio.run(all_of_them(journal))
    return timed.said | {"rows": asked["rows"], "first_s": seconds[0], "again_s": seconds[1]}


def instruction(asked: dict[str, Any]) -> dict[str, Any]:
    """Draw 5% of a LLaVA file, the share that the paper takes, and look at its pictures."""
    from compact_hf.dataset.instruction import instruction_rows
    from compact_hf.records import Reject

    file = Path(asked["file"])
    with Timed() as timed:
        drawn = rejected = 0
        for row in instruction_rows(file, image_root=file.parent, seed=0, fraction=0.05):
            drawn += 1
            rejected += isinstance(row, Reject)
    return timed.said | {"rows": drawn, "rejected": rejected}


def annotate(asked: dict[str, Any]) -> dict[str, Any]:
    """Annotate ten pictures of a LLaVA file, which is read to its end to find what is asked about them."""
    from compact_hf.methods.annotate.annotate import annotate as annotate_dataset

    os.environ["GEMINI_API_KEY"] = KEY
    with Timed() as timed:
        found = annotate_dataset(asked["file"], asked["run"], verifier_url=asked["url"], limit=10)
    return timed.said | {"questions": found.questions}


STEPS = {
    step.__name__: step
    for step in (write, pyarrow, validate, choose, publish, push_to_hub, stream, look, instruction, annotate)
}


class Timed:
    """Times a block, and says so after it: seconds, CPU seconds, and this program's own peak of memory, imports too."""

    def __enter__(self) -> Timed:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.said: dict[str, Any] = {
            "seconds": time.perf_counter() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
            "peak_mb": peak_mb(),
        }


def peak_mb() -> int:
    """What getrusage tells begins with the parent's peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1000
