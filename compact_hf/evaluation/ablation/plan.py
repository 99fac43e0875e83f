"""Reads and checks ablation plans, from a YAML file or by the name of a shipped plan.

    compact ablate k-range --show > mine.yaml

Paths in a plan are relative to the current directory, like those on the command line.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compact_hf.config import read_config
from compact_hf.errors import UsageError, did_you_mean
from compact_hf.methods.compact.selection import Selection

_SUFFIX: Final = ".yaml"
# Directories are named after variants: a letter or digit, so that they are not hidden, then also `.`, `_` and `-`.
_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Settings that `run_unit` sets for each unit.
_RESERVED_SETTINGS: Final = ("model_name_or_path", "dataset_name", "output_dir", "seed")

Count = Annotated[int, Field(ge=1)]


class Variant(BaseModel):
    """One variant of an ablation: a selection of the run's questions.

    Attributes:
        k (`tuple[int, ...]`): as in `Selection`.
        without (`tuple[str, ...]`): as in `Selection`.
        k_shares (`dict[int, float]`): as in `Selection`.
        questions (`int`, *optional*): as in `Selection`.
        conversations (`int`, *optional*): as in `Selection`.
        instruction_fraction (`float`, *optional*): fraction of the plan's instruction file to mix in, above 0 and up to
            1; without it, no instruction rows are added.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    k_shares: dict[int, float] = {}
    questions: int | None = None
    conversations: int | None = None
    instruction_fraction: float | None = Field(default=None, gt=0, le=1)

    def selection(self, seed: int) -> Selection:
        """Return the selection of questions for a seed.

        Raises:
            UsageError: a number is out of range, or two settings exclude each other.
        """
        return Selection(self.k, self.without, self.k_shares, self.questions, self.conversations, seed)


class Plan(BaseModel):
    """An ablation: one model is tuned on each variant of a run's data with each seed, and all answer one dataset.

    Attributes:
        runs (`tuple[str, ...]`): directories of runs made by `compact generate`; either these or `scenes` is given.
        scenes (`int`, *optional*): number of scenes to draw and ask about, offline, with k of 1, 2 and 3 and seed 0.
        max_similarity (`float`): as for `compact assemble`; drawn scenes need 1, because their wording repeats.
        instruction (`str`, *optional*): a file of conversations for the instruction part, as for `assemble`.
        image_root (`str`, *optional*): directory that the image paths in `instruction` are relative to.
        base (`str`): the model to start from: a directory, a repository, or `aligned` for the tiny LLaVA in this
            package.
        recipe (`str`): name of a shipped recipe, or a recipe file.
        settings (`dict[str, str | bool | int | float]`): settings that override those of the recipe; names are those of
            `trl sft`.
        seeds (`tuple[int, ...]`): each seed is used for the selection of questions and for training.
        dataset (`str`): the dataset that all models are evaluated on, as for `compact evaluate`.
        split (`str`, *optional*): its split, as for `compact evaluate`.
        baseline (`str`): the variant that the others are compared with.
        variants (`dict[str, Variant]`): name -> variant, in the order of the table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: tuple[str, ...] = ()
    scenes: Count | None = None
    max_similarity: float = Field(default=0.9, ge=0, le=1)
    instruction: str | None = None
    image_root: str | None = None
    base: str
    recipe: str
    settings: dict[str, str | bool | int | float] = {}
    seeds: tuple[int, ...] = Field(min_length=1)
    dataset: str
    split: str | None = None
    baseline: str
    variants: dict[str, Variant] = Field(min_length=2)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        """Check the rules that involve more than one field."""
        if bool(self.runs) == (self.scenes is not None):
            raise ValueError("give either `runs`, directories made by compact generate, or `scenes`, a number")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed in `seeds` twice; list each seed once")
        if invalid_names := [name for name in self.variants if not _NAME_PATTERN.fullmatch(name)]:
            raise ValueError(
                f"{invalid_names[0]!r} is not a valid variant name; directories are named after variants, so use only "
                "letters, digits, '.', '_' and '-'"
            )
        if self.baseline not in self.variants:
            raise ValueError(f"the baseline {self.baseline!r} is not one of the variants {', '.join(self.variants)}")
        if reserved_keys := [key for key in _RESERVED_SETTINGS if key in self.settings]:
            raise ValueError(f"the setting {reserved_keys[0]} is set by the ablation; remove it")
        if not self.instruction and any(variant.instruction_fraction for variant in self.variants.values()):
            raise ValueError("an instruction_fraction needs the plan's `instruction`, a file of conversations")
        return self

    def overrides(self) -> dict[str, str]:
        """Return the settings in the form that `tune` expects: strings, with `true` and `false` in lower case."""
        # str(True) is `True`, but YAML and the command line write `true`.
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in self.settings.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, without fields that have their default value."""
        # Without default values, a field that a later version adds does not change the identity of existing ablations.
        return self.model_dump(mode="json", exclude_defaults=True)


def plan_names() -> tuple[str, ...]:
    """Return the names of the shipped plans, sorted: the files' names without `.yaml`."""
    return tuple(sorted(path.stem for path in _plans_directory().glob(f"*{_SUFFIX}")))


def find_plan(plan: Path | str) -> Path:
    """Return the path of a plan, given a file or the name of a shipped plan.

    Raises:
        UsageError: neither a file nor a shipped plan with this name was found.
    """
    path = Path(plan)
    if path.is_file():
        return path
    shipped_path = _plans_directory() / f"{path.name}{_SUFFIX}"
    # Only a bare name can be that of a shipped plan, not a path such as mine/k-range.
    if path.name == str(plan) and shipped_path.is_file():
        return shipped_path
    suggestion = did_you_mean(path.name, plan_names())
    raise UsageError(f"no plan {str(plan)!r}: give a YAML file or one of {', '.join(plan_names())}{suggestion}")


def read_plan(plan: Path | str) -> Plan:
    """Return a plan after checking it.

    Raises:
        UsageError: the plan was not found, or a value in it is missing, unknown, invalid or inconsistent with others.
    """
    path = find_plan(plan)
    loaded_plan = read_config(path, Plan, example="k-range")
    for name, variant in loaded_plan.variants.items():
        try:
            # Ranges and exclusions are checked by `Selection`; they do not depend on the seed.
            variant.selection(loaded_plan.seeds[0])
        except UsageError as error:
            raise UsageError(f"{path}: variant {name}: {error}") from error
    return loaded_plan


def _plans_directory() -> Path:
    return Path(str(files("compact_hf.evaluation.ablation") / "plans"))
