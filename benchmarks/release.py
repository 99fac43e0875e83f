"""How fast and how large in memory a release is written, published and read: `python benchmarks/release.py [--json]`.

One table, all in one run, about ten minutes on two quiet cores with 15 GB of disk and 16 GB of memory. Each step runs
in a fresh process, because a peak of memory never goes down (released.py has the steps). Writing is timed in turns with
pyarrow alone, which writes the same records with the same settings; publishing is compared with
`Dataset.from_generator(...).push_to_hub(...)` of the same rows. Both go to the Hub's double, in a process of its own,
which counts the bytes that it hands out.
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
SMALL_RELEASE_DIVISOR = 20  # one row in so many is enough where a small release is compared with a large one


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rows", type=int, default=20_000, help="of the releases that are timed (%(default)s)")
    parser.add_argument("--many", type=int, default=100_000, help="rows of the largest (%(default)s)")
    parser.add_argument("--llava-mb", type=float, default=1000, help="of the file in LLaVA's format (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="of what is timed in turns (%(default)s)")
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
    """Return every figure."""
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
    """Carry out one step in a fresh process."""
    command = [sys.executable, __file__, "--step", step, json.dumps(step_args, default=str)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return dict(json.loads(output))


def measure_writing(directory: Path, rows: int, repetitions: int) -> dict[str, Any]:
    """Return what ours and pyarrow alone take for the same rows, in turns, and the ratios of each turn."""
    step_runs: dict[str, list[dict[str, Any]]] = {"write": [], "pyarrow": []}
    for _ in range(repetitions):
        for step, runs in step_runs.items():
            out = directory / step
            runs.append(run(step, rows=rows, out=out))
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    ratios = [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(*step_runs.values(), strict=True)]
    return {**step_runs, "ratio": statistics.median(ratios), "ratios": ratios}


def measure_peaks(directory: Path, min_rows: int, rows: int, max_rows: int) -> list[dict[str, Any]]:
    """Return what memory steps take for releases of different sizes."""
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
    """Return what publishing takes, ours and that of `datasets`, and what the Hub hands out for a stream of k3."""
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
    """Return what reading a large file in LLaVA's format takes, to draw a sample of it and to annotate it."""
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
    """The Hub's double in another process; leaving the block ends it.

    Attributes:
        environment (`dict[str, str]`): what a client needs to talk to it, without progress bars.
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
        """Return path -> bytes that were handed out so far."""
        self._pipe.send("served")
        served_bytes: dict[str, int] = self._pipe.recv()
        return served_bytes


def _serve(pipe: Connection) -> None:
    with HubServer() as server:
        pipe.send(server.environment)
        while pipe.recv():
            pipe.send(dict(server.bytes_sent))


def format_table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    steps: list[tuple[str, int | str, dict[str, Any]]] = [
        (step, result["rows"], item) for step in ("write", "pyarrow") for item in result["written"][step]
    ]
    steps += [(f"{item['step']}, memory", item["rows"], item) for item in result["peaks"]]
    steps += [(step, result["rows"], result[step]) for step in ("publish", "push_to_hub")]
    steps += [("stream k3", result["stream"]["rows"], result["stream"])]
    steps += [("look, twice", result["looked"]["rows"], result["looked"])]
    steps += [(f"LLaVA file, {step}", "", result["llava"][step]) for step in ("sample", "annotate")]
    lines = ["| step | rows | seconds | CPU seconds | peak MB |", "|---|---|---|---|---|"]
    lines += [
        f"| {step} | {rows} | {item['seconds']:.2f} | {item['cpu_s']:.2f} | {item['peak_mb']} |"
        for step, rows, item in steps
    ]
    stream, inspection = result["stream"], result["looked"]
    lines += [
        "",
        f"write / pyarrow alone: {result['written']['ratio']:.2f} ("
        + ", ".join(f"{item:.2f}" for item in result["written"]["ratios"])
        + ")",
        f"of publish, checks: {result['publish']['checks_s']:.2f} s",
        f"stream of k3: {stream['k3 bytes']:,} bytes of k3's {stream['size']:,}, {stream['other bytes']:,} other",
        f"first look {inspection['first_s']:.2f} s, again {inspection['again_s']:.2f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
