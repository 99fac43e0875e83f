"""Parses the arguments of the training script, and loads the configuration, processor, dataset and model they name.

The arguments are those of `trl sft`, parsed by TRL's own parser, and three that `compact tune` adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError, did_you_mean
from compact_hf.hub.cache import find_cached_dataset
from compact_hf.hub.errors import describe_wrong_name
from compact_hf.hub.ref import RepoRef
from compact_hf.models import loading
from compact_hf.models.chat_template import check_chat_templates
from compact_hf.models.family import ModelFamily
from compact_hf.models.loading import LOAD_ERRORS, first_line
from compact_hf.models.registry import family_names, get_family
from compact_hf.parsing import parse_yaml
from compact_hf.regular_files import check_regular_files, read_regular_text
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
from compact_hf.wording import format_command

_SECRET_KEYS: Final = ("env", "hub_token")


@dataclass
class ExtraArguments:
    """Arguments that `compact tune` adds to TRL's, on the command line only, so that plain `trl sft` takes any recipe.

    Attributes:
        dataset_revision (`str`, *optional*): a branch, tag or commit of the repository `dataset_name`.
        projector_learning_rate (`float`, *optional*, defaults to `learning_rate`): the projector's learning rate.
        train (`str`, *optional*): the parts to train, as `parse_train` reads them; by default the recipe decides.
    """

    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of dataset_name"})
    projector_learning_rate: float | None = field(default=None, metadata={"help": "the projector's own learning rate"})
    train: str | None = field(default=None, metadata={"help": "PART[:lora|:full][@RATE],... of the model"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """All arguments of the training script.

    Attributes:
        script (`trl.ScriptArguments`): dataset and splits.
        training (`trl.SFTConfig`): settings of the trainer.
        model (`trl.ModelConfig`): base, quantization and adapter.
        mixture (`trl.DatasetMixtureConfig`): several datasets, if the recipe has `datasets`.
        extras (`ExtraArguments`): the arguments that `compact tune` adds.
    """

    script: Any
    training: Any
    model: Any
    mixture: Any
    extras: ExtraArguments

    @property
    def trained_parts(self) -> tuple[TrainedPart, ...]:
        """The parts of `--train`, valid after `check_base`; empty if the recipe decides what is trained."""
        return parse_train(self.extras.train) if self.extras.train else ()

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rates of the parts that have their own, by the part's name."""
        if self.trained_parts:
            return {part.name: part.learning_rate for part in self.trained_parts if part.learning_rate is not None}
        rate = self.extras.projector_learning_rate
        return {} if rate is None else {PROJECTOR: rate}


def make_parser(prog: str) -> Any:
    """Return TRL's parser for `sft`, extended by `ExtraArguments`.

    Args:
        prog (`str`): the program name in usage errors.
    """
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

    return TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig, ExtraArguments), prog=prog)


def parse_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the recipe's settings with the command line's overrides applied, without secrets.

    Args:
        arguments (`Sequence[str]`): the command line of the training script.
    """
    # An option is written `--name value`, `--name=value`, `--name a b` (a list) or `--name` (a flag).
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
    """Return a number or boolean in YAML's syntax as that type, other text unchanged."""
    try:
        value = parse_yaml(text)
    except ValueError:
        return text
    # YAML also reads nulls, dates and lists, which stay text here; a bool is an int.
    return value if isinstance(value, int | float) else text


