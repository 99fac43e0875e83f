"""TRL's SFTTrainer with what LLaVA's has beside it; imported by the training process only (sft.py), as it loads torch.

Three things differ from the parent class: which rows share a step (sampler.py), learning rates of the parts, and a
checkpoint that says when it is whole. Template, mask, loss and everything else are TRL's.
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
"""What `compact tune` sends on Ctrl-C: launchers let it pass, while they forward SIGTERM and kill after 30 seconds."""


class CompactTrainer(SFTTrainer):  # type: ignore[misc]  # TRL has no type hints
    """An SFTTrainer for conversations about images.

    Args:
        screening (`ScreeningResult`): what the rows of `train_dataset` are like, in its order.
        family (`ModelFamily`): the model's.
        learning_rates (`Mapping[str, float]`): of parts of the family by name; everything else is trained at the
            arguments' `learning_rate`. The schedule scales all of them.
        seconds (`float`): what training had taken before, where it goes on.
        **kwargs: SFTTrainer's.
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
        self._start_time = time.monotonic() - seconds
        self.grouping = build_grouping(self.args, screening, self.args.world_size)

    @property
    def seconds(self) -> float:
        """How long training has taken up to now, over all the times it was gone on with."""
        return time.monotonic() - self._start_time

    def get_train_dataloader(self) -> Any:
        """Return this process's batches, grouped by modality and length; they are shared out already."""
        steps_per_epoch = self.grouping.steps_per_epoch

        def get_epoch() -> int | None:
            # Counted in steps, since nobody tells a batch sampler its epoch when training goes on in the middle of one.
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
        # As accelerator.prepare does, but for the sharding, which would take every other of our own batches.
        return prepare_data_loader(dataloader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def create_optimizer(self, model: Any = None) -> Any:
        """Return TRL's optimizer, parts in groups of their own where they have rates of their own (for the projector,
        LLaVA's `mm_projector_lr`)."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not is_new:
            return optimizer
        named_parameters = list((self.model if model is None else model).named_parameters())
        groups = list(optimizer.param_groups)
        for part, rate in self._learning_rates.items():
            part_ids = {id(parameter) for name, parameter in named_parameters if self._family.find_part(name) == part}
            for group in groups:
                part_parameters = [parameter for parameter in group["params"] if id(parameter) in part_ids]
                if part_parameters:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in part_ids]
                    optimizer.add_param_group({**group, "params": part_parameters, "lr": rate})
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load an adapter's or a shard's weights; those of a whole model are there already (sft.py)."""
        if is_peft_model(self.model) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, say that it is whole, and only then remove older ones: a kill leaves no half of the only one."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            # Of weights alone nobody can go on.
            if not self.args.save_only_model:
                write_atomically(checkpoint / COMPLETE_FILE, json.dumps({"seconds": self.seconds}))
            rotate_checkpoints(output_dir=self.args.output_dir, save_total_limit=limit)


class StopCallback(TrainerCallback):  # type: ignore[misc]  # transformers' has no type hints here
    """Ends training after the step at hand, with a checkpoint, when this or any other process is asked to stop.

    Before the first step nothing is lost by ending at once, which is what a signal does then.
    """

    def __init__(self) -> None:
        self.should_stop = False
        self._previous_handlers: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._previous_handlers = {
            signal_number: signal.signal(signal_number, self._request_stop)
            for signal_number in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)
        }

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for signal_number, handler in self._previous_handlers.items():
            signal.signal(signal_number, handler)
        if self.should_stop:
            # It is asked again until this process has ended, which it now does by itself.
            signal.signal(STOP_SIGNAL, signal.SIG_IGN)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            # All stop after the same step, or those that go on would wait for the others for ever.
            stop_flag = torch.tensor([int(self.should_stop)], device=args.device)
            torch.distributed.all_reduce(stop_flag)
            self.should_stop = bool(stop_flag.item())
        if self.should_stop and state.global_step < state.max_steps:
            args.save_only_model = False
            control.should_save = control.should_training_stop = True

    def _request_stop(self, *_: object) -> None:
        self.should_stop = True


def describe_hardware(args: Any) -> str:
    """Return what was trained on, in words: `2 x NVIDIA H200`, or `1 x CPU (8 threads)`."""
    device_name = (
        torch.cuda.get_device_name(args.device)
        if args.device.type == "cuda"
        else f"CPU ({torch.get_num_threads()} threads)"
    )
    return f"{args.world_size} x {device_name}"
