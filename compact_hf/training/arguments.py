"""What the training script is told: its arguments in, the base's configuration and processor and the dataset out.

The arguments are TRL's own for `sft`, by TRL's own parser, and three of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.models import loading
from compact_hf.models.family import ModelFamily
from compact_hf.models.registry import family_names, get_family
from compact_hf.training.recipes import read_recipe
from compact_hf.training.row_screening import ScreeningResult, screen_rows
from compact_hf.training.trained_parts import (
    LANGUAGE_MODEL,
    PROJECTOR,
    TrainedPart,
    format_train,
    freeze_other_parts,
    parse_train,
    set_peft_args,
)

_SECRET_KEYS: Final = ("env", "hub_token")


@dataclass
class ExtraArguments:
    """What `compact tune` adds to TRL's arguments, on the command line only: any recipe is TRL's too.

    Attributes:
        dataset_revision (`str`, *optional*): a branch, tag or commit of the repository `dataset_name`.
        projector_learning_rate (`float`, *optional*): the projector's own; without it `learning_rate`.
        train (`str`, *optional*): what is trained, as `parse_train` reads it; without it what the recipe says.
    """

    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of dataset_name"})
    projector_learning_rate: float | None = field(default=None, metadata={"help": "the projector's own learning rate"})
    train: str | None = field(default=None, metadata={"help": "PART[:lora|:full][@RATE],... of the model"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """TRL's arguments by its own dataclasses, and ours."""

    script: Any
    training: Any
    model: Any
    mixture: Any
    extras: ExtraArguments

    @property
    def trained_parts(self) -> tuple[TrainedPart, ...]:
        """What `--train` says, once `check_base` has read it; nothing where the recipe says what is trained."""
        return parse_train(self.extras.train) if self.extras.train else ()

    @property
    def learning_rates(self) -> dict[str, float]:
        """The parts' own learning rates, where they have any."""
        if self.trained_parts:
            return {part.name: part.learning_rate for part in self.trained_parts if part.learning_rate is not None}
        rate = self.extras.projector_learning_rate
        return {} if rate is None else {PROJECTOR: rate}


def make_parser(prog: str) -> Any:
    """Return TRL's parser of `sft`, with the extras."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

    return TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig, ExtraArguments), prog=prog)


def parse_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the recipe's settings with what replaced them on the command line."""
    values_by_option: dict[str, list[str]] = {}
    for argument in (token for raw in arguments for token in (raw.split("=", 1) if raw.startswith("--") else [raw])):
        if argument.startswith("--"):
            values = values_by_option.setdefault(argument.removeprefix("--"), [])
        else:
            values.append(argument)
    recipe = values_by_option.pop("config", None)
    overrides = {name: _parse_scalar(" ".join(values)) if values else True for name, values in values_by_option.items()}
    settings = {**(read_recipe(recipe[0]) if recipe else {}), **overrides}
    return {
        name: value
        for name, value in settings.items()
        if name not in (*ExtraArguments.__dataclass_fields__, *_SECRET_KEYS)
    }


