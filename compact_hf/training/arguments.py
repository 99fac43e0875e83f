"""What the training script is told: its arguments in, the base's configuration and processor and the data set out.

The arguments are TRL's own for `sft`, by TRL's own parser, and two of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.training.recipes import read_recipe
from compact_hf.training.row_screening import Screened, screen

_SECRET: Final = ("env", "hub_token")


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


@contextmanager
def misfits_told(name: str) -> Iterator[None]:
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
            "assemble it anew with compact base assemble"
        ) from error


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


def version_in(rows: Any) -> str | None:
    """Return the version that a release's card says, of a folder as of a repository; None where rows have none."""
    said = rows.info.version
    return None if said is None or str(said) == "0.0.0" else str(said)


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
