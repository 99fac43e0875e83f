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
    Extras,
    load,
    make_parser,
    processor_of,
    refuse_other_bases,
    screen_as,
)
from compact_hf.training.memory import Devices, Memory, estimate
from compact_hf.training.recipes import refuse_unknown_keys
from compact_hf.training.row_screening import Screened
from compact_hf.training.sampler import grouping_of
from compact_hf.training.sft import LIBRARIES
from compact_hf.training.train import job_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training run will take.

    Attributes:
        processes (`int`): as recipe or accelerate's configuration say, else one for each GPU that torch sees.
        rows_per_step (`int`): of all processes, over the accumulation.
        steps (`int`): optimizer steps.
        epochs (`float`): how often each row is seen.
        rows (`int`), dropped (`Mapping[str, int]`): rows to train on, and those left out by reason.
        image_tokens, text_tokens, answer_tokens (`int`): of one epoch; answers are a part of the text.
        padding (`float`): share of an epoch's computed tokens that are padding, 0 to 1.
        learning_rate (`float`), projector_learning_rate (`float`, *optional*): the projector's where it has its own.
        dataset_revision (`str`, *optional*): the commit that will be trained on.
        memory (`Memory`): for each device, in bytes, with the parameters.
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
    learning_rate: float
    projector_learning_rate: float | None
    dataset_revision: str | None
    memory: Memory
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
) -> Plan:
    """Return what `tune` with the same arguments will take; nothing is trained, and no weights are read.

    Raises:
        TuningError: no such recipe, base or data set.
        HubError: the data set's revision cannot be found on the Hub.
    """
    job = job_of(recipe, overrides=overrides, revision=revision, projector_learning_rate=projector_learning_rate)
    refuse_unknown_keys({key: value for key, value in job.settings.items() if key not in Extras.__dataclass_fields__})
    # Whatever the recipe is written for, it is only counted here.
    given = ["--config", str(job.recipe), *job.options, "--use_cpu", "true"]
    *parsed, launch = make_parser("compact tune").parse_args_and_config(given, return_remaining_strings=True)
    told = Arguments(*parsed)
    config, processor = refuse_other_bases(told.model.model_name_or_path, told.model.model_revision), processor_of(told)
    with without_progress_bars():
        screened = screen_as(told, load(told)["train"], processor)
    return _plan(told, config, screened, devices_of(launch))


def devices_of(launch: Sequence[str]) -> Devices:
    """Return what accelerate will start, from the settings that go to it."""
    import torch
    import yaml
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    words = resolve_accelerate_config_argument(list(launch))
    told = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    file = yaml.safe_load(Path(told["config_file"]).read_text(encoding="utf-8")) if "config_file" in told else {}
    processes = int(told.get("num_processes") or file.get("num_processes") or max(1, torch.cuda.device_count()))
    zero3 = (file.get("deepspeed_config") or {}).get("zero_stage") == 3
    return Devices(processes, sharded=zero3 or file.get("distributed_type") == "FSDP" or "use_fsdp" in told)


def _plan(told: Arguments, config: Any, screened: Screened, devices: Devices) -> Plan:
    training = told.training
    grouping = grouping_of(training, screened, devices.processes)
    rows, length = grouping.largest
    tokens = sum(screened.lengths)
    image_tokens = sum(screened.pictured) * screened.picture_tokens
    in_epoch = grouping.steps_per_epoch
    steps = training.max_steps if training.max_steps > 0 else math.ceil(in_epoch * training.num_train_epochs)
    return Plan(
        processes=devices.processes,
        rows_per_step=grouping.step_size,
        steps=steps,
        epochs=steps / in_epoch,
        rows=len(screened.kept),
        dropped=screened.reasons,
        image_tokens=image_tokens,
        text_tokens=tokens - image_tokens,
        answer_tokens=screened.answer_tokens,
        padding=1 - tokens / sum(count * longest for count, longest in grouping.computed),
        learning_rate=training.learning_rate,
        projector_learning_rate=told.extras.projector_learning_rate,
        dataset_revision=told.extras.dataset_revision,
        memory=estimate(config, told, devices, rows=rows, length=length),
        versions={name: version(name) for name in LIBRARIES},
    )
