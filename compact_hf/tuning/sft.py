"""The training script that `compact tune` launches: TRL's arguments in, a model's folder with its training.json out.

    torchrun --nproc-per-node 2 -m compact_hf.tuning.sft --config recipe.yaml --output_dir student

It is TRL's `sft` script with CompactTrainer in SFTTrainer's place. Rows are screened first, and it goes on from the
last whole checkpoint by itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import CompactError, StoppedEarly, TuningError
from compact_hf.tuning.memory import Devices, estimate
from compact_hf.tuning.recipes import read_recipe
from compact_hf.tuning.resume import last_whole, seconds_in, write_record
from compact_hf.tuning.screen import Screened, screen

LIBRARIES: Final = ("compact_hf", "trl", "transformers", "peft", "accelerate", "torch", "datasets")
PROCESSES: Final = "COMPACT_TUNE_PROCESSES"
"""In the environment: how many processes the launcher was asked to start."""
_SECRET: Final = ("env", "hub_token")
_TOLD: Final = 20
"""Dropped rows that are named; the file of all of them is too."""


@dataclass
class Extras:
    """What `compact tune` adds to TRL's arguments, on the command line only: any recipe is TRL's too.

    Attributes:
        dataset_revision (`str`, *optional*): a branch, tag or commit of the repository `dataset_name`.
        projector_learning_rate (`float`, *optional*): the projector's own; without it `learning_rate`.
    """

    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of dataset_name"})
    projector_learning_rate: float | None = field(default=None, metadata={"help": "the projector's own learning rate"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """TRL's arguments by its own dataclasses, and ours."""

    script: Any
    training: Any
    model: Any
    mixture: Any
    extras: Extras


def make_parser(prog: str) -> Any:
    """Return TRL's parser of `sft`, with the extras."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

    return TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig, Extras), prog=prog)


def main(arguments: Sequence[str]) -> None:
    """Train, or go on with it.

    Raises:
        TuningError: this base or this data set cannot be trained on.
        StoppedEarly: it was asked to stop; a whole checkpoint is there.
    """
    from torch import OutOfMemoryError

    told = Arguments(*make_parser("compact tune").parse_args_and_config(arguments, fail_with_unknown_args=False))
    training = told.training
    config = refuse_other_bases(told.model.model_name_or_path, told.model.model_revision)
    _refuse_too_little_memory(config, told)
    processor = processor_of(told)
    rows = load(told)
    with training.main_process_first(desc="looking at the rows"):
        screened = {split: screen_as(told, one, processor) for split, one in rows.items()}
    checkpoint = last_whole(Path(training.output_dir))
    trainer = _trainer(told, rows, screened, processor, checkpoint)
    say = trainer.accelerator.print
    for line in (*_on_rows(screened["train"], training), _on_rates(told), _on_start(checkpoint)):
        say(line, flush=True)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except OutOfMemoryError as error:
        raise TuningError(
            f"out of memory at step {trainer.state.global_step + 1}: {str(error).partition('. ')[0]}; `--dry-run` "
            "tells what is needed: lower per_device_train_batch_size and raise gradient_accumulation_steps as much"
        ) from error
    if trainer.state.global_step < trainer.state.max_steps:
        raise StoppedEarly(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, with a whole checkpoint in "
            f"{training.output_dir}; the same command goes on"
        )
    trainer.save_model(training.output_dir)
    if trainer.is_world_process_zero():
        write_record(Path(training.output_dir), _record(told, arguments, trainer, screened["train"]))
    trainer.end()


def refuse_other_bases(name: str, revision: str | None = None) -> Any:
    """Return the configuration of a LLaVA.

    Raises:
        TuningError: it is another kind of model, or none.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise TuningError(
            f"the base {name} cannot be read ({' '.join(str(error).split())[:200]}); "
            "give a folder or a repository of a LLaVA, such as `compact base assemble` leaves"
        ) from error
    if config.model_type != "llava":
        raise TuningError(
            f"the base {name} is a {config.model_type}, not a LLaVA; "
            "give the model_name_or_path of one, such as `compact base assemble` leaves"
        )
    return config


def processor_of(told: Arguments) -> Any:
    """Return the base's processor with the chat template of training.

    Raises:
        TuningError: it cannot be read, or has no template that marks what is to be learnt.
    """
    from transformers import AutoProcessor

    name, path = told.model.model_name_or_path, told.training.chat_template_path
    try:
        processor = AutoProcessor.from_pretrained(name, revision=told.model.model_revision)
        if path:
            processor.chat_template = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TuningError(f"no processor or template for {name}: {' '.join(str(error).split())[:200]}") from error
    template = processor.chat_template or ""
    if told.training.assistant_only_loss and "generation" not in template:
        raise TuningError(
            f"the chat template of {name} has no generation marks, so that answers cannot be told from questions; "
            "give one that has as chat_template_path (`compact recipe copy` writes ours)"
        )
    return processor


