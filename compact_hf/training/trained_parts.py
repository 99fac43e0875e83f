"""What `compact tune --train` says: the parts of a model that are trained, how, and at which learning rates.

    compact tune llava15-7b-lora --train projector:full@2e-5,language_model:lora@2e-4 ...

Parts are those of the model's family (models/family.py); what is not named is frozen. It stands on the command line,
not in a recipe, as plain `trl sft` has no such setting. Without it the recipe says what is trained, in TRL's words.
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
"""LLaVA's projector is trained at 2e-5 where its LoRA is at 2e-4 (scripts/v1_5/finetune_lora.sh)."""
_PART: Final = re.compile(r"(?P<name>\w+)(?::(?P<method>\w+))?(?:@(?P<rate>[\w.+-]+))?")
_METHODS: Final = ("lora", "full")


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """A part that is trained.

    Attributes:
        name (`str`): of the part in its family.
        method (`str`): `lora`, by an adapter, or `full`, all of its weights.
        learning_rate (`float`, *optional*): its own; without it the training's.
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
    """Read `PART[:lora|:full][@RATE],...`.

    Args:
        text (`str`): the parts in any order. Where none says a method, all are trained in full; beside a LoRA, by the
            recipe or by one of them, the projector is trained in full and the others by LoRA.
        use_peft (`bool`, *optional*, defaults to False): the recipe trains a LoRA.
        learning_rate (`float`, *optional*): the recipe's: a projector in full beside a LoRA has a tenth of it, as in
            LLaVA, unless it has a rate of its own.
        projector_learning_rate (`float`, *optional*): the projector's, if `text` does not say it.

    Returns:
        `tuple[TrainedPart, ...]`: joined by commas, their texts are read back as the same.

    Raises:
        UsageError: it is no such text, or names parts that cannot be trained together.
    """
    matches = [_PART.fullmatch(part.strip()) for part in text.split(",")]
    names = [match["name"] for match in matches if match]
    if None in matches or len(set(names)) < len(names):
        raise UsageError(
            f"cannot read --train {text!r}; give each part once, as PART, PART:lora or PART:full, with @RATE behind it "
            "for a learning rate of its own: projector:full@2e-5,language_model:lora"
        )
    found = [match for match in matches if match]
    has_lora = any(match["method"] == "lora" or (use_peft and not match["method"]) for match in found)
    parts = {match["name"]: _build_part(match, has_lora=has_lora) for match in found}
    has_adapter = any(part.method == "lora" for part in parts.values())
    if has_adapter and LANGUAGE_MODEL in parts and parts[LANGUAGE_MODEL].method == "full":
        raise UsageError(
            f"--train {text!r} trains the language model in full beside a LoRA, which an adapter would have to hold; "
            "train all parts in full, or the language model by LoRA"
        )
    projector = parts.get(PROJECTOR)
    if projector_learning_rate is not None and (projector is None or projector.learning_rate is not None):
        raise UsageError(
            f"--projector-lr is given beside --train {text!r}, which trains no projector or gives it a rate; "
            "leave one out"
        )
    if projector is not None and projector.learning_rate is None:
        rate = projector_learning_rate
        if rate is None and learning_rate is not None and has_adapter and projector.method == "full":
            rate = PROJECTOR_LR_RATIO * learning_rate
        parts[PROJECTOR] = replace(projector, learning_rate=rate)
    return tuple(parts.values())


def _build_part(match: re.Match[str], *, has_lora: bool) -> TrainedPart:
    method = match["method"] or ("lora" if has_lora and match["name"] != PROJECTOR else "full")
    if method not in _METHODS:
        raise UsageError(
            f"got {match[0]!r} in --train; a part is trained by {' or '.join(_METHODS)}{did_you_mean(method, _METHODS)}"
        )
    rate = None
    if match["rate"]:
        try:
            rate = float(match["rate"])
        except ValueError as error:
            raise UsageError(f"got {match[0]!r} in --train; {match['rate']!r} is no learning rate") from error
        if not 0 < rate < 1:
            raise UsageError(f"got the learning rate {rate:g} for {match['name']} in --train; give one between 0 and 1")
    return TrainedPart(match["name"], "lora" if method == "lora" else "full", rate)


def format_train(parts: Sequence[TrainedPart]) -> str:
    """Return the text that `parse_train` reads as these parts."""
    return ",".join(map(str, parts))


def set_peft_args(model_args: Any, parts: Sequence[TrainedPart], family: ModelFamily) -> None:
    """Set TRL's arguments about the adapter; its rank, alpha and dropout stay the recipe's.

    Args:
        model_args (`trl.ModelConfig`): changed in place.
        parts (`Sequence[TrainedPart]`): what is trained.
        family (`ModelFamily`): the model's.

    Raises:
        UsageError: the family has no such part.
    """
    for part in parts:
        if part.name not in family.parts:
            raise UsageError(
                f"{family.label} has no part {part.name!r} to train; it has {', '.join(family.parts)}"
                f"{did_you_mean(part.name, family.parts)}"
            )
    targets = [family.parts[part.name].lora_targets for part in parts if part.method == "lora"]
    saved = [module for part in parts if part.method == "full" for module in family.parts[part.name].modules]
    model_args.use_peft = bool(targets)
    if targets:
        model_args.lora_target_modules = "|".join(f"(?:{target})" for target in targets)
        model_args.lora_modules_to_save = saved or None


def freeze_other_parts(model: Any, parts: Sequence[TrainedPart], family: ModelFamily) -> None:
    """Freeze what is not trained in a model that gets no adapter; PEFT does it where there is one."""
    names = {part.name for part in parts}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.find_part(name) in names)
