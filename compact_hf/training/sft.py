"""Trains a model: the script that `compact tune` launches in each training process.

    torchrun --nproc-per-node 2 -m compact_hf.training.sft --config recipe.yaml --output_dir student

It corresponds to TRL's `sft` script, with CompactTrainer instead of SFTTrainer. It screens the rows first, resumes from
the last complete checkpoint if there is one, and writes the model and training.json to the output directory.
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
from compact_hf.escaping import escape_line
from compact_hf.models.family import ModelFamily
from compact_hf.storage import is_disk_full
from compact_hf.training.arguments import (
    Arguments,
    check_base,
    get_dataset_version,
    load_network,
    load_processor,
    load_splits,
    make_parser,
    parse_settings,
    screen_with_args,
    translate_shape_errors,
)
from compact_hf.training.checkpoints import find_last_checkpoint, read_train_seconds, write_record
from compact_hf.training.disk_space import (
    DiskEstimate,
    check_disk_space,
    describe_disk_space,
    estimate_disk_space,
    translate_full_disk,
)
from compact_hf.training.inputs import record_images
from compact_hf.training.memory import (
    ESTIMATE_PREFIX,
    Devices,
    check_memory,
    describe_memory,
    estimate_memory,
    get_device_memory,
    translate_memory_errors,
)
from compact_hf.training.row_images import decode_images
from compact_hf.training.row_screening import ScreeningResult
from compact_hf.training.sampler import build_grouping, count_steps
from compact_hf.training.trained_parts import PROJECTOR
from compact_hf.wording import format_count

LIBRARIES: Final = ("compact_hf", "trl", "transformers", "peft", "accelerate", "torch", "datasets")
PROCESSES_VARIABLE: Final = "COMPACT_TUNE_PROCESSES"
"""Environment variable: the number of processes that the launcher was asked to start."""
_MAX_LISTED_ROWS: Final = 20
"""Number of dropped rows that are printed; dropped.jsonl lists all of them."""


def main(arguments: Sequence[str]) -> None:
    """Start or resume training in this process.

    Args:
        arguments (`Sequence[str]`): `--config RECIPE` and options that replace the recipe's settings.

    Raises:
        TuningError: if this base or dataset cannot be trained on.
        StoppedEarly: if a stop signal came; a complete checkpoint was saved.
    """
    from accelerate import PartialState

    # The recipe may have keys of `accelerate launch`, which this parser does not know.
    args = Arguments(*make_parser("compact tune").parse_args_and_config(arguments, fail_with_unknown_args=False))
    training = args.training
    family, config = check_base(args)
    devices, available = _get_devices(training), get_device_memory(training.device)
    # Checked twice: without activations before rows are screened, which can take long, and with them afterwards.
    check_memory(estimate_memory(config, args, devices), available)
    processor = load_processor(args, family, config)
    rows = load_splits(args)
    if training.process_index == 0:
        record_images(Path(training.output_dir), rows.values(), on_note=PartialState().print)
    # The main process screens, the others then read its result from the cache of `datasets`.
    with training.main_process_first(desc="screening rows"):
        screening = {split: screen_with_args(args, split_rows, processor, family) for split, split_rows in rows.items()}
    grouping = build_grouping(training, screening["train"], training.world_size)
    batch_rows, length = grouping.largest_batch
    needed = estimate_memory(config, args, devices, rows=batch_rows, length=length)
    steps = count_steps(training, grouping)
    disk = estimate_disk_space(config, args, steps=steps, steps_per_epoch=grouping.steps_per_epoch)
    output_dir = Path(training.output_dir)
    checkpoint = find_last_checkpoint(output_dir)
    memory_message = f"{ESTIMATE_PREFIX}{describe_memory(needed, available)}"
    for message in (
        *_describe_rows(screening["train"], training),
        _describe_learning_rates(args),
        memory_message,
        f"disk space for {output_dir}: {describe_disk_space(disk, output_dir)}",
        _describe_start(checkpoint),
    ):
        PartialState().print(escape_line(message), flush=True)
    check_memory(needed, available)
    check_disk_space(disk, output_dir)
    with translate_memory_errors(needed, available):
        with translate_shape_errors(args.model.model_name_or_path, family):
            trainer = _build_trainer(args, family, rows, screening, processor, checkpoint, disk)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Fewer steps than planned: a stop signal ended training after a checkpoint.
    step, max_steps = trainer.state.global_step, trainer.state.max_steps
    if step < max_steps:
        trainer.end()
        raise StoppedEarly(
            f"stopped after step {step} of {max_steps}, with a complete checkpoint in {training.output_dir}; "
            "run the same command again to resume"
        )
    with translate_full_disk(output_dir, disk.model, output_dir=output_dir):
        # In all processes, because sharded weights are gathered from all of them.
        trainer.save_model(training.output_dir)
        if trainer.is_world_process_zero():
            write_record(output_dir, _build_record(args, arguments, trainer, screening["train"]))
    trainer.accelerator.wait_for_everyone()  # `tune` on another machine reads the record as soon as this returns
    trainer.end()


def _get_devices(training: Any) -> Devices:
    # accelerate sets these variables in the processes that it starts.
    return Devices(training.world_size, bool({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & os.environ.keys()))


def _build_trainer(
    args: Arguments,
    family: ModelFamily,
    rows: Mapping[str, Any],
    screening: Mapping[str, ScreeningResult],
    processor: Any,
    checkpoint: Path | None,
    disk: DiskEstimate,
) -> Any:
    """Return the trainer with the model loaded, on the kept rows; refuse settings that it does not support."""
    from trl import get_peft_config

    from compact_hf.training.trainer import CompactTrainer

    training = args.training
    if training.train_sampling_strategy != "random":
        raise TuningError(
            f"train_sampling_strategy is {training.train_sampling_strategy!r}, but compact tune always groups rows by "
            "modality and length: leave it out, or run `trl sft`"
        )
    if training.push_to_hub:
        raise TuningError("push_to_hub would upload TRL's card: leave it out, and use compact publish after training")
    # Only launch.py sets the variable; under plain torchrun the two numbers are equal.
    num_processes = int(os.environ.get(PROCESSES_VARIABLE, training.world_size))
    if training.world_size != num_processes:
        raise TuningError(
            f"num_processes is {num_processes}, but accelerate started {training.world_size} (it starts one process if "
            f"there is no GPU): set it to {training.world_size}, or run torchrun --nproc-per-node {num_processes} "
            "-m compact_hf.training.sft"
        )
    peft_config = get_peft_config(args.model)
    # Full training is resumed by loading the checkpoint as the model. The loading in transformers' Trainer would not
    # find the weights: it looks for their names in memory, but the names in files may be older ones.
    is_full_resume = checkpoint is not None and peft_config is None and not _get_devices(training).is_sharded
    model = load_network(args, str(checkpoint) if is_full_resume else None)
    training.model_init_kwargs = None  # the model is loaded already: SFTTrainer would warn that it ignores them
    # Rows in the order of `kept_indices`, as in the lengths from which steps are grouped.
    datasets = {name: decode_images(dataset.select(screening[name].kept_indices)) for name, dataset in rows.items()}
    return CompactTrainer(
        screening=screening["train"],
        family=family,
        learning_rates=args.learning_rates,
        seconds=read_train_seconds(checkpoint),
        checkpoint_bytes=disk.checkpoint,
        model=model,
        args=training,
        train_dataset=datasets["train"],
        eval_dataset=datasets.get("test"),
        processing_class=processor,
        peft_config=peft_config,
    )


def _describe_rows(screening: ScreeningResult, training: Any) -> list[str]:
    """Return messages about kept, dropped and truncated rows; write the dropped ones to dropped.jsonl."""
    dropped, messages = screening.dropped, []
    with_image = sum(screening.image_flags)
    messages.append(
        f"{format_count(len(screening.kept_indices), 'row')} to train on, {with_image:,} with an image; "
        f"{len(dropped):,} dropped"
    )
    if dropped:
        messages += [f"dropped {row}" for row in dropped[:_MAX_LISTED_ROWS]]
        path = Path(training.output_dir) / "dropped.jsonl"
        # All processes return the messages, but only one writes the file.
        if training.process_index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            records = ({"id": row.name, "reason": row.reason, "detail": row.detail} for row in dropped)
            lines = (json.dumps(record, ensure_ascii=False) for record in records)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        messages.append(f"full list of dropped rows: {path}; by reason: {screening.dropped_by_reason}")
    if screening.num_truncated:
        messages.append(
            f"truncated at max_length {training.max_length}, after some of the answer tokens: "
            f"{format_count(screening.num_truncated, 'row')}"
        )
    return messages


def _describe_learning_rates(args: Arguments) -> str:
    own_rates = [f", the {part.replace('_', ' ')}'s {rate:g}" for part, rate in args.learning_rates.items()]
    trained = f"training {args.extras.train}; " if args.extras.train else ""
    return f"{trained}learning rate {args.training.learning_rate:g}{''.join(own_rates)}"


def _describe_start(checkpoint: Path | None) -> str:
    return f"resuming from {checkpoint}" if checkpoint else "starting at step 0"


def _build_record(
    args: Arguments, arguments: Sequence[str], trainer: Any, screening: ScreeningResult
) -> dict[str, Any]:
    """Return the content of training.json, from which the model's card is written (see `TrainingRecord`)."""
    from compact_hf.training.trainer import describe_hardware

    history = trainer.state.log_history
    return {
        "base": args.model.model_name_or_path,
        "model_type": trainer.model.config.model_type,
        "base_revision": args.model.model_revision,  # its commit, or None for a directory; see `check_base`
        "dataset": args.script.dataset_name or [dataset.path for dataset in args.mixture.datasets],
        "dataset_config": args.script.dataset_config,
        "dataset_revision": args.extras.dataset_revision,
        "dataset_version": get_dataset_version(trainer.train_dataset),
        "settings": parse_settings(arguments),
        "train": args.extras.train,
        "projector_learning_rate": args.learning_rates.get(PROJECTOR),
        "rows": len(screening.kept_indices),
        "dropped": screening.dropped_by_reason,
        "loss": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        "steps": trainer.state.global_step,
        "seconds": round(trainer.seconds, 1),
        "hardware": describe_hardware(args.training),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Call `main` and return its exit status; write our own errors in one line that the parent process parses.

    Args:
        main (`Callable[[Sequence[str]], None]`): the main function of this script or of the launcher.
        arguments (`Sequence[str]`): its arguments.
    """
    try:
        main(arguments)
    except CompactError as error:
        return _report_error(error)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # For example the cache of `datasets`; errors of checkpoints and models are reported with more details.
        return _report_error(
            TuningError(f"training cannot write a file ({error}): free disk space and run the same command again")
        )
    return 0


def _report_error(error: CompactError) -> int:
    """Write an error in a line of its own and return its exit status."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    # torch puts the traceback of a worker of the dataloader before the message, with the same name as a prefix.
    message = str(error).rstrip().rpartition(f"{name}: ")[2]
    # `MODULE.CLASS: MESSAGE`, from which child_output.py builds the same error in the parent process. The newline ends
    # the line of a progress bar.
    sys.stderr.write(f"\n{name}: {escape_line(message)}\n")
    return error.exit_status


def prepare_process() -> None:
    """Let a stop signal end the process at once until training begins: up to then there is nothing to save."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    prepare_process()
    sys.exit(run(main, sys.argv[1:]))
