"""Measures time and memory to write, publish and read a dataset: `python benchmarks/release.py [--json]`.

It prints one table and takes about ten minutes on two idle cores, with 15 GB of disk and 16 GB of memory. Each step
(released.py) runs in a new process, because the peak memory of a process never decreases. Writing is compared with
plain pyarrow, which writes the same records with the same settings; the two run alternately. Publishing is compared
with `Dataset.from_generator(...).push_to_hub(...)` of the same rows. Both publish to a local test server for the Hub,
which runs in another process and counts the bytes that it sends.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from release_data import write_llava_file
from released import STEPS
from served import GeminiProcess

from tests.doubles.hub.server import HubServer

OUR_REPOSITORY, THEIR_REPOSITORY = "org/ours", "org/theirs"
SMALL_RELEASE_DIVISOR = 20  # the small dataset, to compare peak memory with, has 1/20 of the rows


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--rows", type=int, default=20_000, help="rows of the datasets that are timed (default: %(default)s)"
    )
    parser.add_argument("--many", type=int, default=100_000, help="rows of the largest dataset (default: %(default)s)")
    parser.add_argument(
        "--llava-mb", type=float, default=1000, help="size of the LLaVA file in MB (default: %(default)s)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=3, help="runs of writing and of pyarrow (default: %(default)s)"
    )
    parser.add_argument("--step", nargs=2, metavar=("STEP", "ASKED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, step_args = args.step
        print(json.dumps(STEPS[step](json.loads(step_args))))
        return
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory), args.rows, args.many, args.llava_mb, args.repetitions)
    print(json.dumps(result) if args.json else format_table(result))


def measure(directory: Path, rows: int, max_rows: int, llava_mb: float, repetitions: int) -> dict[str, Any]:
    """Return all results."""
    min_rows = max(1, rows // SMALL_RELEASE_DIVISOR)
    return {
        "rows": rows,
        "written": measure_writing(directory, rows, repetitions),
        "peaks": measure_peaks(directory, min_rows, rows, max_rows),
        "looked": run("look", rows=min_rows, out=directory / "pictures", run=directory / "looked"),
        **measure_hub(directory, rows),
        "llava": measure_llava(directory / "llava", llava_mb),
    }


def run(step: str, *, environment: Mapping[str, str] = os.environ, **step_args: Any) -> dict[str, Any]:
    """Run one step in a new process and return its results."""
    command = [sys.executable, __file__, "--step", step, json.dumps(step_args, default=str)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return dict(json.loads(output))


def measure_writing(directory: Path, rows: int, repetitions: int) -> dict[str, Any]:
    """Return the results of ours and of plain pyarrow for the same rows, and the ratio of their times in each turn."""
    step_runs: dict[str, list[dict[str, Any]]] = {"write": [], "pyarrow": []}
    for _ in range(repetitions):
        for step, runs in step_runs.items():
            out = directory / step
            runs.append(run(step, rows=rows, out=out))
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    ratios = [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(*step_runs.values(), strict=True)]
    return {**step_runs, "ratio": statistics.median(ratios), "ratios": ratios}


def measure_peaks(directory: Path, min_rows: int, rows: int, max_rows: int) -> list[dict[str, Any]]:
    """Return the peak memory of the steps for datasets of different sizes."""
    results = []
    for count in sorted({min_rows, rows, max_rows}):
        out = directory / f"{count} rows"
        results.append({"step": "write", "rows": count, **run("write", rows=count, out=out)})
        if count < max_rows or max_rows == min_rows:
            results.append({"step": "validate", "rows": count, **run("validate", out=out)})
            results.append(
                {"step": "choose", "rows": count, **run("choose", rows=count, run=directory / f"run of {count}")}
            )
        shutil.rmtree(out)
    return results


def measure_hub(directory: Path, rows: int) -> dict[str, Any]:
    """Return the results of publishing, ours and that of `datasets`, and the bytes that a stream of k3 downloads."""
    out = directory / "published"
    with HubProcess() as server:
        environment = {**os.environ, **server.environment, "HF_HOME": str(directory / "home")}
        theirs = run(
            "push_to_hub", environment=environment, rows=rows, out=directory / "theirs", repository=THEIR_REPOSITORY
        )
        shutil.rmtree(directory / "theirs")
        ours = run("publish", environment=environment, rows=rows, out=out, repository=OUR_REPOSITORY)
        bytes_before = server.read_served()
        stream = run("stream", environment=environment, repository=OUR_REPOSITORY)
        bytes_after = server.read_served()
    sizes = {f"/data/k3/{path.name}": path.stat().st_size for path in (out / "data" / "k3").glob("train-*")}
    shutil.rmtree(out)
    # Path of a request -> bytes that were sent for it during the stream.
    bytes_read = {
        path.partition("@")[2] or path: count - bytes_before.get(path, 0) for path, count in bytes_after.items()
    }
    data_bytes = {
        path: count for path, count in bytes_read.items() if "/data/" in path and "/resolve/" in path and count
    }
    k3_bytes = sum(count for path, count in data_bytes.items() if path.endswith(tuple(sizes)))
    return {
        "publish": ours,
        "push_to_hub": theirs,
        "stream": {
            **stream,
            "k3 bytes": k3_bytes,
            "other bytes": sum(data_bytes.values()) - k3_bytes,
            "size": sum(sizes.values()),
        },
    }


def measure_llava(directory: Path, megabytes: float) -> dict[str, Any]:
    """Return the results of sampling and of annotating a large file in LLaVA's format."""
    path = write_llava_file(directory, megabytes)
    with GeminiProcess(latency_s=0.0) as service:
        result = {
            "bytes": path.stat().st_size,
            "sample": run("instruction", file=path),
            "annotate": run("annotate", file=path, run=directory / "run", url=service.url),
        }
    shutil.rmtree(directory)
    return result


