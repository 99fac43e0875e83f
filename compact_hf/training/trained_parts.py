"""Parses `compact tune --train`: which parts of a model are trained, by which method, and at which learning rates.

    compact tune llava15-7b-lora --train projector:full@2e-5,language_model:lora@2e-4 ...

The model's family defines the parts (models/family.py); parts that are not named are frozen. `--train` is a command
line option and not a recipe key, because plain `trl sft` has no such setting. Without it, TRL's settings in the recipe
decide what is trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from compact_hf.errors import UsageError, did_you_mean
from compact_hf.models.family import ModelFamily

LANGUAGE_MODEL: Final = "language_model"
PROJECTOR: Final = "projector"
PROJECTOR_LR_RATIO: Final = 0.1
"""LLaVA trains its projector at 2e-5 and its LoRA at 2e-4 (scripts/v1_5/finetune_lora.sh)."""
# NAME, then optionally :METHOD and @RATE; method and rate are checked later, for better messages.
_PART: Final = re.compile(r"(?P<name>\w+)(?::(?P<method>\w+))?(?:@(?P<rate>[\w.+-]+))?")
_METHODS: Final = ("lora", "full")


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """A part of the model that is trained.

    Attributes:
        name (`str`): the part's name in the model family.
        method (`str`): `lora` trains an adapter, `full` trains all weights of the part.
        learning_rate (`float`, *optional*, defaults to the recipe's): the part's own learning rate.
    """

    name: str
    method: Literal["lora", "full"]
    learning_rate: float | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.method}" + ("" if self.learning_rate is None else f"@{self.learning_rate!r}")


def parse_train(
    text: str,
    *,
    use_peft: bool = False,
    learning_rate: float | None = None,
    projector_learning_rate: float | None = None,
) -> tuple[TrainedPart, ...]:
    """Parse `PART[:lora|:full][@RATE],...`.

    Args:
        text (`str`): the parts in any order. A part without a method is trained in full, unless a LoRA is trained (by
            the recipe, or by a part with `:lora`): then the projector is trained in full and other parts by LoRA.
        use_peft (`bool`, *optional*, defaults to False): whether the recipe trains a LoRA.
        learning_rate (`float`, *optional*): the recipe's learning rate. A projector that is trained in full together
            with a LoRA gets a tenth of it, as in LLaVA, unless it has its own.
        projector_learning_rate (`float`, *optional*): the projector's learning rate, if `text` does not give one.

    Returns:
        `tuple[TrainedPart, ...]`: the trained parts; `format_train` turns them back into text.

    Raises:
        UsageError: if the text cannot be parsed, or names parts that cannot be trained together.
    """
    matches = [_PART.fullmatch(part.strip()) for part in text.split(",")]
    names = [match["name"] for match in matches if match]
    if None in matches or len(set(names)) < len(names):
        raise UsageError(
            f"--train {text!r} cannot be parsed: give each part once, as PART, PART:lora or PART:full, optionally "
            "followed by @RATE for its own learning rate, such as projector:full@2e-5,language_model:lora"
        )
    found = [match for match in matches if match]
    # One LoRA changes the default method of all parts, so it has to be known before any part is built.
    has_lora = any(match["method"] == "lora" or (use_peft and not match["method"]) for match in found)
    parts = {match["name"]: _build_part(match, has_lora=has_lora) for match in found}
    has_adapter = any(part.method == "lora" for part in parts.values())
    if has_adapter and LANGUAGE_MODEL in parts and parts[LANGUAGE_MODEL].method == "full":
        raise UsageError(
            f"--train {text!r} trains the language model in full together with a LoRA, so that the adapter would "
            "have to hold the whole model: train all parts in full, or the language model by LoRA"
        )
    projector = parts.get(PROJECTOR)
    if projector_learning_rate is not None and (projector is None or projector.learning_rate is not None):
        raise UsageError(
            f"--projector-lr conflicts with --train {text!r}, which trains no projector or gives it a learning rate: "
            "leave out one of the two"
        )
    # In order of precedence: the part's own @RATE, --projector-lr, LLaVA's ratio to the recipe's rate.
    if projector is not None and projector.learning_rate is None:
        rate = projector_learning_rate
        if rate is None and learning_rate is not None and has_adapter and projector.method == "full":
            rate = PROJECTOR_LR_RATIO * learning_rate
        parts[PROJECTOR] = replace(projector, learning_rate=rate)
    return tuple(parts.values())


def _build_part(match: re.Match[str], *, has_lora: bool) -> TrainedPart:
    """Return the part of one `PART[:METHOD][@RATE]`; `has_lora` decides the default method."""
    method = match["method"] or ("lora" if has_lora and match["name"] != PROJECTOR else "full")
    if method not in _METHODS:
        raise UsageError(
            f"--train has {match[0]!r} with an unknown method: use {' or '.join(_METHODS)}"
            f"{did_you_mean(method, _METHODS)}"
        )
    rate = None
    if match["rate"]:
        try:
            rate = float(match["rate"])
        except ValueError as error:
            raise UsageError(
                f"--train has {match[0]!r}, and {match['rate']!r} is not a number: give a learning rate such as 2e-5"
            ) from error
        if not 0 < rate < 1:
            raise UsageError(f"--train has the learning rate {rate:g} for {match['name']}: give one between 0 and 1")
    return TrainedPart(match["name"], "lora" if method == "lora" else "full", rate)


def format_train(parts: Sequence[TrainedPart]) -> str:
    """Return the parts as the text that `parse_train` reads.

    Args:
        parts (`Sequence[TrainedPart]`): the trained parts.
    """
    return ",".join(map(str, parts))


def set_peft_args(model_args: Any, parts: Sequence[TrainedPart], family: ModelFamily) -> None:
    """Set the modules that TRL adapts and saves; rank, alpha and dropout of the adapter stay the recipe's.

    Args:
        model_args (`trl.ModelConfig`): changed in place.
        parts (`Sequence[TrainedPart]`): the trained parts.
        family (`ModelFamily`): the model's family.

    Raises:
        UsageError: if the family does not have one of the parts.
    """
    for part in parts:
        if part.name not in family.parts:
            raise UsageError(
                f"{family.label} has no part {part.name!r} to train: choose from {', '.join(family.parts)}"
                f"{did_you_mean(part.name, family.parts)}"
            )
    # LoRA adapts the targets; `saved` modules are trained as whole copies and stored with the adapter.
    targets = [family.parts[part.name].lora_targets for part in parts if part.method == "lora"]
    saved = [module for part in parts if part.method == "full" for module in family.parts[part.name].modules]
    # Without a target, all trained parts are trained in full, and `freeze_other_parts` freezes the rest.
    model_args.use_peft = bool(targets)
    if targets:
        # PEFT takes one regular expression for all parts.
        model_args.lora_target_modules = "|".join(f"(?:{target})" for target in targets)
        model_args.lora_modules_to_save = saved or None


def freeze_other_parts(model: Any, parts: Sequence[TrainedPart], family: ModelFamily) -> None:
    """Freeze all other parts of a model without an adapter; with an adapter, PEFT does this.

    Args:
        model (`PreTrainedModel`): changed in place.
        parts (`Sequence[TrainedPart]`): the parts that stay trainable.
        family (`ModelFamily`): the model's family.
    """
    names = {part.name for part in parts}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.find_part(name) in names)
