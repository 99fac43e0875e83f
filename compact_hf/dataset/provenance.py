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

from compact_hf.methods.compact.status import ROLES, Spent, spent_by_role
from compact_hf.runs.journal import Journal, Spending
from compact_hf.runs.shards import runs_in
from compact_hf.teachers.base import Role

SETTINGS: Final = ("method", "preset", "k", "seed", "max_edge", "prompts")
"""Of a run's identity, what may be published: not its source, which may be a path."""

# Of an absolute path all but its last part, at the start or behind `openai:`.
_FOLDERS: Final = re.compile(r"(^|:)(?:[A-Za-z]:)?[/\\~](?:.*[/\\])?")


@dataclass(frozen=True, slots=True)
class Asked:
    """Who was asked in one role, over all runs.

    Attributes:
        role (`str`): `teacher` or `verifier`.
        name (`str`): as the run was told it, `NAME[:MODEL]`; of a path its last part.
        versions (`tuple[str, ...]`): the models that answered, as they named themselves, sorted.
        requests, input_tokens, output_tokens (`int`): what was answered, and the tokens as billed.
        cost (`float`, *optional*): USD, at list prices on the days of the replies; None where nobody knows them.
        prices (`str`): where the prices are from, such as `genai-prices 0.2.3` or `runs here`; empty without any.
    """

    role: Role
    name: str
    versions: tuple[str, ...]
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    prices: str

    @property
    def backend(self) -> str:
        """The first part of the name: gemini, gemini-batch, openai, local or scenes."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Making:
    """How a release came about.

    Attributes:
        asked (`tuple[Asked, ...]`): teachers first.
        first_day, last_day (`str`): of the replies, `YYYY-MM-DD` in UTC; empty where nobody replied.
        pictures, kept (`int`): how many were finished, and how many of them kept questions.
        settings (`dict[str, tuple[str, ...]]`): name -> its values in the runs, sorted; for those of `SETTINGS`.
        selected (`tuple[str, ...]`): which part of it was taken on purpose, a phrase each; empty where all was.
    """

    asked: tuple[Asked, ...]
    first_day: str
    last_day: str
    pictures: int
    kept: int
    settings: dict[str, tuple[str, ...]]
    selected: tuple[str, ...] = ()

    @property
    def cost(self) -> float | None:
        """USD of all requests together, None where a part of it is not known."""
        costs = [one.cost for one in self.asked if one.cost is not None]
        return math.fsum(costs) if len(costs) == len(self.asked) else None


@dataclass(slots=True)
class _Sums:
    """What is added up for one role and name."""

    spent: list[Spent] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    def asked(self, role: Role, name: str) -> Asked:
        costs = [one.cost for one in self.spent if one.cost is not None]
        return Asked(
            role,
            _public(name),
            tuple(sorted(map(_public, self.versions))),
            sum(one.requests for one in self.spent),
            sum(one.input_tokens for one in self.spent),
            sum(one.output_tokens for one in self.spent),
            math.fsum(costs) if len(costs) == len(self.spent) else None,
            next((one.price.source for one in self.spent if one.price is not None), ""),
        )


def making_of(runs: Sequence[Path]) -> Making:
    """Return how what lies in the runs came about.

    Args:
        runs (`Sequence[Path]`): run folders, or folders that hold the shards of one run.

    Raises:
        JournalError: one of the folders is not a run, or cannot be read.
    """
    sums: dict[tuple[Role, str], _Sums] = {}
    settings: dict[str, set[str]] = {}
    days: set[str] = set()
    finished = kept = 0
    with ExitStack() as opened:
        journals = [opened.enter_context(Journal.read(folder)) for run in runs for folder in runs_in(run)]
        for journal in journals:
            identity, counted = journal.identity, journal.spending()
            for role, spent in spent_by_role(counted, identity).items():
                of = sums.setdefault((role, spent.teacher), _Sums())
                of.spent.append(spent)
                of.versions |= _versions(counted, role)
            for name in SETTINGS:
                if name in identity:
                    settings.setdefault(name, set()).add(_told(identity[name]))
            days |= {one.day for one in counted}
            finished, kept = finished + journal.counts()[0], kept + journal.counts()[1]
    in_order = sorted(sums, key=lambda key: (ROLES.index(key[0]), key[1]))
    return Making(
        tuple(sums[key].asked(*key) for key in in_order),
        min(days, default=""),
        max(days, default=""),
        finished,
        kept,
        {name: tuple(sorted(settings[name])) for name in SETTINGS if name in settings},
    )


def _versions(counted: Iterable[Spending], role: Role) -> set[str]:
    return {one.model for one in counted if one.role == role and one.model}


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _public(name: str) -> str:
    """Return a model's name without folders: a server may call a model by the path from which it has read it."""
    return _FOLDERS.sub(r"\1", name)
