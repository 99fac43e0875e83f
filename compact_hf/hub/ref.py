"""Parses references to repositories on the Hub: `org/name` or `org/name@revision`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

REPO_ID: Final = r"\w[\w.-]*/\w[\w.-]*"
"""Names of repositories as a regular expression. A name without an owner, such as `gpt2`, does not match."""
COMMIT_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A complete commit hash. It has 64 digits in a repository whose git uses SHA-256."""
_REPO_REF: Final = re.compile(rf"(?P<repo_id>{REPO_ID})(?:@(?P<revision>\S+))?")


@dataclass(frozen=True, slots=True)
class RepoRef:
    """A repository on the Hub at a revision.

    Attributes:
        repo_id (`str`): `org/name`.
        revision (`str`, *optional*): a branch, a tag or a commit; None for the main branch.
    """

    repo_id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `org/name[@revision]`; return None for text of any other form, such as a path.

        Args:
            text (`str`): the reference.
        """
        match = _REPO_REF.fullmatch(text)
        return cls(match["repo_id"], match["revision"]) if match else None

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


def page_url(repo_id: str, *, kind: str = "") -> str:
    """Return the URL of a repository's page on the Hub that HF_ENDPOINT names.

    Args:
        repo_id (`str`): `namespace/name`.
        kind (`str`, *optional*, defaults to that of models): `datasets` or `spaces`.
    """
    from huggingface_hub import constants

    return "/".join(filter(None, (constants.ENDPOINT, kind, repo_id)))


def other_endpoint() -> str:
    """Return the URL in HF_ENDPOINT, or an empty string if the Hub is that of Hugging Face."""
    from huggingface_hub import constants

    return "" if constants.ENDPOINT == "https://huggingface.co" else constants.ENDPOINT
