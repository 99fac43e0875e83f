"""What a training run will take, before it is started: a recipe in, steps, tokens, parameters and memory out.

    compact tune llava15-7b-lora --dry-run --dataset_name release --model_name_or_path base

It needs no GPU, and of the base its configuration and its processor, no weights. The rows are looked at as training
does; `datasets` keeps the outcome, so that training itself need not look again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compact_hf.models.loading import without_progress_bars
from compact_hf.training.arguments import (
    Arguments,
    ExtraArguments,
    check_base,
    load_processor,
    load_splits,
    make_parser,
    screen_with_args,
)
from compact_hf.training.memory import Devices, MemoryEstimate, estimate_memory
from compact_hf.training.recipes import check_recipe_keys
from compact_hf.training.row_screening import ScreeningResult
from compact_hf.training.sampler import build_grouping
from compact_hf.training.sft import LIBRARIES
from compact_hf.training.train import build_job
from compact_hf.training.trained_parts import PROJECTOR


@dataclass(frozen=True, slots=True)
class TrainingForecast:
    """What a training run will take.

    Attributes:
        processes (`int`): as recipe or accelerate's configuration say, else one for each GPU that torch sees.
        rows_per_step (`int`): of all processes, over the accumulation.
        steps (`int`): optimizer steps.
        epochs (`float`): how often each row is seen.
        rows (`int`), dropped (`Mapping[str, int]`): rows to train on, and those left out by reason.
        image_tokens, text_tokens, answer_tokens (`int`): of one epoch; answers are a part of the text.
        padding (`float`): share of an epoch's computed tokens that are padding, 0 to 1.
        train (`str`, *optional*): what `--train` says, with what it leaves open.
        learning_rate (`float`), learning_rates (`Mapping[str, float]`): the parts' own, where they have any.
        projector_learning_rate (`float`, *optional*): the projector's where it has its own.
        dataset_revision (`str`, *optional*): the commit that will be trained on.
        memory (`MemoryEstimate`): for each device, in bytes, with the parameters.
        versions (`Mapping[str, str]`): library -> version.
    """

    processes: int
    rows_per_step: int
    steps: int
    epochs: float
    rows: int
    dropped: Mapping[str, int]
    image_tokens: int
    text_tokens: int
    answer_tokens: int
    padding: float
    train: str | None
    learning_rate: float
    learning_rates: Mapping[str, float]
    projector_learning_rate: float | None
    dataset_revision: str | None
    memory: MemoryEstimate
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types, with the sums."""
        memory = {**asdict(self.memory), "total": self.memory.total}
        return {**asdict(self), "memory": memory}


def dry_run(
    recipe: Path | str,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    projector_learning_rate: float | None = None,
    train: str | None = None,
) -> TrainingForecast:
    """Return what `tune` with the same arguments will take; nothing is trained, and no weights are read.

    Raises:
        UsageError: `train` cannot be read, or names a part that the base's family does not have.
        TuningError: no such recipe, base or dataset.
        HubError: the dataset's revision cannot be found on the Hub.
    """
    job = build_job(
        recipe,
        overrides=overrides,
        revision=revision,
        projector_learning_rate=projector_learning_rate,
        train=train,
    )
    check_recipe_keys(
        {key: value for key, value in job.settings.items() if key not in ExtraArguments.__dataclass_fields__}
    )
    # Whatever the recipe is written for, it is only counted here.
    arguments = ["--config", str(job.recipe), *job.options, "--use_cpu", "true"]
    *parsed, launch_args = make_parser("compact tune").parse_args_and_config(arguments, return_remaining_strings=True)
    args = Arguments(*parsed)
    family, config = check_base(args)
    processor = load_processor(args, family)
    with without_progress_bars():
        screening = screen_with_args(args, load_splits(args)["train"], processor, family)
    return _build_forecast(args, config, screening, read_devices(launch_args))


def read_devices(launch_args: Sequence[str]) -> Devices:
    """Return what accelerate will start, from the settings that go to it."""
    import torch
    import yaml
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    arguments = resolve_accelerate_config_argument(list(launch_args))
    options = dict(zip((argument.removeprefix("--") for argument in arguments[::2]), arguments[1::2], strict=True))
    config = (
        yaml.safe_load(Path(options["config_file"]).read_text(encoding="utf-8")) if "config_file" in options else {}
    )
    processes = int(options.get("num_processes") or config.get("num_processes") or max(1, torch.cuda.device_count()))
    is_zero3 = (config.get("deepspeed_config") or {}).get("zero_stage") == 3
    return Devices(processes, is_sharded=is_zero3 or config.get("distributed_type") == "FSDP" or "use_fsdp" in options)


def _build_forecast(args: Arguments, config: Any, screening: ScreeningResult, devices: Devices) -> TrainingForecast:
    training = args.training
    grouping = build_grouping(training, screening, devices.processes)
    rows, length = grouping.largest_batch
    tokens = sum(screening.lengths)
    steps_per_epoch = grouping.steps_per_epoch
    steps = training.max_steps if training.max_steps > 0 else math.ceil(steps_per_epoch * training.num_train_epochs)
    return TrainingForecast(
        processes=devices.processes,
        rows_per_step=grouping.rows_per_step,
        steps=steps,
        epochs=steps / steps_per_epoch,
        rows=len(screening.kept_indices),
        dropped=screening.dropped_by_reason,
        image_tokens=screening.image_tokens,
        text_tokens=tokens - screening.image_tokens,
        answer_tokens=screening.answer_tokens,
        padding=1 - tokens / sum(count * longest for count, longest in grouping.batch_shapes),
        train=args.extras.train,
        learning_rate=training.learning_rate,
        learning_rates=args.learning_rates,
        projector_learning_rate=args.learning_rates.get(PROJECTOR),
        dataset_revision=args.extras.dataset_revision,
        memory=estimate_memory(config, args, devices, rows=rows, length=length),
        versions={name: version(name) for name in LIBRARIES},
    )
