"""Implements the steps of benchmarks/release.py, each of which runs in its own process.

A step takes its arguments as a dict, from JSON on the command line. It returns seconds, CPU seconds and peak memory,
and for some steps further numbers.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from release_data import compute_image_ids, iter_records, iter_rows, make_image, write_journal

from compact_hf.runs.journal import Journal
from compact_hf.testing.scripted_model import KEY

ROW_GROUP_SIZE = 100  # rows per row group of plain pyarrow, the same as ours


def _warm_up() -> None:
    """Write three rows, so that imports are not timed."""
    from compact_hf.dataset.writer import write_dataset as write_release

    with tempfile.TemporaryDirectory() as directory:
        write_release(iter_rows(compute_image_ids(3)), Path(directory) / "out", version="1.0.0", sources=("compact",))


def write(step_args: dict[str, Any]) -> dict[str, Any]:
    """Write a dataset."""
    from compact_hf.dataset.writer import write_dataset as write_release

    ids = compute_image_ids(step_args["rows"])
    _warm_up()
    with Timer() as timer:
        write_release(iter_rows(ids), Path(step_args["out"]), version="1.0.0", sources=("compact",))
    return timer.result


def pyarrow(step_args: dict[str, Any]) -> dict[str, Any]:
    """Write the same records with the same settings to one file with plain pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets.arrow_writer import get_parquet_column_options
    from datasets.config import DEFAULT_CDC_OPTIONS

    from compact_hf.dataset.schema import features

    columns = features(("compact",))
    schema, ids = columns.arrow_schema, compute_image_ids(step_args["rows"])
    options = get_parquet_column_options(columns, schema)
    with (
        Timer() as timer,
        pq.ParquetWriter(
            step_args["out"], schema, use_content_defined_chunking=DEFAULT_CDC_OPTIONS, write_page_index=True, **options
        ) as writer,
    ):
        group: list[dict[str, Any]] = []
        for record in iter_records(ids):
            group.append(record)
            if len(group) == ROW_GROUP_SIZE:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group.clear()
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return timer.result


def validate(step_args: dict[str, Any]) -> dict[str, Any]:
    """Validate a dataset: all rows are checked and all images decoded."""
    from compact_hf.dataset.validate import validate as checked

    with Timer() as timer:
        report = checked(step_args["out"])
    if not report.is_valid:
        raise SystemExit(f"the dataset in {step_args['out']} is not valid")
    return timer.result


def choose(step_args: dict[str, Any]) -> dict[str, Any]:
    """Select questions of a run: drop near-duplicates and balance the rest."""
    from compact_hf.methods.assembly import AssemblyOptions, iter_rows

    write_journal(step_args["rows"], Path(step_args["run"]))
    with Timer() as timer:
        deque(iter_rows([Path(step_args["run"])], AssemblyOptions(balance=True)), maxlen=0)
    return timer.result


def publish(step_args: dict[str, Any]) -> dict[str, Any]:
    """Write and publish a dataset; the checks, which end with the first progress message, are also timed separately."""
    from compact_hf.dataset.publish import publish as publish_release
    from compact_hf.dataset.writer import write_dataset as write_release

    ids, out, step_times = compute_image_ids(step_args["rows"]), Path(step_args["out"]), list[float]()
    _warm_up()
    with Timer() as timer:
        write_release(iter_rows(ids), out, version="1.0.0", sources=("compact",))
        checks_start = time.perf_counter()
        publish_release(out, step_args["repository"], on_progress=lambda step: step_times.append(time.perf_counter()))
    return timer.result | {"checks_s": step_times[0] - checks_start}


def push_to_hub(step_args: dict[str, Any]) -> dict[str, Any]:
    """Publish the same rows with `push_to_hub` of `datasets`."""
    from datasets import Dataset

    from compact_hf.dataset.schema import features

    ids = compute_image_ids(step_args["rows"])
    with Timer() as timer:
        data = Dataset.from_generator(
            iter_records,
            features=features(("compact",)),
            cache_dir=step_args["out"],
            gen_kwargs={"ids": ids},
            split="train",
        )
        data.push_to_hub(step_args["repository"])
    return timer.result


def stream(step_args: dict[str, Any]) -> dict[str, Any]:
    """Read all rows of the config k3 as a stream."""
    from datasets import load_dataset

    streamed_rows = load_dataset(step_args["repository"], "k3", split="train", streaming=True).decode(False)
    with Timer() as timer:
        count = sum(1 for _ in streamed_rows)
    return timer.result | {"rows": count}


def look(step_args: dict[str, Any]) -> dict[str, Any]:
    """Inspect the images of a directory, which hashes and decodes them, and again, which reads the journal instead."""
    from compact_hf.images.folder import ImageFolder
    from compact_hf.runs.image_index import iter_inspected

    directory = Path(step_args["out"])
    directory.mkdir()
    for number in range(step_args["rows"]):
        (directory / f"{number:06}.jpg").write_bytes(make_image(number))
    source, seconds = ImageFolder(directory), list[float]()

    async def inspect_all(journal: Journal) -> None:
        start = time.perf_counter()
        async for _, image_id in iter_inspected(source, journal, list(source.refs())):
            assert image_id
        seconds.append(time.perf_counter() - start)

    with Timer() as timer, Journal.open(Path(step_args["run"]), {}) as journal:
        for _ in range(2):
            asyncio.run(inspect_all(journal))
    return timer.result | {"rows": step_args["rows"], "first_s": seconds[0], "again_s": seconds[1]}


def instruction(step_args: dict[str, Any]) -> dict[str, Any]:
    """Sample 5% of a LLaVA file, as the paper does, and inspect the images of the sample."""
    from compact_hf.dataset.instruction import sample_instruction_rows
    from compact_hf.records import Reject

    path = Path(step_args["file"])
    with Timer() as timer:
        row_count = reject_count = 0
        for row in sample_instruction_rows(path, image_root=path.parent, seed=0, fraction=0.05):
            row_count += 1
            reject_count += isinstance(row, Reject)
    return timer.result | {"rows": row_count, "rejected": reject_count}


def annotate(step_args: dict[str, Any]) -> dict[str, Any]:
    """Annotate ten images of a LLaVA file, all of which is read to find the questions about them."""
    from compact_hf.methods.annotate.annotate import annotate as annotate_dataset

    os.environ["GEMINI_API_KEY"] = KEY
    with Timer() as timer:
        summary = annotate_dataset(step_args["file"], step_args["run"], verifier_url=step_args["url"], limit=10)
    return timer.result | {"questions": summary.questions}


STEPS = {
    step.__name__: step
    for step in (write, pyarrow, validate, choose, publish, push_to_hub, stream, look, instruction, annotate)
}


class Timer:
    """Measures seconds and CPU seconds of a `with` block, and the peak memory of the process.

    Attributes:
        result (`dict[str, Any]`): the measurements, set at the end of the block.
    """

    def __enter__(self) -> Timer:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.result: dict[str, Any] = {
            "seconds": time.perf_counter() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
            "peak_mb": read_peak_mb(),
        }


def read_peak_mb() -> int:
    """Return the peak memory of this process; that of getrusage includes the parent process before exec."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1000
