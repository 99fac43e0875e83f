"""What a newcomer waits for: the help text, and README's two commands on a bare machine.

    python benchmarks/first_steps.py [--json] [--from-nothing] [--repetitions R]

Prints the seconds of `compact --help` (median of the repetitions, with their range). With --from-nothing it also
clones this checkout into a temporary folder and times `make demo` and `make test` there, downloads and set-up included,
each in a clone of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELP = (sys.executable, "-c", "from compact_hf.cli import main; main(['--help'])")

TARGETS = {"demo": 12 * 60.0, "test": 15 * 60.0}
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--from-nothing", action="store_true", help="time make demo and make test in fresh clones too")
    parser.add_argument("--repetitions", type=int, default=9, help="of the help text (9)")
    given = parser.parse_args()
    runs = sorted(seconds(*HELP, cwd=ROOT) for _ in range(given.repetitions))
    rows = [("compact --help", statistics.median(runs), f"{runs[0]:.2f} to {runs[-1]:.2f}", 0.5)]
    if given.from_nothing:
        rows += [(f"make {target}", from_nothing(target), "one run", at_most) for target, at_most in TARGETS.items()]
    if given.json:
        print(
            json.dumps({name: {"seconds": took, "range": spread, "at_most": most} for name, took, spread, most in rows})
        )
        return
    print("| command | seconds | range | at most |\n|---|---|---|---|")
    for name, took, spread, at_most in rows:
        print(f"| `{name}` | {took:.2f} | {spread} | {at_most:g} |")


if __name__ == "__main__":
    main()
