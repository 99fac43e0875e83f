"""How fast and in how much memory a LLaVA is tuned: `python benchmarks/training.py [--size tiny|7b] [--json]`.

One table, all in one run: LLaVA-1.5-7B with random weights where there is a GPU, elsewhere a LLaVA a sixteenth as wide
and an eighth as deep whose pictures have 576 tokens too; LoRA as in the recipes. First plain TRL with a row for each
question, then plain TRL on our rows, where a picture's questions are turns, then `compact tune` on them: what the
format gains and what the trainer gains. Then each switch alone, from `compact tune` on.

Each line is a process of its own, and its clock runs from the third step: the usual step counts, with the fastest and
the slowest beside it. On a CPU one thread trains, one worker prepares rows, and the time is the training process's own.
`of peak` counts what has to be computed, without recomputation and padding, against the rate of one large product of
matrices in the same process. `waiting` is the share of the time on the wall in which training had no rows; `workers`
how many processes keep up with it. `peak MB` is all of a GPU's, of a CPU what steps take beyond model and libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from readme import training as table
from trainers import SHAPES, Asked

STEPS = 4
BATCHES = {"tiny": 4, "7b": 16}


def lines(start: Asked) -> dict[str, Asked]:
    """Return what is measured, by what the table calls it."""
    plain = replace(start, trainer="trl")
    quarter = replace(start, batch=start.batch // 4, accumulation=start.accumulation * 4)
    quarters = f"compact tune, {quarter.accumulation} x {quarter.batch} rows"
    return {
        "trl, a row for each question": replace(plain, rows="questions"),
        "trl, our rows": plain,
        "compact tune": start,
        "compact tune, eager attention": replace(start, attention="eager"),
        quarters: quarter,
        # Of a quarter of the rows at a time, since what a whole batch of LLaVA-1.5-7B keeps does not fit into 80 GB.
        f"{quarters}, no recomputation": replace(quarter, recomputation=False),
        "compact tune, compiled": replace(start, compiled=True),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SHAPES), help="default: what the machine can")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="to measure for each line; default: 4")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    machine = hardware()
    size = arguments.size or ("7b" if machine["gpu"] else "tiny")
    if size == "7b" and not machine["gpu"]:
        parser.error("--size 7b needs a GPU of 80 GB; leave it out")
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        start = Asked(release(Path(folder)), size, arguments.steps, batch=BATCHES[size])
        if machine["gpu"]:
            start = replace(start, workers=4)
        found = {}
        for name, asked in lines(start).items():
            print(name, file=sys.stderr)
            found[name] = measured(asked)
            load.append(os.getloadavg()[0])
    machine["load"] = [min(load), max(load)]
    result = {"machine": machine, "size": size, "steps": arguments.steps, "lines": found, "gains": gains(found)}
    print(json.dumps(result, indent=2) if arguments.json else table(result))


def hardware() -> dict[str, Any]:
    """Return what this runs on; of torch, in a process that holds no GPU afterwards."""
    code = (
        "import torch; gpu = torch.cuda.is_available();"
        "print(torch.cuda.get_device_name() if gpu else '', torch.__version__, sep='\\n')"
    )
    gpu, torch = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[:2]
    info = Path("/proc/cpuinfo")
    named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "gpu": gpu,
        "cpu": named[0] if named else platform.machine(),
        "cores": os.cpu_count(),
        "threads": None if gpu else 1,
        "torch": torch,
    }


def release(folder: Path, *, pictures: int = 100) -> str:
    """Make a release of drawn scenes, two or three questions to each, and return its folder."""
    from compact_hf import assemble, generate

    generate(f"scenes:{pictures}", folder / "run")
    assemble([folder / "run"], folder / "release", version="1.0.0")
    return str(folder / "release")


def measured(asked: Asked) -> dict[str, Any]:
    """Return one line's figures, or what it ended with where a switch does not hold."""
    program = Path(__file__).with_name("trained.py")
    # Read by torch when it starts; a GPU's training hardly needs the processor's threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, program, json.dumps(asdict(asked))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def gains(found: dict[str, Any]) -> dict[str, float]:
    """Return how many times as many questions a second the format brings, and then the trainer."""
    apart, plain, ours = (
        found[name].get("questions_per_second", 0.0)
        for name in ("trl, a row for each question", "trl, our rows", "compact tune")
    )
    return {"format": plain / apart, "trainer": ours / plain} if apart and plain else {}


if __name__ == "__main__":
    main()