def load(told: Arguments) -> dict[str, Any]:
    """Return the rows to train on as `train`, and those to evaluate on as `test` where the recipe evaluates.

    Raises:
        TuningError: there is no such data set, config, split or revision.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from trl import get_dataset

    script, wanted = told.script, {"train": told.script.dataset_train_split}
    if told.training.eval_strategy != "no":
        wanted["test"] = script.dataset_test_split
    if script.dataset_streaming or told.mixture.streaming:
        raise TuningError("a streamed data set cannot be looked at before the first step; leave out dataset_streaming")
    try:
        if told.mixture.datasets:
            loaded = get_dataset(told.mixture)
        else:
            loaded = load_dataset(script.dataset_name, script.dataset_config, revision=told.extras.dataset_revision)
    except (OSError, ValueError, DatasetsError) as error:
        at = f"@{told.extras.dataset_revision}" if told.extras.dataset_revision else ""
        raise TuningError(
            f"the data set {script.dataset_name}{at} cannot be loaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    missing = [split for split in wanted.values() if split not in loaded]
    if missing:
        raise TuningError(f"the data set {script.dataset_name} has no split {missing[0]!r}, but {', '.join(loaded)}")
    return {name: loaded[split] for name, split in wanted.items()}


def screen_as(told: Arguments, rows: Any, processor: Any) -> Screened:
    """Screen rows for these arguments."""
    training = told.training
    return screen(rows, processor, max_length=training.max_length, answers_only=training.assistant_only_loss)


def model_arguments(told: Arguments) -> dict[str, Any]:
    """Return what the model is loaded with: as in TRL's script."""
    return {
        "revision": told.model.model_revision,
        "attn_implementation": told.model.attn_implementation,
        "dtype": told.model.dtype,
        **(told.training.model_init_kwargs or {}),
    }


def _refuse_too_little_memory(config: Any, told: Arguments) -> None:
    """Refuse what cannot fit with any batch, before weights are read."""
    import torch

    training = told.training
    sharded = bool({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & os.environ.keys())
    needed = estimate(config, told, Devices(training.world_size, sharded))
    on_gpu = training.device.type == "cuda"
    there = (
        torch.cuda.mem_get_info(training.device)[1]
        if on_gpu
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    if needed.held > there:
        raise TuningError(
            f"not enough memory: weights, gradients and optimizer take {needed.held / 1e9:.1f} GB on each device, "
            f"which has {there / 1e9:.1f} GB; train a LoRA, in 4 bit (the qlora recipe), or sharded over more devices"
        )


def _trainer(
    told: Arguments,
    rows: Mapping[str, Any],
    screened: Mapping[str, Screened],
    processor: Any,
    checkpoint: Path | None,
) -> Any:
    from trl import get_peft_config, get_quantization_config

    from compact_hf.tuning.trainer import CompactTrainer

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
            f"set it to {training.world_size}, or start torchrun --nproc-per-node {asked_for} -m compact_hf.tuning.sft"
        )
    training.model_init_kwargs = model_arguments(told)
    peft_config = get_peft_config(told.model)
    # A model that is trained in full goes on from its checkpoint's weights. transformers' own way there finds none of
    # them: it looks for the names that LLaVA's weights have in memory, while files have older ones.
    sharded = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & os.environ.keys()
    in_full = checkpoint is not None and peft_config is None and not sharded
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
    from compact_hf.tuning.trainer import hardware

    history, base = trainer.state.log_history, told.model.model_name_or_path
    commit = getattr(trainer.model.config, "_commit_hash", None)
    return {
        "base": base,
        "base_revision": commit or (None if Path(base).exists() else told.model.model_revision),
        "dataset": told.script.dataset_name or [one.path for one in told.mixture.datasets],
        "dataset_config": told.script.dataset_config,
        "dataset_revision": told.extras.dataset_revision,
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


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the recipe's settings with what replaced them on the command line."""
    given: dict[str, list[str]] = {}
    for argument in (part for one in arguments for part in (one.split("=", 1) if one.startswith("--") else [one])):
        if argument.startswith("--"):
            values = given.setdefault(argument.removeprefix("--"), [])
        else:
            values.append(argument)
    recipe = given.pop("config", None)
    told = {name: _typed(" ".join(values)) if values else True for name, values in given.items()}
    settings = {**(read_recipe(recipe[0]) if recipe else {}), **told}
    return {name: value for name, value in settings.items() if name not in (*Extras.__dataclass_fields__, *_SECRET)}


def _typed(text: str) -> str | int | float | bool:
    """Return a number or a truth value as what it is in YAML."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, int | float) else text


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Tell what goes wrong on purpose in one line that the parent process understands, and return the status."""
    try:
        main(arguments)
    except CompactError as error:
        sys.stderr.write(f"{type(error).__module__}.{type(error).__qualname__}: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    # Until training begins nothing is lost by ending at once.
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(run(main, sys.argv[1:]))
