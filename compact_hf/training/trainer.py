"""Extends TRL's SFTTrainer with features of LLaVA's trainer.

It differs from the parent class in four ways: how rows are grouped into steps (sampler.py), learning rates per part of
the model, a marker file in complete checkpoints, and an error as soon as a number is not finite. Template, mask, loss
and everything else are TRL's. Only the training process imports this module (sft.py), because it imports torch.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import is_peft_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints, seed_worker
from trl import SFTTrainer

from compact_hf.errors import TuningError
from compact_hf.models.family import ModelFamily
from compact_hf.models.finite import find_non_finite, format_names
from compact_hf.storage import write_atomically
from compact_hf.training.checkpoints import COMPLETE_FILE, find_last_checkpoint
from compact_hf.training.disk_space import translate_full_disk
from compact_hf.training.row_screening import ScreeningResult
from compact_hf.training.sampler import GroupedBatchSampler, build_grouping

STOP_SIGNAL: Final = signal.SIGUSR1
"""Sent by `compact tune` on Ctrl-C. SIGTERM is no alternative: launchers forward it, and kill after 30 seconds."""


class CompactTrainer(SFTTrainer):  # type: ignore[misc]  # TRL has no type hints
    """An SFTTrainer for conversations about images.

    Args:
        screening (`ScreeningResult`): lengths and modalities of the rows of `train_dataset`, in its order.
        family (`ModelFamily`): the model's family.
        learning_rates (`Mapping[str, float]`): learning rates of parts of the model, by the part's name; all other
            parameters use `args.learning_rate`. The schedule scales all of them.
        seconds (`float`): training time before this process, if training is resumed.
        checkpoint_bytes (`int`): estimated size of a checkpoint, for the message about a full disk.
        **kwargs: arguments of SFTTrainer.
    """

    def __init__(
        self,
        *,
        screening: ScreeningResult,
        family: ModelFamily,
        learning_rates: Mapping[str, float],
        seconds: float,
        checkpoint_bytes: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stop_callback = StopCallback()
        self.add_callback(self.stop_callback)
        self._family, self._learning_rates = family, learning_rates
        self._checkpoint_bytes = checkpoint_bytes
        # Set back by the time of earlier processes, so that `seconds` includes it.
        self._start_time = time.monotonic() - seconds
        self.grouping = build_grouping(self.args, screening, self.args.world_size)

    @property
    def seconds(self) -> float:
        """Training time so far, in seconds, including the time before training was resumed."""
        return time.monotonic() - self._start_time

    def get_train_dataloader(self) -> Any:
        """Return this process's own batches, grouped by modality and length."""
        steps_per_epoch = self.grouping.steps_per_epoch

        def get_epoch() -> int | None:
            # Computed from the step, because a batch sampler does not get the epoch when training resumes within one.
            step = self.state.global_step
            return None if 0 < self.state.max_steps <= step else step // steps_per_epoch

        num_workers = self.args.dataloader_num_workers
        dataloader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=GroupedBatchSampler(self.grouping, rank=self.args.process_index, get_epoch=get_epoch),
            collate_fn=self.data_collator,
            num_workers=num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=num_workers, rank=self.args.process_index),
        )
        # Like accelerator.prepare, but as a single process: GroupedBatchSampler has already split the batches between
        # processes, and accelerate would split them again.
        return prepare_data_loader(dataloader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def create_optimizer(self, model: Any = None) -> Any:
        """Return TRL's optimizer with a parameter group for each part that has its own learning rate.

        For the projector this is LLaVA's `mm_projector_lr`.

        Args:
            model (`PreTrainedModel`, *optional*, defaults to the trainer's): the model to optimize.
        """
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not is_new:
            return optimizer
        named_parameters = list((self.model if model is None else model).named_parameters())
        groups = list(optimizer.param_groups)
        for part, rate in self._learning_rates.items():
            part_ids = {id(parameter) for name, parameter in named_parameters if self._family.find_part(name) == part}
            for group in groups:  # two at first: with and without weight decay
                part_parameters = [parameter for parameter in group["params"] if id(parameter) in part_ids]
                if part_parameters:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in part_ids]
                    optimizer.add_param_group({**group, "params": part_parameters, "lr": rate})
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights of an adapter or a shard; sft.py has already loaded those of a whole model."""
        if is_peft_model(self.model) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Checkpoints of version 0.1.0 may have them.
        if names := self._find_non_finite_weights():
            raise TuningError(
                f"{resume_from_checkpoint} has weights that are not finite numbers ({format_names(names)}): training "
                "had diverged when it was saved; remove it to resume from an earlier one, or lower learning_rate and "
                "give another output_dir"
            )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss; raise if it is not finite.

        transformers logs such a loss as the mean of the losses before, so that it shows only in the weights.

        Args:
            model (`torch.nn.Module`): the model.
            inputs (`dict[str, Tensor]`): one batch of one process.
            return_outputs (`bool`, *optional*, defaults to False): whether to return the model's outputs, too.
            num_items_in_batch (`Tensor`, *optional*): number of answer tokens in the whole step.

        Raises:
            TuningError: if the loss is NaN or infinite.
        """
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = float((result[0] if return_outputs else result).detach().sum())
        if not math.isfinite(loss) and model.training:
            self._raise_diverged(f"the loss is {loss}", self.state.global_step + 1)
        if not math.isfinite(loss):
            self._raise_diverged(f"the evaluation loss is {loss}", self.state.global_step)
        return result

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of the gradient, of all processes; raise if it is not finite, before the optimizer's step.

        In fp16, the scaler skips such a step and halves its scale, which is normal at the beginning. It ends at a scale
        of 1: then the gradient itself is too large.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        scaler = getattr(self.accelerator, "scaler", None)
        is_skipped = scaler is not None and scaler.is_enabled() and scaler.get_scale() > 1
        # DeepSpeed computes the norm in the optimizer's step, and returns None before the first one.
        if grad_norm is not None and not math.isfinite(float(grad_norm)) and not is_skipped:
            self._raise_diverged(f"the norm of the gradient is {float(grad_norm)}", self.state.global_step + 1)
        return grad_norm

    def _find_non_finite_weights(self) -> list[str]:
        """Return the names of trained weights that are not finite, of this process's shards."""
        return find_non_finite(
            (name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad
        )

    def _raise_diverged(self, reason: str, step: int) -> NoReturn:
        is_half = self.args.fp16 or self.model.dtype == torch.float16
        precision = ", or train in bf16 instead of fp16" if is_half else ""
        checkpoint = find_last_checkpoint(Path(self.args.output_dir))
        raise TuningError(
            f"training diverged: {reason} at step {step} of {self.state.max_steps}; lower learning_rate "
            f"({self.args.learning_rate:g}) or raise warmup_steps ({self.args.warmup_steps:g}){precision}, and give "
            f"another output_dir; last complete checkpoint: {checkpoint or 'none'}"
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, of a checkpoint or at the end of training; raise if a trained weight is not finite.

        Args:
            output_dir (`str`, *optional*, defaults to the run's): the directory to write to.
            _internal_call (`bool`, *optional*, defaults to False): whether the trainer itself saves, for a checkpoint.

        Raises:
            TuningError: if a trained weight is NaN or infinite; nothing is written.
        """
        if names := self._find_non_finite_weights():
            reason = f"weights are not finite numbers ({format_names(names)})"
            self._raise_diverged(reason, self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card beside checkpoints: `compact tune` writes its own when training is finished."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, mark it as complete, and only then remove older ones.

        If the process is killed while it saves, the previous checkpoint is still there.
        """
        output_dir = Path(self.args.output_dir)
        checkpoint = output_dir / f"checkpoint-{self.state.global_step}"
        # Without a limit the parent removes nothing: it would do so before the new checkpoint is marked.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with translate_full_disk(checkpoint, self._checkpoint_bytes, output_dir=output_dir):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                # A weights-only checkpoint cannot be resumed.
                if self.args.should_save and not self.args.save_only_model:
                    write_atomically(checkpoint / COMPLETE_FILE, json.dumps({"seconds": self.seconds}))
        except TuningError:
            # Incomplete, and it takes space on a disk that may be full.
            if self.args.should_save:
                shutil.rmtree(checkpoint, ignore_errors=True)
            raise
        self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(output_dir=self.args.output_dir, save_total_limit=limit)


class StopCallback(TrainerCallback):  # type: ignore[misc]  # transformers' has no type hints here
    """Ends training after the current step, with a checkpoint, when any of the processes gets a stop signal.

    Before training begins there is nothing to save, and a signal ends the process at once (see `prepare_process`).
    """

    def __init__(self) -> None:
        self.should_stop = False
        self._previous_handlers: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Install the signal handlers."""
        self._previous_handlers = {
            signal_number: signal.signal(signal_number, self._request_stop)
            for signal_number in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)
        }

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Restore the previous signal handlers."""
        for signal_number, handler in self._previous_handlers.items():
            signal.signal(signal_number, handler)
        if self.should_stop:
            # `compact tune` repeats the signal until this process has ended; it must not interrupt the ending.
            signal.signal(STOP_SIGNAL, signal.SIG_IGN)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let all processes agree whether to stop; if so, request a checkpoint that can be resumed."""
        if args.world_size > 1:
            # All processes have to stop after the same step, else the remaining ones would wait forever.
            stop_flag = torch.tensor([int(self.should_stop)], device=args.device)
            torch.distributed.all_reduce(stop_flag)
            self.should_stop = bool(stop_flag.item())
        if self.should_stop and state.global_step < state.max_steps:
            args.save_only_model = False
            control.should_save = control.should_training_stop = True

    def _request_stop(self, *_: object) -> None:
        self.should_stop = True


def describe_hardware(args: Any) -> str:
    """Return a description of the devices, such as `2 x NVIDIA H200` or `1 x CPU (8 threads)`.

    Args:
        args (`SFTConfig`): the training arguments.
    """
    device_name = (
        torch.cuda.get_device_name(args.device)
        if args.device.type == "cuda"
        else f"CPU ({torch.get_num_threads()} threads)"
    )
    return f"{args.world_size} x {device_name}"
