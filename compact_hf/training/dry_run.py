"""Forecasts a training run before it starts: steps, tokens, parameters, memory and disk space.

    compact tune llava15-7b-lora --dry-run --dataset_name release --model_name_or_path base

It needs no GPU. Of the base it reads only the configuration and the processor, not the weights. Rows are screened as in
training; `datasets` caches the result, so that training does not repeat it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compact_hf.errors import TuningError
from compact_hf.models.loading import without_progress_bars
from compact_hf.parsing import read_yaml
from compact_hf.training.arguments import (
    Arguments,
    ExtraArguments,
    check_base,
    load_processor,
    load_splits,
    make_parser,
    screen_with_args,
)
from compact_hf.training.disk_space import DiskEstimate, estimate_disk_space
from compact_hf.training.memory import Devices, MemoryEstimate, estimate_memory
from compact_hf.training.recipes import check_recipe_keys
from compact_hf.training.row_screening import ScreeningResult
from compact_hf.training.sampler import build_grouping, count_steps
from compact_hf.training.sft import LIBRARIES
from compact_hf.training.train import build_job
from compact_hf.training.trained_parts import PROJECTOR


@dataclass(frozen=True, slots=True)
class TrainingForecast:
    """Size and cost of a training run, as far as they are known before it starts.

    Attributes:
        processes (`int`): training processes: as set by the recipe or accelerate's configuration, else one per GPU
            that torch sees.
        rows_per_step (`int`): rows per optimizer step, over all processes and accumulated batches.
        steps (`int`): optimizer steps.
        epochs (`float`): number of passes over the rows.
        rows (`int`): rows that are trained on.
        dropped (`Mapping[str, int]`): number of dropped rows by reason.
        image_tokens (`int`): tokens of all images in one epoch.
        text_tokens (`int`): tokens of all texts in one epoch, answers included.
        answer_tokens (`int`): tokens in one epoch that the loss covers.
        padding (`float`): share of padding among the tokens computed in an epoch, 0 to 1.
        train (`str`, *optional*): the value of `--train`, with its defaults filled in.
        learning_rate (`float`): the recipe's learning rate.
        learning_rates (`Mapping[str, float]`): the learning rates of parts that have their own.
        projector_learning_rate (`float`, *optional*): the projector's learning rate, if it has its own.
        dataset_revision (`str`, *optional*): the commit of the dataset that will be trained on.
        memory (`MemoryEstimate`): memory per device, in bytes, and numbers of parameters.
        output_dir (`str`): the directory that the model is written to.
        disk (`DiskEstimate`): largest size of `output_dir`, in bytes, with its parts.
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
    output_dir: str
    disk: DiskEstimate
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types, with the total of the memory estimate."""
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
    """Forecast what `tune` takes with the same arguments, without training or reading weights.

    Args:
        recipe (`Path` or `str`): a YAML file or the name of a shipped recipe.
        overrides (`Mapping[str, str]`, *optional*): settings that replace the recipe's.
        revision (`str`, *optional*): branch, tag or commit of the dataset.
        projector_learning_rate (`float`, *optional*): the projector's own learning rate.
        train (`str`, *optional*): the parts to train, as `parse_train` reads them.

    Returns:
        `TrainingForecast`: the forecast.

    Raises:
        UsageError: if `train` cannot be parsed or names a part that the base's family does not have, or the recipe, the
            base, or the config or split of the dataset does not exist.
        TuningError: if the recipe, the base or the dataset cannot be read.
        HubError: if the dataset's revision cannot be found on the Hub.
    """
    job = build_job(
        recipe,
        overrides=overrides,
        revision=revision,
        projector_learning_rate=projector_learning_rate,
        train=train,
    )
    # `build_job` adds our own arguments to the settings, which TRL does not know.
    check_recipe_keys(
        {key: value for key, value in job.settings.items() if key not in ExtraArguments.__dataclass_fields__}
    )
    # A forecast runs on the CPU even if the recipe trains on GPUs: TRL's parser would refuse bf16 without one.
    arguments = ["--config", str(job.recipe), *job.options, "--use_cpu", "true"]
    # Options that TRL's parser does not know are those of `accelerate launch`.
    *parsed, launch_args = make_parser("compact tune").parse_args_and_config(arguments, return_remaining_strings=True)
    args = Arguments(*parsed)
    family, config = check_base(args)
    processor = load_processor(args, family, config)
    with without_progress_bars():
        screening = screen_with_args(args, load_splits(args)["train"], processor, family)
    return _build_forecast(args, config, screening, read_devices(launch_args))


def read_devices(launch_args: Sequence[str]) -> Devices:
    """Return the processes that accelerate will start, and whether they share the weights.

    Args:
        launch_args (`Sequence[str]`): the options for `accelerate launch`, as pairs of `--key` and value.
    """
    import torch
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    # TRL resolves the names of its accelerate configs, such as fsdp2, to `--config_file PATH`.
    arguments = resolve_accelerate_config_argument(list(launch_args))
    options = dict(zip((argument.removeprefix("--") for argument in arguments[::2]), arguments[1::2], strict=True))
    try:
        config = read_yaml(Path(options["config_file"])) if "config_file" in options else {}
    except (OSError, ValueError) as error:
        raise TuningError(
            f"the accelerate config {options['config_file']} cannot be read ({error}): write it with accelerate config"
        ) from error
    # As in accelerate: options take precedence over the config file; without both, one process per GPU.
    processes = int(options.get("num_processes") or config.get("num_processes") or max(1, torch.cuda.device_count()))
    # Only stage 3 shards the weights. Stages 1 and 2 count as not sharded, which overestimates their memory.
    is_zero3 = (config.get("deepspeed_config") or {}).get("zero_stage") == 3
    return Devices(processes, is_sharded=is_zero3 or config.get("distributed_type") == "FSDP" or "use_fsdp" in options)


def _build_forecast(args: Arguments, config: Any, screening: ScreeningResult, devices: Devices) -> TrainingForecast:
    """Count steps and tokens of the screened rows, and estimate the memory of the largest batch."""
    training = args.training
    grouping = build_grouping(training, screening, devices.processes)
    rows, length = grouping.largest_batch
    tokens = sum(screening.lengths)
    steps_per_epoch = grouping.steps_per_epoch
    steps = count_steps(training, grouping)
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
        # Every batch is padded to its longest row.
        padding=1 - tokens / sum(count * longest for count, longest in grouping.batch_shapes),
        train=args.extras.train,
        learning_rate=training.learning_rate,
        learning_rates=args.learning_rates,
        projector_learning_rate=args.learning_rates.get(PROJECTOR),
        dataset_revision=args.extras.dataset_revision,
        memory=estimate_memory(config, args, devices, rows=rows, length=length),
        output_dir=training.output_dir,
        disk=estimate_disk_space(config, args, steps=steps, steps_per_epoch=steps_per_epoch),
        versions={name: version(name) for name in LIBRARIES},
    )