def check_base(args: Arguments) -> tuple[ModelFamily, Any]:
    """Return the base's family and configuration, without reading weights.

    Args:
        args (`Arguments`): changed in place: `--train` is applied, and the base's revision becomes its commit.

    Raises:
        TuningError: if the base cannot be read or needs code of its own, or does not belong to a registered family.
        UsageError: if the base is an adapter or was not found, or the family does not have a part that `--train` names.
    """
    name = args.model.model_name_or_path
    if args.training.trust_remote_code or (args.training.model_init_kwargs or {}).get("trust_remote_code"):
        raise TuningError(
            "the recipe sets trust_remote_code, but compact tune runs no code of models: leave it out, and use a model "
            "of an architecture that transformers or an installed model family contains"
        )
    families = f"model families that can be trained: {', '.join(family_names())}"
    try:
        config = loading.load_config(name, revision=args.model.model_revision)
    except LOAD_ERRORS as error:
        if loading.is_adapter(Path(name)):
            merge = format_command("compact", "adapter", "merge", name, "--out", "DIR")
            raise UsageError(
                f"the base {name} is an adapter: merge it ({merge}), and give the merged model as --model_name_or_path"
            ) from error
        if not Path(name).exists() and RepoRef.parse(name) is None and "/" in name:
            raise UsageError(
                f"the base {name} was not found: there is no such directory, and it is not the name of a repository; "
                "give another --model_name_or_path"
            ) from error
        raise TuningError(
            f"the base {name} cannot be read ({' '.join(str(error).split())[:200]}): give the directory or repository "
            "of a model, such as `compact base assemble` writes, as --model_name_or_path, or install its family's "
            f"package; {families}"
        ) from error
    # From here on, processor and weights come from the same commit, even if the revision moves.
    args.model.model_revision = loading.find_commit(name, revision=args.model.model_revision)
    family = get_family(config.model_type)
    if not family.parts:
        raise TuningError(
            f"the base {name} is of an unknown family, {config.model_type}: give another model_name_or_path, or "
            f"install its family's package; {families}"
        )
    if args.extras.train:
        parts = parse_train(
            args.extras.train,
            use_peft=args.model.use_peft,
            learning_rate=args.training.learning_rate,
            projector_learning_rate=args.extras.projector_learning_rate,
        )
        set_peft_args(args.model, parts, family)
        # `train` now contains all methods and rates, so that it can be parsed again without the recipe's settings.
        args.extras.train, args.extras.projector_learning_rate = format_train(parts), None
    return family, config


@contextmanager
def translate_shape_errors(name: str, family: ModelFamily) -> Iterator[None]:
    """Replace transformers' error about mismatched weight shapes by one that names the base and what to do.

    Args:
        name (`str`): the base that is loaded inside the block.
        family (`ModelFamily`): the base's family.

    Raises:
        TuningError: if the weights do not have the shapes of the configuration.
    """
    try:
        yield
    except RuntimeError as error:
        # transformers names this option only in its error about shapes; other errors are raised unchanged.
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise TuningError(
            f"the base {name} has weights of other shapes than its configuration (the report above lists them): "
            f"{family.base_advice}"
        ) from error


