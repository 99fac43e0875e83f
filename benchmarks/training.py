"""Measures the speed and memory of tuning a LLaVA: `python benchmarks/training.py [--size tiny|7b] [--json]`.

With a GPU the model is LLaVA-1.5-7B with random weights. Without one it is a LLaVA with 1/16 of the width and 1/8 of
the layers, whose images have 576 tokens too. LoRA is set up as in the recipes. The first three rows of the table are
plain TRL with a separate row per question, plain TRL with our rows, in which the questions about an image are turns,
and `compact tune` with our rows. They show the gains of the format and of the trainer. The other rows each change one
setting of `compact tune`.

Each row of the table is measured in its own process from the third step on; it has the median step, with the slowest
and the fastest. On a CPU, one thread trains, one worker prepares rows, and time is the CPU time of the training
process.

    share of peak     operations that training needs, without recomputation and padding, relative to the rate of a large
                      matrix product in the same process
    waiting for rows  share of the wall time in which training waited for rows
    workers needed    number of worker processes that prepare rows as fast as training uses them
    peak memory       on a GPU all of its memory; on a CPU what steps need in addition to the model and libraries
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

from tables import format_training as table
from trainers import SHAPES, TrainingSetup

STEPS = 4
BATCHES = {"tiny": 4, "7b": 16}


def build_setups(base_setup: TrainingSetup) -> dict[str, TrainingSetup]:
    """Return the name of each row of the table -> its settings."""
    plain = replace(base_setup, trainer="trl")
    quarter = replace(base_setup, batch=base_setup.batch // 4, accumulation=base_setup.accumulation * 4)
    quarters = f"compact tune, {quarter.accumulation} x {quarter.batch} rows"
    return {
        "trl, a row for each question": replace(plain, rows="questions"),
        "trl, our rows": plain,
        "compact tune": base_setup,
        "compact tune, eager attention": replace(base_setup, attention="eager"),
        quarters: quarter,
        # With a quarter of the rows per pass, because the activations of a whole batch of LLaVA-1.5-7B exceed 80 GB.
        f"{quarters}, no recomputation": replace(quarter, recomputation=False),
        "compact tune, compiled": replace(base_setup, compiled=True),
    }


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SHAPES), help="model size (default: 7b with a GPU, else tiny)")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="number of steps to measure (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    machine = read_hardware()
    size = args.size or ("7b" if machine["gpu"] else "tiny")
    if size == "7b" and not machine["gpu"]:
        parser.error("--size 7b needs a GPU with 80 GB: use --size tiny")
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
    """Return a description of the hardware; torch runs in another process, so that this one uses no GPU memory."""
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
    """Make a dataset of drawn scenes with two or three questions each, and return its directory."""
    from compact_hf import assemble, generate

    generate(f"scenes:{image_count}", directory / "run")
    assemble([directory / "run"], directory / "release", version="1.0.0")
    return str(directory / "release")


def measure(setup: TrainingSetup) -> dict[str, Any]:
    """Return the results for some settings, or the error message if training fails with them."""
    script = Path(__file__).with_name("trained.py")
    # torch reads the variable at its start. Training on a GPU hardly uses the threads of the CPU.
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
    """Return by which factor the format, and then the trainer, increases questions per second."""
    per_question, plain, ours = (
        results[name].get("questions_per_second", 0.0)
        for name in ("trl, a row for each question", "trl, our rows", "compact tune")
    )
    return {"format": plain / per_question, "trainer": ours / plain} if per_question and plain else {}


if __name__ == "__main__":
    main()
