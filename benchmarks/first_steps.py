"""What a newcomer waits for: the help text, the Space after a sleep, and README's two commands on a bare machine.

    python benchmarks/first_steps.py [--json] [--from-nothing] [--repetitions R]

Prints the seconds of `compact --help` and of the Space, from its start to its page and to its first answer (medians of
the repetitions, with their range). With --from-nothing it also clones this checkout into a temporary folder and times
`make demo` and `make test` there, downloads and set-up included, each in a clone of its own.
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

from compact_hf.scenes.source import reserved

ROOT = Path(__file__).parents[1]
HELP = (sys.executable, "-c", "from compact_hf.cli.main import main; main(['--help'])")

TARGETS = {"demo": 12 * 60.0, "test": 10 * 60.0}
"""Make target -> the seconds that it may take on two cores."""


def seconds(*command: str | Path, cwd: Path) -> float:
    """Run a command to its end and return its wall time; it must not fail."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-5000:]}")
    return time.perf_counter() - start


def from_nothing(target: str) -> float:
    """Return the seconds of `make TARGET` in a fresh clone."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        return seconds("make", target, cwd=clone)


def cold_start() -> tuple[float, float]:
    """Start the Space as it stands, and return the seconds to its page and to its first answer."""
    source = reserved(1)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scene.png"
        picture.write_bytes(source.read(next(iter(source.refs()))))
        start = time.perf_counter()
        command = [sys.executable, "-u", "app.py"]
        with subprocess.Popen(command, cwd=ROOT / "spaces_demo", stdout=subprocess.PIPE, text=True) as space:
            assert space.stdout is not None
            url = next(found[0] for line in space.stdout if (found := re.search(r"http://[\w.]+:\d+", line)))
            page = time.perf_counter() - start
            Client(url, verbose=False).predict(handle_file(picture), "How many animals are there?", api_name="/ask")
            answer = time.perf_counter() - start
            space.terminate()
    return page, answer


def row(name: str, runs: Sequence[float], at_most: float) -> tuple[str, float, str, float]:
    """Return a row of the table: what, its median, the range, the seconds that it may take."""
    return name, statistics.median(runs), f"{min(runs):.2f} to {max(runs):.2f}", at_most


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--from-nothing", action="store_true", help="time make demo and make test in fresh clones too")
    parser.add_argument("--repetitions", type=int, default=5, help="of what takes seconds (5)")
    given = parser.parse_args()
    pages, answers = zip(*(cold_start() for _ in range(given.repetitions)), strict=True)
    rows = [
        row("compact --help", [seconds(*HELP, cwd=ROOT) for _ in range(given.repetitions)], 0.5),
        row("the Space: page", pages, 20),
        row("the Space: answer", answers, 20),
    ]
    if given.from_nothing:
        rows += [(f"make {target}", from_nothing(target), "one run", at_most) for target, at_most in TARGETS.items()]
    if given.json:
        print(
            json.dumps({name: {"seconds": took, "range": spread, "at_most": most} for name, took, spread, most in rows})
        )
        return
    print("| command | seconds | range | at most |\n|---|---|---|---|")
    for name, took, spread, at_most in rows:
        print(f"| {name} | {took:.2f} | {spread} | {at_most:g} |")


if __name__ == "__main__":
    main()
