"""Estimates the disk space that training takes, and reports a full disk in one line.

    checkpoint    the weights that are saved (an adapter's, or all) and the optimizer's states
    model         the same weights, at the end

At most one checkpoint more than `save_total_limit` exists at the same time, because an old one is removed only when the
new one is complete. Not included: tokenizer, scheduler and random states, a few megabytes for each checkpoint. On a
CPU, the weights of the checkpoint that a run resumes from keep their space until the process ends, because they are
mapped.

Training is refused if the disk certainly has too little space. If the disk is full nevertheless, the checkpoint that
could not be written is removed, and the same command resumes from the one before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_hf.errors import TuningError
from compact_hf.models.saving import translate_save_errors
from compact_hf.storage import check_free_space, get_free_space
from compact_hf.training.checkpoints import find_last_checkpoint
from compact_hf.training.model_size import Quantization, build_model, count_optimizer_bytes
from compact_hf.wording import format_count, format_gigabytes


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """An estimate of the size of an output directory, in bytes.

    Attributes:
        checkpoint (`int`): bytes of a checkpoint.
        checkpoints (`int`): largest number of checkpoints at the same time.
        model (`int`): bytes of the model, or of the adapter, at the end.
        total (`int`): largest size of the directory.
    """

    checkpoint: int
    checkpoints: int
    model: int
    total: int


def estimate_disk_space(config: Any, args: Any, *, steps: int, steps_per_epoch: int) -> DiskEstimate:
    """Estimate the size of the output directory of a training run.

    Args:
        config (`PreTrainedConfig`): configuration of the base.
        args (`Arguments`): arguments of the training script.
        steps (`int`): optimizer steps of the whole run.
        steps_per_epoch (`int`): optimizer steps per epoch.
    """
    import torch

    with torch.device("meta"):
        model = build_model(config, args)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Of a model with an adapter, only the adapter and the trained copies of modules are saved.
    saved = trained if hasattr(model, "peft_config") else model.parameters()
    quantization = Quantization.from_args(args)
    model_bytes = int(sum(quantization.count_bytes("", parameter) for parameter in saved))
    optimizer_bytes = 0 if args.training.save_only_model else int(count_optimizer_bytes(trained, args))
    checkpoint_bytes = model_bytes + optimizer_bytes
    saves = _count_saves(args.training, steps, steps_per_epoch)
    limit = args.training.save_total_limit or saves  # None and 0 mean that all are kept
    checkpoints = min(saves, limit + 1)
    return DiskEstimate(
        checkpoint_bytes,
        checkpoints,
        model_bytes,
        total=max(checkpoints * checkpoint_bytes, min(saves, limit) * checkpoint_bytes + model_bytes),
    )


def _count_saves(training: Any, steps: int, steps_per_epoch: int) -> int:
    """Return the number of checkpoints that are saved during a run, the one after its last step included."""
    if training.save_strategy == "steps":
        # As in transformers, a number below 1 is a share of all steps.
        share_or_steps = float(training.save_steps)
        return math.ceil(steps / (share_or_steps if share_or_steps >= 1 else math.ceil(steps * share_or_steps)))
    if training.save_strategy == "epoch":
        return math.ceil(steps / steps_per_epoch)
    # `best` saves an unknown number, but at least the first.
    return 1 if training.save_strategy == "best" else 0


def describe_disk_space(needed: DiskEstimate, output_dir: Path) -> str:
    """Return needed and free space as text: `about 12.7 GB (2 checkpoints of 6.35 GB, ...), and 80 GB are free`.

    Args:
        needed (`DiskEstimate`): the estimate.
        output_dir (`Path`): the run's output directory, which need not exist.
    """
    return (
        f"about {format_gigabytes(needed.total)} GB{_describe_parts(needed)}, and "
        f"{format_gigabytes(get_free_space(output_dir))} GB are free"
    )


def _describe_parts(needed: DiskEstimate) -> str:
    checkpoints = f"{format_count(needed.checkpoints, 'checkpoint')} of {format_gigabytes(needed.checkpoint)} GB, "
    return f" ({checkpoints if needed.checkpoints else ''}model {format_gigabytes(needed.model)} GB)"


def check_disk_space(needed: DiskEstimate, output_dir: Path) -> None:
    """Raise if the disk of the output directory certainly has too little space for the rest of a run.

    Args:
        needed (`DiskEstimate`): the estimate of the whole run.
        output_dir (`Path`): the run's output directory, which need not exist.

    Raises:
        TuningError: if it does not fit; the message has the estimate.
    """
    # Checkpoints of an earlier call are part of the estimate.
    existing = sum(path.stat().st_size for path in output_dir.glob("checkpoint-*/**/*") if path.is_file())
    check_free_space(
        output_dir,
        needed.total - existing,
        error_type=TuningError,
        details=_describe_parts(needed),
        advice="free disk space, lower save_total_limit, or choose another output_dir",
    )


@contextmanager
def translate_full_disk(path: Path, size: int, *, output_dir: Path) -> Iterator[None]:
    """Replace errors of writing a checkpoint or the model by one line with the space that it takes.

    Args:
        path (`Path`): the directory that is written.
        size (`int`): bytes that are written.
        output_dir (`Path`): the run's output directory.

    Raises:
        TuningError: if the block cannot write; the message names the last complete checkpoint.
    """
    try:
        with translate_save_errors():
            yield
    except OSError as error:
        checkpoint = find_last_checkpoint(output_dir)
        start = f"resume from {checkpoint}" if checkpoint else "start at step 0, since there is no complete checkpoint"
        raise TuningError(
            f"{path} cannot be written ({error.strerror or error}): it takes about {format_gigabytes(size)} GB, and "
            f"{format_gigabytes(get_free_space(output_dir))} GB are free; free disk space and run the same command "
            f"again to {start}"
        ) from error
