"""Reads the provenance of a release from its runs: which models were asked, how often, when, and at what cost.

Everything is read from the journals of the runs and nothing from the clock, so the same journals always give the same
result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from compact_hf.methods.registry import get_method
from compact_hf.runs.identity import ROLES, RunIdentity
from compact_hf.runs.journal import Journal, TokenUsage
from compact_hf.runs.shards import find_runs
from compact_hf.runs.usage import RoleUsage, usage_by_role
from compact_hf.teachers.base import Role

PUBLIC_SETTINGS: Final = ("method", "preset", "k", "seed", "max_edge", "prompts")
"""Settings of a run's identity that may be published; methods add their own. The image source may be a private path."""

# All but the last part of an absolute path, at the start of a name or after a prefix such as `openai:`.
_DIRECTORY_PREFIX: Final = re.compile(r"(^|:)(?:[A-Za-z]:)?[/\\~](?:.*[/\\])?")


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The use of one model in one role, summed over all runs.

    Attributes:
        role (`str`): `teacher` or `verifier`.
        name (`str`): the model as given to the run, `NAME[:MODEL]`; of a path only the last part.
        versions (`tuple[str, ...]`): sorted names of the models that answered, as reported in their replies.
        requests (`int`): number of billed requests, whether their replies could be used or not.
        input_tokens (`int`): billed input tokens.
        output_tokens (`int`): billed output tokens.
        cost (`float`, *optional*): USD, at list prices on the days of the replies; None if a price is unknown.
        price_source (`str`): source of the prices, such as `genai-prices 0.2.3` or `runs here`; empty if unknown.
        estimated (`int`): number of these requests whose tokens are estimated.
    """

    role: Role
    name: str
    versions: tuple[str, ...]
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    price_source: str
    estimated: int

    @property
    def backend(self) -> str:
        """The first part of the name, such as `gemini`."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the rows of a release were made.

    Attributes:
        model_usage (`tuple[ModelUsage, ...]`): the models that were used, teachers first.
        first_day (`str`): day of the first reply, `YYYY-MM-DD` in UTC; empty if there are no replies.
        last_day (`str`): day of the last reply, likewise.
        images (`int`): number of images that were finished.
        kept_images (`int`): number of these images that have accepted questions.
        settings (`dict[str, tuple[str, ...]]`): the sorted values of each public setting in the runs.
        selection_phrases (`tuple[str, ...]`): phrases that describe the selected part of the data; empty if all of it
            was taken.
    """

    model_usage: tuple[ModelUsage, ...]
    first_day: str
    last_day: str
    images: int
    kept_images: int
    settings: dict[str, tuple[str, ...]]
    selection_phrases: tuple[str, ...] = ()

    @property
    def cost(self) -> float | None:
        """Cost of all requests in USD, or None if a part of it is unknown."""
        costs = [usage.cost for usage in self.model_usage if usage.cost is not None]
        return math.fsum(costs) if len(costs) == len(self.model_usage) else None


@dataclass(slots=True)
class _UsageSums:
    """Usage that is added up for one role and model name."""

    usages: list[RoleUsage] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    def to_model_usage(self, role: Role, name: str) -> ModelUsage:
        costs = [usage.cost for usage in self.usages if usage.cost is not None]
        return ModelUsage(
            role,
            _strip_directories(name),
            tuple(sorted(map(_strip_directories, self.versions))),
            sum(usage.requests for usage in self.usages),
            sum(usage.input_tokens for usage in self.usages),
            sum(usage.output_tokens for usage in self.usages),
            # `fsum` is exact, so that the sum does not depend on the order of the runs.
            math.fsum(costs) if len(costs) == len(self.usages) else None,
            next((usage.price.source for usage in self.usages if usage.price is not None), ""),
            sum(usage.estimated for usage in self.usages),
        )


def read_provenance(runs: Sequence[Path]) -> Provenance:
    """Read how the data in the runs was made.

    Args:
        runs (`Sequence[Path]`): run directories, or directories that contain the shards of a run.

    Returns:
        The provenance, summed over all runs.

    Raises:
        JournalError: one of the directories is not a run, or cannot be read.
    """
    # Runs may differ in their models and settings, so all are collected: one sum per role and model, a set per setting.
    sums: dict[tuple[Role, str], _UsageSums] = {}
    settings: dict[str, set[str]] = {}
    days: set[str] = set()
    finished = kept_images = 0
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.read(directory)) for run in runs for directory in find_runs(run)]
        for journal in journals:
            identity, spending = journal.identity, journal.usage()
            run_identity = RunIdentity.from_json(identity)
            for role, usage in usage_by_role(spending, run_identity.teachers).items():
                role_sums = sums.setdefault((role, usage.teacher), _UsageSums())
                role_sums.usages.append(usage)
                role_sums.versions |= _model_versions(spending, role)
            for name in (*PUBLIC_SETTINGS, *get_method(run_identity.method).public_settings):
                if name in identity:
                    settings.setdefault(name, set()).add(_format_setting(identity[name]))
            days |= {record.day for record in spending}
            finished, kept_images = finished + journal.counts()[0], kept_images + journal.counts()[1]
    ordered_keys = sorted(sums, key=lambda key: (ROLES.index(key[0]), key[1]))
    return Provenance(
        tuple(sums[key].to_model_usage(*key) for key in ordered_keys),
        # Days are YYYY-MM-DD, so their order as text is their order in time.
        min(days, default=""),
        max(days, default=""),
        finished,
        kept_images,
        {
            name: tuple(sorted(settings[name]))
            for name in dict.fromkeys((*PUBLIC_SETTINGS, *settings))
            if name in settings
        },
    )


def _model_versions(spending: Iterable[TokenUsage], role: Role) -> set[str]:
    return {record.model for record in spending if record.role == role and record.model}


def _format_setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _strip_directories(name: str) -> str:
    """Return a model's name without directories: some servers name a model by the path of its files."""
    return _DIRECTORY_PREFIX.sub(r"\1", name)
