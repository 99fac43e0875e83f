"""Extends TRL's SFTTrainer with features of LLaVA's trainer.

It differs from the parent class in three ways: how rows are grouped into steps (sampler.py), learning rates per part of
the model, and a marker file in complete checkpoints. Template, mask, loss and everything else are TRL's. Only the
training process imports this module (sft.py), because it imports torch.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import is_peft_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints, seed_worker
from trl import SFTTrainer

from compact_hf.models.family import ModelFamily
from compact_hf.storage import write_atomically
from compact_hf.training.checkpoints import COMPLETE_FILE
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
        **kwargs: arguments of SFTTrainer.
    """

    def __init__(
        self,
        *,
        screening: ScreeningResult,
        family: ModelFamily,
        learning_rates: Mapping[str, float],
        seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stop_callback = StopCallback()
        self.add_callback(self.stop_callback)
        self._family, self._learning_rates = family, learning_rates
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

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, mark it as complete, and only then remove older ones.

        If the process is killed while it saves, the previous checkpoint is still there.
        """
        # Without a limit the parent removes nothing: it would do so before the new checkpoint is marked.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            # A weights-only checkpoint cannot be resumed.
            if not self.args.save_only_model:
                write_atomically(checkpoint / COMPLETE_FILE, json.dumps({"seconds": self.seconds}))
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
