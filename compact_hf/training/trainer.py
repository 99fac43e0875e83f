"""TRL's SFTTrainer with what LLaVA's has beside it; imported by the training process only (sft.py), as it loads torch.

Three things differ from the parent class: which rows share a step (sampler.py), the projector's own learning rate, and
a checkpoint that says when it is whole. Template, mask, loss and everything else are TRL's.
"""

from __future__ import annotations

import json
import signal
import time
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

from compact_hf.training.checkpoints import WHOLE
from compact_hf.training.row_screening import Screened
from compact_hf.training.sampler import Batches, grouping_of

PROJECTOR: Final = "multi_modal_projector"
STOP: Final = signal.SIGUSR1
"""What `compact tune` sends on Ctrl-C: launchers let it pass, while they forward SIGTERM and kill after 30 seconds."""


class CompactTrainer(SFTTrainer):  # type: ignore[misc]  # TRL has no type hints
    """An SFTTrainer for LLaVA's conversations.

    Args:
        screened (`Screened`): what the rows of `train_dataset` are like, in its order.
        projector_learning_rate (`float`, *optional*): of the projector's own weights; everything else, and without it
            the projector too, is trained at the arguments' `learning_rate`. The schedule scales both.
        seconds (`float`): what training had taken before, where it goes on.
        **arguments: SFTTrainer's.
    """

    def __init__(
        self, *, screened: Screened, projector_learning_rate: float | None, seconds: float, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.stopping = Stopping()
        self.add_callback(self.stopping)
        self._projector_learning_rate = projector_learning_rate
        self._began = time.monotonic() - seconds
        self.grouping = grouping_of(self.args, screened, self.args.world_size)

    @property
    def seconds(self) -> float:
        """How long training has taken up to now, over all the times it was gone on with."""
        return time.monotonic() - self._began

    def get_train_dataloader(self) -> Any:
        """Return this process's batches, grouped by modality and length; they are shared out already."""
        steps = self.grouping.steps_per_epoch

        def epoch() -> int | None:
            # Counted in steps, since nobody tells a batch sampler its epoch when training goes on in the middle of one.
            done = self.state.global_step
            return None if 0 < self.state.max_steps <= done else done // steps

        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=Batches(self.grouping, rank=self.args.process_index, epoch=epoch),
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=workers, rank=self.args.process_index),
        )
        # As accelerator.prepare does, but for the sharding, which would take every other of our own batches.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def create_optimizer(self, model: Any = None) -> Any:
        """Return TRL's optimizer, the projector in groups of its own where it has a rate of its own (LLaVA's
        `mm_projector_lr`)."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not created or self._projector_learning_rate is None:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        projector = {id(parameter) for name, parameter in named if PROJECTOR in name}
        for group in list(optimizer.param_groups):
            apart = [parameter for parameter in group["params"] if id(parameter) in projector]
            if apart:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in projector]
                optimizer.add_param_group({**group, "params": apart, "lr": self._projector_learning_rate})
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
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            # Of weights alone nobody can go on.
            if not self.args.save_only_model:
                (folder / WHOLE).write_text(json.dumps({"seconds": self.seconds}), encoding="utf-8")
            rotate_checkpoints(output_dir=self.args.output_dir, save_total_limit=limit)


class Stopping(TrainerCallback):  # type: ignore[misc]  # transformers' has no type hints here
    """Ends training after the step at hand, with a checkpoint, when this or any other process is asked to stop.

    Before the first step nothing is lost by ending at once, which is what a signal does then.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM, STOP)}

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked:
            # It is asked again until this process has ended, which it now does by itself.
            signal.signal(STOP, signal.SIG_IGN)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            # All stop after the same step, or those that go on would wait for the others for ever.
            asked = torch.tensor([int(self.asked)], device=args.device)
            torch.distributed.all_reduce(asked)
            self.asked = bool(asked.item())
        if self.asked and state.global_step < state.max_steps:
            args.save_only_model = False
            control.should_save = control.should_training_stop = True

    def _ask(self, *_: object) -> None:
        self.asked = True


def hardware(args: Any) -> str:
    """Return what was trained on, in words: `2 x NVIDIA H200`, or `1 x CPU (8 threads)`."""
    kind = (
        torch.cuda.get_device_name(args.device)
        if args.device.type == "cuda"
        else f"CPU ({torch.get_num_threads()} threads)"
    )
    return f"{args.world_size} x {kind}"