def _parse_scalar(text: str) -> str | int | float | bool:
    """Return a number or a truth value as what it is in YAML."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, int | float) else text


def check_base(args: Arguments) -> tuple[ModelFamily, Any]:
    """Return the base's family and its configuration, without reading weights; have `--train` set what is trained.

    Raises:
        TuningError: it is a model of no registered family, or none.
        UsageError: the family has no such parts as `--train` names.
    """
    name = args.model.model_name_or_path
    families = f"the model families that can be trained are {', '.join(family_names())}"
    try:
        config = loading.load_config(name, revision=args.model.model_revision)
    except (OSError, ValueError) as error:
        raise TuningError(
            f"the base {name} cannot be read ({' '.join(str(error).split())[:200]}); {families}; give a folder or a "
            "repository of one of them, such as `compact base assemble` leaves, or install its family's package"
        ) from error
    family = get_family(config.model_type)
    if not family.parts:
        raise TuningError(
            f"the base {name} is a {config.model_type}, and {families}; give the model_name_or_path of one of them, or "
            "install its family's package"
        )
    if args.extras.train:
        parts = parse_train(
            args.extras.train,
            use_peft=args.model.use_peft,
            learning_rate=args.training.learning_rate,
            projector_learning_rate=args.extras.projector_learning_rate,
        )
        set_peft_args(args.model, parts, family)
        args.extras.train, args.extras.projector_learning_rate = format_train(parts), None
    return family, config


@contextmanager
def translate_shape_errors(name: str, family: ModelFamily) -> Iterator[None]:
    """Say which base it is whose weights are not what its configuration says, while it is loaded.

    Raises:
        TuningError: in the place of transformers' error, which only refers to its report.
    """
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise TuningError(
            f"the base {name} has weights of other shapes than its configuration says (the report above names them); "
            f"{family.base_advice}"
        ) from error


def load_processor(args: Arguments, family: ModelFamily) -> Any:
    """Return the base's processor with the chat template of training.

    Raises:
        TuningError: it cannot be read, or has no template that marks what is to be learnt.
    """
    name, path = args.model.model_name_or_path, args.training.chat_template_path
    try:
        processor = loading.load_processor(name, revision=args.model.model_revision)
        if path:
            processor.chat_template = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TuningError(f"no processor or template for {name}: {' '.join(str(error).split())[:200]}") from error
    if args.training.assistant_only_loss and "generation" not in (processor.chat_template or ""):
        processor.chat_template = family.training_template(processor) if processor.chat_template else None
        if processor.chat_template is None:
            raise TuningError(
                f"the chat template of {name} has no generation marks, so that answers cannot be told from questions; "
                "give one that has as chat_template_path (`compact recipe copy` writes ours)"
            )
    return processor


def load_splits(args: Arguments) -> dict[str, Any]:
    """Return the rows to train on as `train`, and those to evaluate on as `test` where the recipe evaluates.

    Raises:
        TuningError: there is no such dataset, config, split or revision.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from trl import get_dataset

    script, splits = args.script, {"train": args.script.dataset_train_split}
    if args.training.eval_strategy != "no":
        splits["test"] = script.dataset_test_split
    if script.dataset_streaming or args.mixture.streaming:
        raise TuningError("a streamed data set cannot be looked at before the first step; leave out dataset_streaming")
    try:
        if args.mixture.datasets:
            dataset = get_dataset(args.mixture)
        else:
            dataset = load_dataset(script.dataset_name, script.dataset_config, revision=args.extras.dataset_revision)
    except (OSError, ValueError, DatasetsError) as error:
        suffix = f"@{args.extras.dataset_revision}" if args.extras.dataset_revision else ""
        raise TuningError(
            f"the data set {script.dataset_name}{suffix} cannot be loaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    missing = [split for split in splits.values() if split not in dataset]
    if missing:
        raise TuningError(f"the data set {script.dataset_name} has no split {missing[0]!r}, but {', '.join(dataset)}")
    return {name: dataset[split] for name, split in splits.items()}


def get_dataset_version(rows: Any) -> str | None:
    """Return the version that a release's card says, of a folder as of a repository; None where rows have none."""
    version = rows.info.version
    return None if version is None or str(version) == "0.0.0" else str(version)


def screen_with_args(args: Arguments, rows: Any, processor: Any, family: ModelFamily) -> ScreeningResult:
    """Screen rows for these arguments."""
    training = args.training
    parts = args.trained_parts
    return screen_rows(
        rows,
        processor,
        family,
        max_length=training.max_length,
        answers_only=training.assistant_only_loss,
        # Where the language model is frozen, a row without an image has nothing to teach: its loss has no gradient.
        needs_image=bool(parts) and LANGUAGE_MODEL not in {part.name for part in parts},
    )


def load_network(args: Arguments, path: str | None = None) -> Any:
    """Return the model to train, loaded as TRL's script and trainer load it.

    Args:
        args (`Arguments`): of the training script.
        path (`str`, *optional*): a checkpoint of the base trained in full, in the base's place.
    """
    from accelerate import PartialState
    from transformers import set_seed
    from trl import get_quantization_config

    options = {
        "revision": args.model.model_revision,
        "attn_implementation": args.model.attn_implementation,
        "dtype": args.model.dtype,
        "device_map": None if PartialState().device.type in ("cpu", "mps") else "auto",
        **(args.training.model_init_kwargs or {}),
    }
    if args.training.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        options["device_map"] = None  # each process has its own device
    if (quantization := get_quantization_config(args.model)) is not None:
        options["quantization_config"] = quantization
    set_seed(args.training.seed)  # weights that the base lacks are drawn
    network = loading.load_network(path or args.model.model_name_or_path, **options)
    if args.trained_parts and not args.model.use_peft:
        freeze_other_parts(network, args.trained_parts, get_family(network.config.model_type))
    return network