def load_processor(args: Arguments, family: ModelFamily, config: Any) -> Any:
    """Return the base's processor with the chat template for training.

    Args:
        args (`Arguments`): arguments of the training script.
        family (`ModelFamily`): the base's family, which may have a training template.
        config (`PreTrainedConfig`): the base's configuration, from which an incomplete processor is completed.

    Raises:
        TuningError: if processor or template cannot be read, or answers have to be marked and no template does so.
    """
    name, path = args.model.model_name_or_path, args.training.chat_template_path
    try:
        processor = loading.load_processor(name, config, revision=args.model.model_revision)
        if path:
            processor.chat_template = read_regular_text(path)
            check_chat_templates(processor)
    except LOAD_ERRORS as error:
        raise TuningError(
            f"the processor or chat template of {name} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error
    # TRL finds the answers through the template's `{% generation %}` blocks.
    if args.training.assistant_only_loss and "generation" not in (processor.chat_template or ""):
        processor.chat_template = family.training_template(processor) if processor.chat_template else None
        if processor.chat_template is None:
            raise TuningError(
                f"the chat template of {name} has no generation marks, which separate answers from questions: "
                "give a template with them as chat_template_path (`compact recipe copy` writes one)"
            )
    return processor


def load_splits(args: Arguments) -> dict[str, Any]:
    """Return the rows to train on as `train`, and, if the recipe evaluates, those to evaluate on as `test`.

    Args:
        args (`Arguments`): arguments of the training script.

    Raises:
        UsageError: if the dataset has no such config or split.
        TuningError: if the dataset or its revision was not found, or it is streamed.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants
    from trl import get_dataset

    script, splits = args.script, {"train": args.script.dataset_train_split}
    if args.training.eval_strategy != "no":
        splits["test"] = script.dataset_test_split
    if script.dataset_streaming or args.mixture.streaming:
        raise TuningError("a streamed dataset cannot be screened before the first step: leave out dataset_streaming")
    try:
        # A directory among the names; `os.walk` finds nothing in the name of a repository.
        for name in (script.dataset_name, *(part.path for part in args.mixture.datasets or ())):
            if name:
                check_regular_files(name)
        if args.mixture.datasets:
            dataset = get_dataset(args.mixture)
        elif args.extras.dataset_revision and constants.is_offline_mode():
            # Offline, `load_dataset` ignores the revision.
            dataset = find_cached_dataset(script.dataset_name, args.extras.dataset_revision).load(script.dataset_config)
        else:
            # Not TRL's loading, which takes no revision of `dataset_name`.
            dataset = load_dataset(script.dataset_name, script.dataset_config, revision=args.extras.dataset_revision)
    except (OSError, ValueError, RecursionError, DatasetsError) as error:
        suffix = f"@{args.extras.dataset_revision}" if args.extras.dataset_revision else ""
        reason = describe_wrong_name(error, config_option="--dataset_config", split_option="--dataset_train_split")
        if reason is not None:
            raise UsageError(f"the dataset {_name_data(args)}{suffix} {reason}") from error
        raise TuningError(
            f"the dataset {_name_data(args)}{suffix} cannot be loaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    for name, split in splits.items():
        if split not in dataset:
            purpose, advice = ("to evaluate on", ", or --eval_strategy no") if name == "test" else ("to train on", "")
            raise UsageError(
                f"the dataset {_name_data(args)} has no split {split!r} {purpose} (it has {', '.join(dataset)}): "
                f"choose one with --dataset_{name}_split{advice}{did_you_mean(split, dataset)}"
            )
    return {name: dataset[split] for name, split in splits.items()}


def _name_data(args: Arguments) -> str:
    return args.script.dataset_name or ", ".join(str(part.path) for part in args.mixture.datasets)


def get_dataset_version(rows: Any) -> str | None:
    """Return the version in the card of the release that rows were loaded from; None if there is none.

    Args:
        rows (`datasets.Dataset`): of a directory or a repository.
    """
    version = rows.info.version
    # `datasets` uses 0.0.0 for data without a version.
    return None if version is None or str(version) == "0.0.0" else str(version)


def screen_with_args(args: Arguments, rows: Any, processor: Any, family: ModelFamily) -> ScreeningResult:
    """Screen rows with the settings of training.

    Args:
        args (`Arguments`): arguments of the training script, after `check_base`.
        rows (`datasets.Dataset`): one split.
        processor (`ProcessorMixin`): with the chat template for training.
        family (`ModelFamily`): the base's family.

    Raises:
        TuningError: as `screen_rows`.
    """
    training = args.training
    parts = args.trained_parts
    return screen_rows(
        rows,
        processor,
        family,
        max_length=training.max_length,
        answers_only=training.assistant_only_loss,
        # If the language model is frozen, a row without an image trains nothing: its loss has no gradient.
        needs_image=bool(parts) and LANGUAGE_MODEL not in {part.name for part in parts},
    )


def load_network(args: Arguments, path: str | None = None) -> Any:
    """Return the model to train, loaded in the same way as TRL's script and trainer do.

    Args:
        args (`Arguments`): arguments of the training script.
        path (`str`, *optional*, defaults to the base): a checkpoint of full training to load instead of the base.

    Raises:
        TuningError: if files are missing or not those of a model, or weights are not finite.
        RuntimeError: if the weights do not fit into memory, or have other shapes than the configuration.
    """
    from accelerate import PartialState
    from transformers import set_seed
    from trl import get_quantization_config

    options = {
        "revision": args.model.model_revision,
        "attn_implementation": args.model.attn_implementation,
        "dtype": args.model.dtype,
        "device_map": None if PartialState().device.type in ("cpu", "mps") else "auto",
        **(args.training.model_init_kwargs or {}),  # the recipe's own arguments take precedence
    }
    if args.training.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        options["device_map"] = None  # each process has its own device
    if (quantization := get_quantization_config(args.model)) is not None:
        options["quantization_config"] = quantization
    set_seed(args.training.seed)  # weights that the base lacks are initialized at random
    name = path or args.model.model_name_or_path
    try:
        network = loading.load_network(name, **options)
    except RuntimeError:  # no memory, or weights of other shapes: callers translate both
        raise
    except LOAD_ERRORS as error:
        advice = "; remove that checkpoint to resume from an earlier one" if path else ""
        raise TuningError(f"the model {name} cannot be loaded: {first_line(error)}{advice}") from error
    if args.trained_parts and not args.model.use_peft:
        freeze_other_parts(network, args.trained_parts, get_family(network.config.model_type))
    return network
