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

from readme import format_training as table
from trainers import SHAPES, TrainingSetup

STEPS = 4
BATCHES = {"tiny": 4, "7b": 16}


def build_setups(base_setup: TrainingSetup) -> dict[str, TrainingSetup]:
    """Return what is measured, by what the table calls it."""
    plain = replace(base_setup, trainer="trl")
    quarter = replace(base_setup, batch=base_setup.batch // 4, accumulation=base_setup.accumulation * 4)
    quarters = f"compact tune, {quarter.accumulation} x {quarter.batch} rows"
    return {
        "trl, a row for each question": replace(plain, rows="questions"),
        "trl, our rows": plain,
        "compact tune": base_setup,
        "compact tune, eager attention": replace(base_setup, attention="eager"),
        quarters: quarter,
        # Of a quarter of the rows at a time, since what a whole batch of LLaVA-1.5-7B keeps does not fit into 80 GB.
        f"{quarters}, no recomputation": replace(quarter, recomputation=False),
        "compact tune, compiled": replace(base_setup, compiled=True),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SHAPES), help="default: what the machine can")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="to measure for each line; default: 4")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    machine = read_hardware()
    size = args.size or ("7b" if machine["gpu"] else "tiny")
    if size == "7b" and not machine["gpu"]:
        parser.error("--size 7b needs a GPU of 80 GB; leave it out")
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as directory:
        base_setup = TrainingSetup(build_release(Path(directory)), size, args.steps, batch=BATCHES[size])
        if machine["gpu"]:
            base_setup = replace(base_setup, workers=4)
        results = {}
        for name, setup in build_setups(base_setup).items():
            print(name, file=sys.stderr)
            results[name] = measure(setup)
            loads.append(os.getloadavg()[0])
    machine["load"] = [min(loads), max(loads)]
    result = {"machine": machine, "size": size, "steps": args.steps, "lines": results, "gains": compute_gains(results)}
    print(json.dumps(result, indent=2) if args.json else table(result))


def read_hardware() -> dict[str, Any]:
    """Return what this runs on; of torch, in a process that holds no GPU afterwards."""
    code = (
        "import torch; gpu = torch.cuda.is_available();"
        "print(torch.cuda.get_device_name() if gpu else '', torch.__version__, sep='\\n')"
    )
    gpu, torch = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[:2]
    info = Path("/proc/cpuinfo")
    model_names = [
        line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "gpu": gpu,
        "cpu": model_names[0] if model_names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": None if gpu else 1,
        "torch": torch,
    }


def build_release(directory: Path, *, image_count: int = 100) -> str:
    """Make a release of drawn scenes, two or three questions to each, and return its folder."""
    from compact_hf import assemble, generate

    generate(f"scenes:{image_count}", directory / "run")
    assemble([directory / "run"], directory / "release", version="1.0.0")
    return str(directory / "release")


def measure(setup: TrainingSetup) -> dict[str, Any]:
    """Return one line's figures, or what it ended with where a switch does not hold."""
    script = Path(__file__).with_name("trained.py")
    # Read by torch when it starts; a GPU's training hardly needs the processor's threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, script, json.dumps(asdict(setup))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        return {"failed": result.stderr.strip().splitlines()[-1][:200]}
    return dict(json.loads(result.stdout.splitlines()[-1]))


def compute_gains(results: dict[str, Any]) -> dict[str, float]:
    """Return how many times as many questions a second the format brings, and then the trainer."""
    per_question, plain, ours = (
        results[name].get("questions_per_second", 0.0)
        for name in ("trl, a row for each question", "trl, our rows", "compact tune")
    )
    return {"format": plain / per_question, "trainer": ours / plain} if per_question and plain else {}


if __name__ == "__main__":
    main()
