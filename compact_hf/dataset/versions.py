"""Which version may follow which: in go a version and what changed since, out comes the lowest version that says so.

The rule, as the card states it: a higher major version where code that loads the one before may fail (a column is gone,
new or of another type; a config or a split is gone); a higher minor one where the same code loads other rows; a higher
patch where it loads the very same pictures and messages. So a takedown is minor, not major: what loaded before still
loads. It is no patch either, so that two results on 1.2.0 and 1.2.1 may be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

Step = Literal["major", "minor", "patch"]

_NUMBERS: Final = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


class Version(NamedTuple):
    """Three numbers that compare as versions do."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """As the Hub's tags are called."""
        return f"v{self}"


def version_of(text: str) -> Version | None:
    """Return the version that `X.Y.Z` or `vX.Y.Z` names, None for any other text."""
    match = _NUMBERS.fullmatch(text)
    return Version(*map(int, match.groups())) if match else None


def highest(tags: Iterable[str]) -> Version | None:
    """Return the highest version among tags, None where none of them is one; tags without `v` are not ours."""
    return max((found for tag in tags if tag[:1] == "v" and (found := version_of(tag))), default=None)


def lowest_after(version: Version, step: Step) -> Version:
    """Return the lowest version that may follow `version` where a change takes this step.

    >>> str(lowest_after(Version(1, 2, 3), "minor"))
    '1.3.0'
    """
    match step:
        case "major":
            return Version(version.major + 1, 0, 0)
        case "minor":
            return Version(version.major, version.minor + 1, 0)
        case "patch":
            return Version(version.major, version.minor, version.patch + 1)