class HubProcess:
    """The local test server for the Hub in another process, which is stopped at the end of the `with` block.

    Attributes:
        environment (`dict[str, str]`): environment variables with which clients use this server, without progress bars.
    """

    def __enter__(self) -> Self:
        self._pipe, child_pipe = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(child_pipe,), daemon=True)
        self._process.start()
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        self.environment: dict[str, str] = self._pipe.recv() | quiet
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def read_served(self) -> dict[str, int]:
        """Return path -> number of bytes sent so far."""
        self._pipe.send("served")
        served_bytes: dict[str, int] = self._pipe.recv()
        return served_bytes


def _serve(pipe: Connection) -> None:
    """Run the server, send its environment, and answer each message with the bytes sent so far."""
    with HubServer() as server:
        pipe.send(server.environment)
        while pipe.recv():
            pipe.send(dict(server.bytes_sent))


def format_table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    steps: list[tuple[str, int | str, dict[str, Any]]] = [
        (step, result["rows"], item) for step in ("write", "pyarrow") for item in result["written"][step]
    ]
    steps += [(f"{item['step']}, memory", item["rows"], item) for item in result["peaks"]]
    steps += [(step, result["rows"], result[step]) for step in ("publish", "push_to_hub")]
    steps += [("stream k3", result["stream"]["rows"], result["stream"])]
    steps += [("inspect, twice", result["looked"]["rows"], result["looked"])]
    steps += [(f"LLaVA file, {step}", "", result["llava"][step]) for step in ("sample", "annotate")]
    lines = ["| step | rows | seconds | CPU seconds | peak MB |", "|---|---|---|---|---|"]
    lines += [
        f"| {step} | {rows} | {item['seconds']:.2f} | {item['cpu_s']:.2f} | {item['peak_mb']} |"
        for step, rows, item in steps
    ]
    stream, inspection = result["stream"], result["looked"]
    lines += [
        "",
        f"write / plain pyarrow: {result['written']['ratio']:.2f} ("
        + ", ".join(f"{item:.2f}" for item in result["written"]["ratios"])
        + ")",
        f"checks within publish: {result['publish']['checks_s']:.2f} s",
        f"stream of k3: {stream['k3 bytes']:,} bytes read of {stream['size']:,}, {stream['other bytes']:,} other bytes",
        f"first inspection {inspection['first_s']:.2f} s, again {inspection['again_s']:.2f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
