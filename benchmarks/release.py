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

from release_data import llava_file
from released import STEPS
from served import Service

from tests.doubles.hub.server import HubServer

OURS, THEIRS = "org/ours", "org/theirs"
FEW = 20  # one row in so many is enough where a small release is compared with a large one


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rows", type=int, default=20_000, help="of the releases that are timed (%(default)s)")
    parser.add_argument("--many", type=int, default=100_000, help="rows of the largest (%(default)s)")
    parser.add_argument("--llava-mb", type=float, default=1000, help="of the file in LLaVA's format (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="of what is timed in turns (%(default)s)")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "ASKED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step, asked = given.step
        print(json.dumps(STEPS[step](json.loads(asked))))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measured(Path(folder), given.rows, given.many, given.llava_mb, given.repetitions)
    print(json.dumps(result) if given.json else table(result))


def measured(folder: Path, rows: int, many: int, llava_mb: float, repetitions: int) -> dict[str, Any]:
    """Return every figure."""
    few = max(1, rows // FEW)
    return {
        "rows": rows,
        "written": written(folder, rows, repetitions),
        "peaks": peaks(folder, few, rows, many),
        "looked": run("look", rows=few, out=folder / "pictures", run=folder / "looked"),
        **hub(folder, rows),
        "llava": llava(folder / "llava", llava_mb),
    }


def run(step: str, *, environment: Mapping[str, str] = os.environ, **asked: Any) -> dict[str, Any]:
    """Carry out one step in a fresh process."""
    command = [sys.executable, __file__, "--step", step, json.dumps(asked, default=str)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return dict(json.loads(told))


def written(folder: Path, rows: int, repetitions: int) -> dict[str, Any]:
    """Return what ours and pyarrow alone take for the same rows, in turns, and the ratios of each turn."""
    turns: dict[str, list[dict[str, Any]]] = {"write": [], "pyarrow": []}
    for _ in range(repetitions):
        for step, of_step in turns.items():
            out = folder / step
            of_step.append(run(step, rows=rows, out=out))
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    ratios = [ours["seconds"] / alone["seconds"] for ours, alone in zip(*turns.values(), strict=True)]
    return {**turns, "ratio": statistics.median(ratios), "ratios": ratios}


def peaks(folder: Path, few: int, rows: int, many: int) -> list[dict[str, Any]]:
    """Return what memory steps take for releases of different sizes."""
    found = []
    for count in sorted({few, rows, many}):
        out = folder / f"{count} rows"
        found.append({"step": "write", "rows": count, **run("write", rows=count, out=out)})
        if count < many or many == few:
            found.append({"step": "validate", "rows": count, **run("validate", out=out)})
            found.append({"step": "choose", "rows": count, **run("choose", rows=count, run=folder / f"run of {count}")})
        shutil.rmtree(out)
    return found


def hub(folder: Path, rows: int) -> dict[str, Any]:
    """Return what publishing takes, ours and that of `datasets`, and what the Hub hands out for a stream of k3."""
    out = folder / "published"
    with Hub() as server:
        told = {**os.environ, **server.environment, "HF_HOME": str(folder / "home")}
        theirs = run("push_to_hub", environment=told, rows=rows, out=folder / "theirs", repository=THEIRS)
        shutil.rmtree(folder / "theirs")
        ours = run("publish", environment=told, rows=rows, out=out, repository=OURS)
        before = server.served()
        streamed = run("stream", environment=told, repository=OURS)
        after = server.served()
    sizes = {f"/data/k3/{path.name}": path.stat().st_size for path in (out / "data" / "k3").glob("train-*")}
    shutil.rmtree(out)
    got = {path.partition("@")[2] or path: count - before.get(path, 0) for path, count in after.items()}
    of_data = {path: count for path, count in got.items() if "/data/" in path and "/resolve/" in path and count}
    k3 = sum(count for path, count in of_data.items() if path.endswith(tuple(sizes)))
    return {
        "publish": ours,
        "push_to_hub": theirs,
        "stream": {**streamed, "k3 bytes": k3, "other bytes": sum(of_data.values()) - k3, "size": sum(sizes.values())},
    }


def llava(folder: Path, megabytes: float) -> dict[str, Any]:
    """Return what reading a large file in LLaVA's format takes, to draw a sample of it and to annotate it."""
    file = llava_file(folder, megabytes)
    with Service(latency_s=0.0) as service:
        found = {
            "bytes": file.stat().st_size,
            "sample": run("instruction", file=file),
            "annotate": run("annotate", file=file, run=folder / "run", url=service.url),
        }
    shutil.rmtree(folder)
    return found


class Hub:
    """The Hub's double in another process; leaving the block ends it.

    Attributes:
        environment (`dict[str, str]`): what a client needs to talk to it, without progress bars.
    """

    def __enter__(self) -> Self:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        self.environment: dict[str, str] = self._ours.recv() | quiet
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def served(self) -> dict[str, int]:
        """Return path -> bytes that were handed out so far."""
        self._ours.send("served")
        found: dict[str, int] = self._ours.recv()
        return found


def _serve(pipe: Connection) -> None:
    with HubServer() as server:
        pipe.send(server.environment)
        while pipe.recv():
            pipe.send(dict(server.served))


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    steps: list[tuple[str, int | str, dict[str, Any]]] = [
        (step, result["rows"], one) for step in ("write", "pyarrow") for one in result["written"][step]
    ]
    steps += [(f"{one['step']}, memory", one["rows"], one) for one in result["peaks"]]
    steps += [(step, result["rows"], result[step]) for step in ("publish", "push_to_hub")]
    steps += [("stream k3", result["stream"]["rows"], result["stream"])]
    steps += [("look, twice", result["looked"]["rows"], result["looked"])]
    steps += [(f"LLaVA file, {step}", "", result["llava"][step]) for step in ("sample", "annotate")]
    lines = ["| step | rows | seconds | CPU seconds | peak MB |", "|---|---|---|---|---|"]
    lines += [
        f"| {step} | {rows} | {one['seconds']:.2f} | {one['cpu_s']:.2f} | {one['peak_mb']} |"
        for step, rows, one in steps
    ]
    streamed, looked = result["stream"], result["looked"]
    lines += [
        "",
        f"write / pyarrow alone: {result['written']['ratio']:.2f} ("
        + ", ".join(f"{one:.2f}" for one in result["written"]["ratios"])
        + ")",
        f"of publish, checks: {result['publish']['checks_s']:.2f} s",
        f"stream of k3: {streamed['k3 bytes']:,} bytes of k3's {streamed['size']:,}, {streamed['other bytes']:,} other",
        f"first look {looked['first_s']:.2f} s, again {looked['again_s']:.2f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
