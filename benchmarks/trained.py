"""What one process of benchmarks/training.py does: some steps of training under given switches, measured by itself.

In: what is asked (`Asked`), as JSON on the command line. Out: one object of figures. On a GPU the clock on the wall
counts; on a CPU one thread trains and its own time counts, so that other work on the machine does not.
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

from trainers import WARM_UP, Asked, trainer_of


def clock() -> Callable[[], float]:
    """Return what tells the time: on the wall where a GPU works, this process's own elsewhere."""
    import torch

    return time.monotonic if torch.cuda.is_available() else time.process_time


def measure(asked: Asked) -> dict[str, Any]:
    """Train and return rates, the share of the hardware's peak, of waiting for rows, and peak memory."""
    import psutil
    import torch

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(asked, Path(folder))
        prepared = preparing(trainer)
        ends, waits, told = watched(trainer)
        before = psutil.Process().memory_info().rss
        trainer.train()
        questions = sum(len(messages) // 2 for messages in trainer.train_dataset["messages"])
        per_row = questions / len(trainer.train_dataset)
        work = operations(trainer.model)
    seconds = [end - begin for begin, end in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    counts = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    tokens = [after - earlier for earlier, after in zip(counts[WARM_UP - 1 :], counts[WARM_UP:], strict=False)]
    rows = asked.batch * asked.accumulation
    usual = statistics.median(seconds)
    peak_mb = (
        torch.cuda.max_memory_allocated() / 1e6
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - before / 1e6
    )
    return {
        "questions_per_second": rows * per_row / usual,
        "least_and_most": [rows * per_row / max(seconds), rows * per_row / min(seconds)],
        "rows_per_second": rows / usual,
        "tokens_per_question": sum(tokens) / (asked.steps * rows * per_row),
        "of_peak": statistics.median(map(work.of_rows, [rows] * asked.steps, tokens)) / usual / peak_rate(),
        "peak_mb": round(peak_mb),
        "waiting_for_rows": sum(waits[WARM_UP:]) / (told[-1] - told[WARM_UP - 1]),
        "rows_prepared_per_second_and_worker": prepared,
        "workers_needed": math.ceil(rows / usual / prepared),
    }


def watched(trainer: Any) -> tuple[list[float], list[float], list[float]]:
    """Return lists that training fills for each step: its end, what it waited for rows, and its end on the wall."""
    import torch
    from transformers import TrainerCallback

    now = clock()
    ends: list[float] = []
    waits: list[float] = []
    on_the_wall: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers' has no type hints here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(now())
            on_the_wall.append(time.monotonic())

    def fetched(*arguments: Any) -> Any:
        began = time.monotonic()
        batches = fetch(*arguments)
        waits.append(time.monotonic() - began)
        return batches

    fetch, trainer.get_batch_samples = trainer.get_batch_samples, fetched
    trainer.add_callback(Watch())
    return ends, waits, on_the_wall


@dataclass(frozen=True)
class Work:
    """What training has to compute, in operations, without recomputation and padding.

    Attributes:
        per_token (`float`): of the language model's weights.
        per_pair (`float`): of its attention, for each pair of tokens of a row.
        per_picture (`float`): of the tower and the projector.
    """

    per_token: float
    per_pair: float
    per_picture: float

    def of_rows(self, rows: int, tokens: float) -> float:
        """Return the operations of rows with a picture each and so many tokens together."""
        return tokens * self.per_token + tokens**2 / rows * self.per_pair + rows * self.per_picture


def operations(model: Any) -> Work:
    """Return what a LLaVA under LoRA costs.

    Two operations for each weight forward, two for the gradient of its input, two more where the weight itself is
    trained. The tower, over its patches and the class token, runs forward only and without its last layer; nobody asks
    for the gradient of the projector's input. Of attention's products half count, as each token looks back only.
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
    seeing = 4 * (patches + 1) ** 2 * vision.hidden_size * (vision.num_hidden_layers - 1)
    return Work(
        per_token=per_token,
        per_pair=3 * 4 * text.hidden_size * text.num_hidden_layers / 2,
        per_picture=tower * (patches + 1) + projector * patches + seeing,
    )


def peak_rate() -> float:
    """Return the operations a second of one large product of matrices here: the best of five."""
    import torch

    on_gpu, now = torch.cuda.is_available(), clock()
    edge, device = (8192, "cuda") if on_gpu else (2048, "cpu")
    one = torch.randn(edge, edge, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    best = math.inf
    for _ in range(6):
        began = now()
        one @ one
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, now() - began)
    return 2 * edge**3 / best


def preparing(trainer: Any) -> float:
    """Return the rows a second that one worker decodes, scales and tokenizes: one thread, its own time."""
    import torch

    rows, threads = trainer.train_dataset, torch.get_num_threads()
    torch.set_num_threads(1)
    began, done = time.process_time(), 0
    while time.process_time() - began < 1.0:
        trainer.data_collator([rows[number % len(rows)] for number in range(done, done + 16)])
        done += 16
    took = time.process_time() - began
    torch.set_num_threads(threads)
    return done / took


if __name__ == "__main__":
    print(json.dumps(measure(Asked(**json.loads(sys.argv[1])))))
