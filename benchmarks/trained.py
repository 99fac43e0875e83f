"""Runs and measures some training steps with given settings; each process of benchmarks/training.py runs this script.

It takes a `TrainingSetup` as JSON on the command line and prints one JSON object with the results. On a GPU it measures
wall time. On a CPU it trains with one thread and measures CPU time, so that other work on the machine does not count.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers import WARM_UP, TrainingSetup, build_trainer


def get_clock() -> Callable[[], float]:
    """Return the clock to use: wall time on a GPU, CPU time of this process on a CPU."""
    import torch

    return time.monotonic if torch.cuda.is_available() else time.process_time


def measure(setup: TrainingSetup) -> dict[str, Any]:
    """Train, and return rates, the share of the peak rate, the share of time waiting for rows, and peak memory."""
    import psutil
    import torch

    with tempfile.TemporaryDirectory() as directory:
        trainer = build_trainer(setup, Path(directory))
        prepare_rate = measure_prepare_rate(trainer)
        step_ends, waits, wall_ends = watch_steps(trainer)
        memory_before = psutil.Process().memory_info().rss
        trainer.train()
        questions = sum(len(messages) // 2 for messages in trainer.train_dataset["messages"])
        questions_per_row = questions / len(trainer.train_dataset)
        cost = estimate_cost(trainer.model)
    seconds = [end - begin for begin, end in zip(step_ends[WARM_UP - 1 :], step_ends[WARM_UP:], strict=False)]
    counts = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    tokens = [current - previous for previous, current in zip(counts[WARM_UP - 1 :], counts[WARM_UP:], strict=False)]
    rows = setup.batch * setup.accumulation
    median_seconds = statistics.median(seconds)
    peak_mb = (
        torch.cuda.max_memory_allocated() / 1e6
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - memory_before / 1e6
    )
    return {
        "questions_per_second": rows * questions_per_row / median_seconds,
        "least_and_most": [rows * questions_per_row / max(seconds), rows * questions_per_row / min(seconds)],
        "rows_per_second": rows / median_seconds,
        "tokens_per_question": sum(tokens) / (setup.steps * rows * questions_per_row),
        "of_peak": statistics.median(map(cost.count_operations, [rows] * setup.steps, tokens))
        / median_seconds
        / measure_peak_rate(),
        "peak_mb": round(peak_mb),
        "waiting_for_rows": sum(waits[WARM_UP:]) / (wall_ends[-1] - wall_ends[WARM_UP - 1]),
        "rows_prepared_per_second_and_worker": prepare_rate,
        "workers_needed": math.ceil(rows / median_seconds / prepare_rate),
    }


def watch_steps(trainer: Any) -> tuple[list[float], list[float], list[float]]:
    """Return three lists to which training appends at each step: its end, its wait for rows, its end by wall time."""
    import torch
    from transformers import TrainerCallback

    now = get_clock()
    step_ends: list[float] = []
    waits: list[float] = []
    wall_ends: list[float] = []

    class StepCallback(TrainerCallback):  # type: ignore[misc]  # transformers' has no type hints here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            step_ends.append(now())
            wall_ends.append(time.monotonic())

    def timed_fetch(*arguments: Any) -> Any:
        start = time.monotonic()
        batches = fetch(*arguments)
        waits.append(time.monotonic() - start)
        return batches

    fetch, trainer.get_batch_samples = trainer.get_batch_samples, timed_fetch
    trainer.add_callback(StepCallback())
    return step_ends, waits, wall_ends


@dataclass(frozen=True)
class ComputeCost:
    """The operations that training needs, without recomputation and padding.

    Attributes:
        per_token (`float`): operations with the weights of the language model, per token.
        per_pair (`float`): operations of its attention, per pair of tokens in the same row.
        per_image (`float`): operations of the vision tower and the projector, per image.
    """

    per_token: float
    per_pair: float
    per_image: float

    def count_operations(self, rows: int, tokens: float) -> float:
        """Return the operations for rows with one image each.

        Args:
            rows (`int`): number of rows.
            tokens (`float`): number of tokens of all rows together; rows are assumed to be of equal length.
        """
        return tokens * self.per_token + tokens**2 / rows * self.per_pair + rows * self.per_image


def estimate_cost(model: Any) -> ComputeCost:
    """Return the cost of training a LLaVA with LoRA.

    Each weight takes two operations per token for the forward pass, two for the gradient of its input, and two more if
    the weight itself is trained. The vision tower processes the patches and the class token; it only runs forward, and
    without its last layer. The gradient of the projector's input is not needed. Of the products of attention only half
    count, because attention is causal.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    per_token = tower = projector = 0.0
    for name, weight in model.named_parameters():
        if "vision_tower" in name:
            tower += 2 * weight.numel() if f"layers.{vision.num_hidden_layers - 1}." not in name else 0
        elif "projector" in name:
            projector += 4 * weight.numel() if weight.requires_grad else 0
        elif "embed_tokens" not in name:
            per_token += (6 if weight.requires_grad else 4) * weight.numel()
    tower_attention = 4 * (patches + 1) ** 2 * vision.hidden_size * (vision.num_hidden_layers - 1)
    return ComputeCost(
        per_token=per_token,
        per_pair=3 * 4 * text.hidden_size * text.num_hidden_layers / 2,
        per_image=tower * (patches + 1) + projector * patches + tower_attention,
    )


def measure_peak_rate() -> float:
    """Return the operations per second of a large matrix product on this hardware, the best of six runs."""
    import torch

    on_gpu, now = torch.cuda.is_available(), get_clock()
    edge, device = (8192, "cuda") if on_gpu else (2048, "cpu")
    matrix = torch.randn(edge, edge, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    best = math.inf
    for _ in range(6):
        start = now()
        matrix @ matrix
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, now() - start)
    return 2 * edge**3 / best


def measure_prepare_rate(trainer: Any) -> float:
    """Return the rows per second that one worker decodes, scales and tokenizes, by CPU time of one thread."""
    import torch

    rows, threads = trainer.train_dataset, torch.get_num_threads()
    torch.set_num_threads(1)
    start, done = time.process_time(), 0
    while time.process_time() - start < 1.0:
        trainer.data_collator([rows[number % len(rows)] for number in range(done, done + 16)])
        done += 16
    elapsed = time.process_time() - start
    torch.set_num_threads(threads)
    return done / elapsed


if __name__ == "__main__":
    print(json.dumps(measure(TrainingSetup(**json.loads(sys.argv[1])))))
