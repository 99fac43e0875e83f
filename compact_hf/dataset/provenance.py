"""How a release came about: in go the runs that it is made of, out come who was asked, how often, when, and the price.

Everything is read from the runs' journals and nothing from the clock, so that the same journals always tell the same.
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
"""Of any run's identity, what may be published: not its source, which may be a path. A method may name others."""

# Of an absolute path all but its last part, at the start or behind `openai:`.
_DIRECTORY_PREFIX: Final = re.compile(r"(^|:)(?:[A-Za-z]:)?[/\\~](?:.*[/\\])?")


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Who was asked in one role, over all runs.

    Attributes:
        role (`str`): `teacher` or `verifier`.
        name (`str`): as the run was told it, `NAME[:MODEL]`; of a path its last part.
        versions (`tuple[str, ...]`): the models that answered, as they named themselves, sorted.
        requests, input_tokens, output_tokens (`int`): what was answered, and the tokens as billed.
        cost (`float`, *optional*): USD, at list prices on the days of the replies; None where nobody knows them.
        price_source (`str`): where the prices are from, such as `genai-prices 0.2.3` or `runs here`; empty without any.
    """

    role: Role
    name: str
    versions: tuple[str, ...]
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    price_source: str

    @property
    def backend(self) -> str:
        """The first part of the name, such as `gemini`."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a release came about.

    Attributes:
        model_usage (`tuple[ModelUsage, ...]`): teachers first.
        first_day, last_day (`str`): of the replies, `YYYY-MM-DD` in UTC; empty where nobody replied.
        images, kept_images (`int`): how many were finished, and how many of them kept questions.
        settings (`dict[str, tuple[str, ...]]`): name -> its values in the runs, sorted; for those of `PUBLIC_SETTINGS`.
        selection_phrases (`tuple[str, ...]`): which part of it was taken on purpose, a phrase each; empty where all
            was.
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
        """USD of all requests together, None where a part of it is not known."""
        costs = [usage.cost for usage in self.model_usage if usage.cost is not None]
        return math.fsum(costs) if len(costs) == len(self.model_usage) else None


@dataclass(slots=True)
class _UsageSums:
    """What is added up for one role and name."""

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
            math.fsum(costs) if len(costs) == len(self.usages) else None,
            next((usage.price.source for usage in self.usages if usage.price is not None), ""),
        )


def read_provenance(runs: Sequence[Path]) -> Provenance:
    """Return how what lies in the runs came about.

    Args:
        runs (`Sequence[Path]`): run folders, or folders that hold the shards of one run.

    Raises:
        JournalError: one of the folders is not a run, or cannot be read.
    """
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
    """Return a model's name without folders: a server may call a model by the path from which it has read it."""
    return _DIRECTORY_PREFIX.sub(r"\1", name)
