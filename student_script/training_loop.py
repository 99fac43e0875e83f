"""Runs the steps of a stage: batches from another process, optimizers, learning rate, checkpoints.

The weight matrices of transformer layers are trained by Muon, all other parameters by AdamW. With AdamW alone, the same
loss takes twice as many steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from compact_hf.errors import TuningError

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

# Steps; a killed run repeats fewer than this number of them.
_SAVE_EVERY: Final = 100
_WARMUP_STEPS: Final = 50
"""Number of steps in which the learning rate rises."""
_DECAY_SHARE: Final = 0.4
"""Share of the steps, at the end, in which the learning rate falls."""
_MAX_GRAD_NORM: Final = 1.0
_MIN_COMPILED_STEPS: Final = 500
"""Compiling a model takes a minute and saves a third of each step, so shorter runs are not compiled."""


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """Training settings.

    Attributes:
        steps (`int`): number of optimizer steps.
        batch (`int`): images per step.
        learning_rate (`float`): maximum learning rate.
        seed (`int`, *optional*, defaults to 0): random seed of everything but the scenes.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A finished training step.

    Attributes:
        number (`int`): number of the step, from 1.
        loss (`float`): loss of the step; in alignment, in nats per token of a description.
    """

    number: int
    loss: float


def compile_modules(schedule: TrainingSchedule, *modules: torch.nn.Module) -> None:
    """Compile modules in place, if the run is long enough."""
    if schedule.steps >= _MIN_COMPILED_STEPS:
        for module in modules:
            module.compile()


def train(
    module: torch.nn.Module,
    out: Path,
    schedule: TrainingSchedule,
    draw_batch: Callable[[int], Any],
    compute_loss: Callable[[Any], torch.Tensor],
    on_step: Callable[[Step], None],
) -> None:
    """Run the remaining steps; `draw_batch` returns the batch of a step by its number, in another process.

    A run that was killed repeats the steps since its last checkpoint, so `on_step` may get the same step twice.
    """
    import torch
    from torch.utils.data import DataLoader

    optimizers = _build_optimizers(module, schedule.learning_rate)
    # Steps are numbered from 1. Resumed: the first one is the step after the checkpoint.
    numbers = range(_resume(checkpoint_path(out), module, optimizers) + 1, schedule.steps + 1)
    # The dataset is the numbers: without a batch size, each is turned into a whole batch by itself.
    batches = DataLoader(cast("Dataset[int]", numbers), batch_size=None, num_workers=1, collate_fn=draw_batch)
    for number, batch in zip(numbers, batches, strict=True):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            # Computed from the step's number, so that no scheduler has to be saved in checkpoints.
            group["lr"] = schedule.learning_rate * _learning_rate_share(number, schedule.steps)
        loss: Any = compute_loss(batch)
        loss.backward()
        # The norm is NaN or infinite if the loss is.
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), _MAX_GRAD_NORM)
        if not norm.isfinite():
            raise TuningError(
                f"training of {out} diverged: the loss is {loss.item()} at step {number}, the norm of the gradient "
                f"{norm.item()}; lower the learning rate ({schedule.learning_rate:g})"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        # Before the checkpoint: a run that is killed between the two repeats the step, and no step goes unreported.
        on_step(Step(number, loss.item()))
        if number % _SAVE_EVERY == 0:
            _save_checkpoint(
                checkpoint_path(out),
                {
                    "number": number,
                    "model": module.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                },
            )


def _build_optimizers(module: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the weight matrices of transformer layers, and AdamW for all other parameters."""
    import torch

    parameters = dict(module.named_parameters())
    matrices = [name for name, parameter in parameters.items() if "layers." in name and parameter.ndim == 2]
    return [
        torch.optim.Muon(
            [parameters[name] for name in matrices], lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [parameter for name, parameter in parameters.items() if name not in matrices],
            lr=learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            fused=True,
        ),
    ]


def _learning_rate_share(number: int, steps: int) -> float:
    """Return a step's learning rate as a share of the maximum: it rises, stays constant, and falls to almost 0."""
    # Constant, warm-up and decay: the smallest of the three applies.
    return min(1.0, number / _WARMUP_STEPS, (steps - number + 1) / (_DECAY_SHARE * steps + 1))


def checkpoint_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, atomically."""
    import torch

    # Renamed only when it is complete, so that a killed process cannot leave a partial checkpoint.
    temp_file = path.with_suffix(".half")
    torch.save(state, temp_file)
    os.replace(temp_file, path)


def _resume(path: Path, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load the checkpoint into model and optimizers, and return its number of steps; 0 if there is no checkpoint."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path)
    module.load_state_dict(state["model"])
    for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    return int(state["number"])
