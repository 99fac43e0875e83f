"""The training script that `compact tune` launches: TRL's arguments in, a model's folder with its training.json out.

    torchrun --nproc-per-node 2 -m compact_hf.training.sft --config recipe.yaml --output_dir student

It is TRL's `sft` script with CompactTrainer in SFTTrainer's place. Rows are screened first, and it goes on from the
last whole checkpoint by itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import CompactError, StoppedEarly, TuningError
from compact_hf.training.arguments import (
    Arguments,
    load,
    make_parser,
    misfits_told,
    model_arguments,
    processor_of,
    refuse_other_bases,
    screen_as,
    settings_of,
    version_in,
)
from compact_hf.training.checkpoints import last_whole, seconds_in, write_record
from compact_hf.training.memory import (
    NEEDED,
    Devices,
    estimate,
    memory_there,
    needed_and_there,
    refuse_too_little,
    shortage_told,
)
from compact_hf.training.row_screening import Screened
from compact_hf.training.sampler import grouping_of

LIBRARIES: Final = ("compact_hf", "trl", "transformers", "peft", "accelerate", "torch", "datasets")
PROCESSES: Final = "COMPACT_TUNE_PROCESSES"
"""In the environment: how many processes the launcher was asked to start."""
_TOLD: Final = 20
"""Dropped rows that are named; the file of all of them is too."""


def main(arguments: Sequence[str]) -> None:
    """Train, or go on with it.

    Raises:
        TuningError: this base or this data set cannot be trained on.
        StoppedEarly: it was asked to stop; a whole checkpoint is there.
    """
    from accelerate import PartialState

    told = Arguments(*make_parser("compact tune").parse_args_and_config(arguments, fail_with_unknown_args=False))
    training = told.training
    config = refuse_other_bases(told.model.model_name_or_path, told.model.model_revision)
    devices, there = _devices(training), memory_there(training.device)
    refuse_too_little(estimate(config, told, devices), there)
    processor = processor_of(told)
    rows = load(told)
    with training.main_process_first(desc="looking at the rows"):
        screened = {split: screen_as(told, one, processor) for split, one in rows.items()}
    largest, length = grouping_of(training, screened["train"], training.world_size).largest
    needed = estimate(config, told, devices, rows=largest, length=length)
    checkpoint = last_whole(Path(training.output_dir))
    on_memory = f"{NEEDED}{needed_and_there(needed, there)}"
    for line in (*_on_rows(screened["train"], training), _on_rates(told), on_memory, _on_start(checkpoint)):
        PartialState().print(line, flush=True)
    refuse_too_little(needed, there)
    with shortage_told(needed, there):
        with misfits_told(told.model.model_name_or_path):
            trainer = _trainer(told, rows, screened, processor, checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step, last = trainer.state.global_step, trainer.state.max_steps
    if step < last:
        trainer.end()
        raise StoppedEarly(
            f"stopped after step {step} of {last}, with a whole checkpoint in {training.output_dir}; "
            "the same command goes on"
        )
    trainer.save_model(training.output_dir)
    if trainer.is_world_process_zero():
        write_record(Path(training.output_dir), _record(told, arguments, trainer, screened["train"]))
    trainer.accelerator.wait_for_everyone()  # who called on another machine looks for the record at once
    trainer.end()


def _devices(training: Any) -> Devices:
    return Devices(training.world_size, bool({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & os.environ.keys()))


def _trainer(
    told: Arguments,
    rows: Mapping[str, Any],
    screened: Mapping[str, Screened],
    processor: Any,
    checkpoint: Path | None,
) -> Any:
    from trl import get_peft_config, get_quantization_config

    from compact_hf.training.trainer import CompactTrainer

    training = told.training
    if training.train_sampling_strategy != "random":
        raise TuningError(
            f"train_sampling_strategy is {training.train_sampling_strategy!r}, but compact tune groups rows by "
            "modality and length itself; leave it out, or run `trl sft`"
        )
    if training.push_to_hub:
        raise TuningError("push_to_hub would put TRL's card on the Hub; leave it out and push the result")
    asked_for = int(os.environ.get(PROCESSES, training.world_size))
    if training.world_size != asked_for:
        raise TuningError(
            f"num_processes is {asked_for}, but accelerate started {training.world_size}, as it does without GPUs; "
            f"set it to {training.world_size}, or start torchrun --nproc-per-node {asked_for} "
            "-m compact_hf.training.sft"
        )
    training.model_init_kwargs = model_arguments(told)
    peft_config = get_peft_config(told.model)
    # A model that is trained in full goes on from its checkpoint's weights. transformers' own way there finds none of
    # them: it looks for the names that LLaVA's weights have in memory, while files have older ones.
    in_full = checkpoint is not None and peft_config is None and not _devices(training).sharded
    kept = {name: one.select(screened[name].kept) for name, one in rows.items()}
    return CompactTrainer(
        screened=screened["train"],
        projector_learning_rate=told.extras.projector_learning_rate,
        seconds=seconds_in(checkpoint),
        model=str(checkpoint) if in_full else told.model.model_name_or_path,
        args=training,
        train_dataset=kept["train"],
        eval_dataset=kept.get("test"),
        processing_class=processor,
        quantization_config=get_quantization_config(told.model),
        peft_config=peft_config,
    )


def _on_rows(screened: Screened, training: Any) -> list[str]:
    dropped, told = screened.dropped, []
    with_picture = sum(screened.pictured)
    told.append(f"{len(screened.kept)} rows to train on, {with_picture} with a picture; {len(dropped)} dropped")
    if dropped:
        told += [f"dropped {name}: {reason}" for name, reason in dropped[:_TOLD]]
        path = Path(training.output_dir) / "dropped.jsonl"
        if training.process_index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps({"id": name, "reason": reason}, ensure_ascii=False) for name, reason in dropped)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        told.append(f"all that was dropped stands in {path}: {screened.reasons}")
    if screened.cut:
        told.append(f"{screened.cut} rows end at max_length {training.max_length}, with a part of their answers")
    return told


def _on_rates(told: Arguments) -> str:
    rate, own = told.training.learning_rate, told.extras.projector_learning_rate
    return f"learning rate {rate:g}" + (f", the projector's {own:g}" if own is not None else "")


def _on_start(checkpoint: Path | None) -> str:
    return f"going on from {checkpoint}" if checkpoint else "starting at step 0"


def _record(told: Arguments, arguments: Sequence[str], trainer: Any, screened: Screened) -> dict[str, Any]:
    """Return what is worth knowing of a finished run: the model's card is made of it."""
    from compact_hf.training.trainer import hardware

    history, base = trainer.state.log_history, told.model.model_name_or_path
    commit = getattr(trainer.model.config, "_commit_hash", None)
    return {
        "base": base,
        "base_revision": commit or (None if Path(base).exists() else told.model.model_revision),
        "dataset": told.script.dataset_name or [one.path for one in told.mixture.datasets],
        "dataset_config": told.script.dataset_config,
        "dataset_revision": told.extras.dataset_revision,
        "dataset_version": version_in(trainer.train_dataset),
        "settings": settings_of(arguments),
        "projector_learning_rate": told.extras.projector_learning_rate,
        "rows": len(screened.kept),
        "dropped": screened.reasons,
        "loss": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        "steps": trainer.state.global_step,
        "seconds": round(trainer.seconds, 1),
        "hardware": hardware(told.training),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Tell what goes wrong on purpose in one line that the parent process understands, and return the status."""
    try:
        main(arguments)
    except CompactError as error:
        sys.stderr.write(f"{type(error).__module__}.{type(error).__qualname__}: {error}\n")
        return error.exit_status
    return 0


def prepare_process() -> None:
    """Let a request to stop end the process at once, as nothing is lost until training begins."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    prepare_process()
    sys.exit(run(main, sys.argv[1:]))
