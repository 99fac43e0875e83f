"""Defines the identity of a run: all settings that decide the requests.

A run directory stores the identity of its run. A command with the same identity resumes the run; a command with another
identity is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from compact_hf.errors import JournalError
from compact_hf.runs.journal import Journal
from compact_hf.teachers.base import Role

ROLES: Final[tuple[Role, ...]] = ("teacher", "verifier")


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """The settings that decide what a run asks. The journal stores them as one flat JSON object.

    Attributes:
        source (`str`): identity of the image source (`ImageSource.identity`).
        method (`str`): registered name of the method, or `package.module:Class`.
        seed (`int`, *optional*, defaults to 0): random seed.
        teachers (`Mapping[Role, str]`): role -> model that is asked, `NAME:MODEL`.
        shard (`str`, *optional*): `I/N`; None for the whole run.
        settings (`Mapping[str, Any]`, *optional*): the image size and the settings of the method, such as its preset
            and a digest of its prompts; JSON values.
    """

    source: str
    method: str
    seed: int = 0
    teachers: Mapping[Role, str]
    shard: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, journal: Journal) -> Self:
        """Return the identity of the run in a journal.

        Args:
            journal (`Journal`): the journal of a run.

        Raises:
            JournalError: the journal belongs to other work, such as an evaluation, and names no method.
        """
        identity = journal.identity
        if not {"source", "method"} <= identity.keys():
            raise JournalError(
                f"{journal.run} is not a run of `compact generate` (its journal names no method): "
                "give a directory that `compact generate` wrote"
            )
        return cls.from_json(identity)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the identity from the JSON object that `to_json` returned.

        Args:
            data (`Mapping[str, Any]`): the JSON object.
        """
        # What is left after the common keys are the settings of the method.
        settings = dict(data)
        return cls(
            source=settings.pop("source"),
            method=settings.pop("method"),
            seed=settings.pop("seed", 0),
            teachers={role: settings.pop(role) for role in ROLES if role in settings},
            shard=settings.pop("shard", None),
            settings=settings,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the identity as one flat JSON object, as the journal stores it."""
        shard = {} if self.shard is None else {"shard": self.shard}
        names = {str(role): name for role, name in self.teachers.items()}
        common = {"source": self.source, "method": self.method, "seed": self.seed}
        return {**common, **names, **shard, **self.settings}
