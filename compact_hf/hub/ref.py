"""A repository on the Hub at a revision, as people write it: `org/name` or `org/name@revision`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

REPO_ID: Final = r"\w[\w.-]*/\w[\w.-]*"
"""What the Hub takes for a repository's name, as a regular expression. A name without an owner is none: `gpt2`."""
_REPO_REF: Final = re.compile(rf"(?P<repo_id>{REPO_ID})(?:@(?P<revision>\S+))?")


@dataclass(frozen=True, slots=True)
class RepoRef:
    """A repository at a revision.

    Attributes:
        repo_id (`str`): `org/name`.
        revision (`str`, *optional*): a branch, a tag or a commit; None for the main branch.
    """

    repo_id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the repository that `text` names, or None: it has another form, such as that of a path."""
        match = _REPO_REF.fullmatch(text)
        return cls(match["repo_id"], match["revision"]) if match else None

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id
