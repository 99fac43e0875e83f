"""How fast and in how much memory a LLaVA is tuned: `python benchmarks/training.py [--size tiny|7b] [--json]`.

One table, all in one run: LLaVA-1.5-7B with random weights where there is a GPU, a tiny LLaVA elsewhere; LoRA as in
the recipes. First plain TRL with a row for each question, then plain TRL on our rows, where a picture's questions are
turns, then `compact tune` on them: what the format gains and what the trainer gains. Then each switch alone, from
`compact tune` on. Each line is a process of its own, and its clock runs from the third step. `of peak` counts what has
to be computed, without recomputation and padding, against the rate of one large product of matrices in the same
process. A worker is a process that prepares rows: as many are needed as keep up with the training.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trained import Asked

HEAD = {
    "questions_per_second": "questions a second",
    "rows_per_second": "rows a second",
    "tokens_per_question": "tokens a question",
    "of_peak": "of peak",
    "peak_mb": "peak MB",
    "workers_needed": "workers needed",
}
STEPS = 6
BATCHES = {"tiny": 8, "7b": 16}


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
    parser.add_argument("--size", choices=("tiny", "7b"), help="default: what the machine can")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    machine = hardware()
    size = arguments.size or ("7b" if machine["gpu"] else "tiny")
    if size == "7b" and not machine["gpu"]:
        parser.error("--size 7b needs a GPU of 80 GB; leave it out")
    with tempfile.TemporaryDirectory() as folder:
        start = Asked(release(Path(folder)), size, STEPS, batch=BATCHES[size])
        found = {name: measured(asked) for name, asked in lines(start).items()}
    result = {"machine": machine, "size": size, "lines": found, "gains": gains(found)}
    print(json.dumps(result, indent=2) if arguments.json else table(result))


def hardware() -> dict[str, Any]:
    """Return the processor's and the GPU's names, which torch knows, in a process that holds no GPU afterwards."""
    gpu = "torch.cuda.get_device_name() if torch.cuda.is_available() else ''"
    code = f"import torch; print({gpu}, torch.get_num_threads(), sep='\\n')"
    gpu, threads = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {"gpu": gpu, "cpu": platform.machine(), "threads": int(threads)}


def release(folder: Path, *, pictures: int = 200) -> str:
    """Make a release of drawn scenes, two or three questions to each, and return its folder."""
    from compact_hf import assemble, generate

    generate(f"scenes:{pictures}", folder / "run")
    assemble([folder / "run"], folder / "release", version="1.0.0")
    return str(folder / "release")


def measured(asked: Asked) -> dict[str, Any]:
    """Return one line's figures, or what it ended with where a switch does not hold."""
    program = Path(__file__).with_name("trained.py")
    done = subprocess.run(
        [sys.executable, program, json.dumps(asdict(asked))], capture_output=True, text=True, check=False
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


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    machine = result["machine"]
    rows = [f"| {result['size']} | {' | '.join(HEAD.values())} |", "|---" * (len(HEAD) + 1) + "|"]
    for name, figures in result["lines"].items():
        cells = [f"{figures[key]:.3g}" if "failed" not in figures else "" for key in HEAD]
        rows.append(f"| {name} | {' | '.join(cells)} |" + (f" {figures['failed']}" if "failed" in figures else ""))
    rows.append("\n" + ", ".join(f"the {name} gains {times:.2f} times" for name, times in result["gains"].items()))
    rows.append(f"on {machine['gpu'] or machine['cpu']}, {machine['threads']} threads")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
