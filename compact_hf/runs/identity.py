"""A run's identity: all that decides what is asked. The same identity in the same directory resumes the run."""

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
    """What decides what a run asks. In the journal it is one flat JSON object.

    Attributes:
        source (`str`): the images' `ImageSource.identity`.
        method (`str`): a registered name or `package.module:Class`.
        seed (`int`): decides every draw.
        teachers (`Mapping[Role, str]`): role -> who is asked, `NAME:MODEL`.
        shard (`str | None`): `I/N`, None for all of the run.
        settings (`Mapping[str, Any]`): the image size and what the method adds, such as its preset and a digest of its
            prompts; JSON values.
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

        Raises:
            JournalError: it is the journal of something else, such as of questions to a model that is evaluated.
        """
        identity = journal.identity
        if not {"source", "method"} <= identity.keys():
            raise JournalError(
                f"{journal.run} is not a run of generate (its journal names no method); give one that is"
            )
        return cls.from_json(identity)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the identity that `to_json` gave."""
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
        """Return the identity as it is journalled."""
        shard = {} if self.shard is None else {"shard": self.shard}
        names = {str(role): name for role, name in self.teachers.items()}
        common = {"source": self.source, "method": self.method, "seed": self.seed}
        return {**common, **names, **shard, **self.settings}
