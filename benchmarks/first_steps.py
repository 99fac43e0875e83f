"""Measures how long first steps take: the help text, the start of the Space, and `make` in a fresh clone.

    python benchmarks/first_steps.py [--json] [--from-nothing] [--repetitions R]

Prints the seconds of `compact --help`, and of the Space from its start to its page and to its first answer (median and
range of the repetitions). With --from-nothing it also times `make demo` and `make test`, each in a new clone of this
checkout in a temporary directory, including downloads and set-up.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gradio_client import Client, handle_file

from compact_hf.scenes.source import reserved_scenes

ROOT = Path(__file__).parents[1]
HELP_COMMAND = (sys.executable, "-c", "from compact_hf.cli.main import main; main(['--help'])")

TARGETS = {"demo": 12 * 60.0, "test": 12 * 60.0}
"""Make target -> maximum number of seconds on two cores."""


def time_command(*command: str | Path, cwd: Path) -> float:
    """Run a command and return its wall time in seconds; exit if the command fails."""
    start = time.perf_counter()
    result = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} exited with status {result.returncode}:\n{result.stdout[-5000:]}")
    return time.perf_counter() - start


def time_fresh_clone(target: str) -> float:
    """Return the seconds of `make TARGET` in a fresh clone."""
    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        return time_command("make", target, cwd=clone)


def time_space() -> tuple[float, float]:
    """Start the Space of this checkout, and return the seconds to its page and to its first answer."""
    source = reserved_scenes(1)
    with tempfile.TemporaryDirectory() as directory:
        image_path = Path(directory) / "scene.png"
        image_path.write_bytes(source.read(next(iter(source.refs()))))
        start = time.perf_counter()
        command = [sys.executable, "-u", "app.py"]
        with subprocess.Popen(command, cwd=ROOT / "spaces_demo", stdout=subprocess.PIPE, text=True) as space:
            assert space.stdout is not None
            url = next(match[0] for line in space.stdout if (match := re.search(r"http://[\w.]+:\d+", line)))
            page_seconds = time.perf_counter() - start
            Client(url, verbose=False).predict(handle_file(image_path), "How many animals are there?", api_name="/ask")
            answer_seconds = time.perf_counter() - start
            space.terminate()
    return page_seconds, answer_seconds


def build_row(name: str, runs: Sequence[float], limit: float) -> tuple[str, float, str, float]:
    """Return a row of the table: name, median, range and maximum, in seconds."""
    return name, statistics.median(runs), f"{min(runs):.2f} to {max(runs):.2f}", limit


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--from-nothing", action="store_true", help="also time make demo and make test in fresh clones")
    parser.add_argument(
        "--repetitions", type=int, default=5, help="number of runs of the help text and the Space (default: 5)"
    )
    args = parser.parse_args()
    page_times, answer_times = zip(*(time_space() for _ in range(args.repetitions)), strict=True)
    rows = [
        build_row("compact --help", [time_command(*HELP_COMMAND, cwd=ROOT) for _ in range(args.repetitions)], 0.5),
        build_row("the Space: page", page_times, 20),
        build_row("the Space: answer", answer_times, 20),
    ]
    if args.from_nothing:
        rows += [(f"make {target}", time_fresh_clone(target), "one run", limit) for target, limit in TARGETS.items()]
    if args.json:
        print(
            json.dumps(
                {
                    name: {"seconds": duration, "range": spread, "at_most": max_seconds}
                    for name, duration, spread, max_seconds in rows
                }
            )
        )
        return
    print("| command | seconds | range | at most |\n|---|---|---|---|")
    for name, duration, spread, limit in rows:
        print(f"| {name} | {duration:.2f} | {spread} | {limit:g} |")


if __name__ == "__main__":
    main()
