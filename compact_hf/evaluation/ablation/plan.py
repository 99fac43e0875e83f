"""Plans of ablations: a YAML file or a shipped plan's name in, a checked `Plan` out.

    compact ablate k-range --show > mine.yaml

Paths in a plan start from the current folder, as those on the command line do.
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
_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED_SETTINGS: Final = ("model_name_or_path", "dataset_name", "output_dir", "seed")

Count = Annotated[int, Field(ge=1)]


class Variant(BaseModel):
    """One arm: a selection of the run's questions.

    Attributes:
        k, without, k_shares, questions, conversations: as in `Selection`.
        instruction_fraction (`float`, *optional*): the share of the plan's instruction file that is mixed in; none
            without it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    k_shares: dict[int, float] = {}
    questions: int | None = None
    conversations: int | None = None
    instruction_fraction: float | None = Field(default=None, gt=0, le=1)

    def selection(self, seed: int) -> Selection:
        """Return what to select with a seed.

        Raises:
            UsageError: a number is out of range, or two of them say the same thing.
        """
        return Selection(self.k, self.without, self.k_shares, self.questions, self.conversations, seed)


class Plan(BaseModel):
    """An ablation: one run, variants of its data, one model tuned on each with each seed, one data set to judge by.

    Attributes:
        runs (`list[str]`): run folders that `compact generate` made, or
        scenes (`int`): how many scenes to draw and ask about instead, offline: k of 1, 2 and 3, seed 0.
        max_similarity (`float`): as for `compact assemble`; drawn scenes, whose wording repeats, need 1.
        instruction, image_root (`str`, *optional*): a file in LLaVA's format for the instruction part, and where its
            image paths start.
        base (`str`): the model to start from: a folder, a repository, or `aligned`, the tiny one that comes along.
        recipe (`str`): a shipped recipe's name or a file.
        settings (`dict[str, Any]`): what replaces the recipe's settings, as `trl sft` takes them.
        seeds (`list[int]`): each decides the draw of the questions and all of training.
        dataset (`str`), split (`str`, *optional*): what all models are asked, as for `compact evaluate`.
        baseline (`str`): the variant that the others are compared with.
        variants (`dict[str, Variant]`): in the order of the table.
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
        if bool(self.runs) == (self.scenes is not None):
            raise ValueError("give either `runs`, folders that compact generate made, or `scenes`, a number")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands in `seeds` twice")
        if invalid_names := [name for name in self.variants if not _NAME_PATTERN.fullmatch(name)]:
            raise ValueError(
                f"{invalid_names[0]!r} is no variant's name; folders are called so: letters, digits, '.', '_', '-'"
            )
        if self.baseline not in self.variants:
            raise ValueError(f"the baseline {self.baseline!r} is none of {', '.join(self.variants)}")
        if reserved_keys := [key for key in _RESERVED_SETTINGS if key in self.settings]:
            raise ValueError(f"the setting {reserved_keys[0]} is the ablation's own; leave it out")
        if not self.instruction and any(variant.instruction_fraction for variant in self.variants.values()):
            raise ValueError("an instruction_fraction needs the plan's `instruction`, a JSON list in LLaVA's format")
        return self

    def overrides(self) -> dict[str, str]:
        """Return the settings as `tune` takes them."""
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in self.settings.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types, without what says nothing."""
        return self.model_dump(mode="json", exclude_defaults=True)


def plan_names() -> tuple[str, ...]:
    """Return the names of the shipped plans, sorted: the files' names without `.yaml`."""
    return tuple(sorted(path.stem for path in _plans_directory().glob(f"*{_SUFFIX}")))


def find_plan(plan: Path | str) -> Path:
    """Return where a plan stands: a file of the caller's, or a shipped plan by its name.

    Raises:
        UsageError: there is no such file, and no shipped plan has this name.
    """
    path = Path(plan)
    if path.is_file():
        return path
    shipped_path = _plans_directory() / f"{path.name}{_SUFFIX}"
    if path.name == str(plan) and shipped_path.is_file():
        return shipped_path
    suggestion = did_you_mean(path.name, plan_names())
    raise UsageError(f"no plan {str(plan)!r}: give a YAML file or one of {', '.join(plan_names())}{suggestion}")


def read_plan(plan: Path | str) -> Plan:
    """Read and check a plan.

    Raises:
        UsageError: there is no such plan, or something in it is missing, unknown, wrong, or at odds with the rest.
    """
    path = find_plan(plan)
    loaded_plan = read_config(path, Plan, example="k-range")
    for name, variant in loaded_plan.variants.items():
        try:
            variant.selection(loaded_plan.seeds[0])
        except UsageError as error:
            raise UsageError(f"{path}: variant {name}: {error}") from error
    return loaded_plan


def _plans_directory() -> Path:
    return Path(str(files("compact_hf.evaluation.ablation") / "plans"))
