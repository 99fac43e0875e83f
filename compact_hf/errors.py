"""Everything this package raises on purpose.

    CompactError                     exit 1
    ├── UsageError                   exit 2   the command or the call is wrong
    │   ├── UnknownCapabilityError
    │   └── SettingsMismatchError             a run folder belongs to another run
    ├── StoppedEarly                 exit 3   budget or Ctrl-C; the same command goes on
    ├── SourceError                           images cannot be read at all
    ├── TeacherError                          the teacher refuses for good (key, model, request)
    │   └── TeacherUnavailableError           the teacher cannot be reached, or keeps failing
    ├── JournalError                          the run folder is locked, damaged, full or of another version
    ├── ReleaseError                          a release cannot be written or is not valid
    ├── HubError                              the Hub refuses: token, rights, name, or another state than expected
    │   └── HubUnavailableError               the Hub cannot be reached, or keeps failing; the same call goes on
    ├── TuningError                           a recipe, a base or a training run
    └── EvaluationError                       a model or a dataset cannot be judged

Each message is one line that says what was got, what is allowed, and what to do next. Attributes carry the
parts for those who catch them.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import takewhile
from typing import ClassVar


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the nearest allowed name, empty where none is near."""
    matches = get_close_matches(name, tuple(allowed))
    if not matches:
        return ""
    # Of several, the one that begins alike: lora_rank is nearer to lora_r than to local_rank.
    return f"; did you mean {max(matches, key=lambda candidate: _common_prefix_length(name, candidate))}?"


def _common_prefix_length(a: str, b: str) -> int:
    """Return how many letters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


class CompactError(Exception):
    """Base of the tree. `exit_status` is what the command line ends with."""

    exit_status: ClassVar[int] = 1


class UsageError(CompactError):
    """The command or the call cannot be carried out as given."""

    exit_status = 2


class UnknownCapabilityError(UsageError):
    """A capability name is not one of the ten."""

    def __init__(self, name: str, allowed: tuple[str, ...]) -> None:
        self.name = name
        self.allowed = allowed
        super().__init__(f"unknown capability {name!r}; the ten are {', '.join(allowed)}{did_you_mean(name, allowed)}")


class SettingsMismatchError(UsageError):
    """The run folder was started with other settings than the ones asked for now."""

    def __init__(self, run: str, differences: dict[str, tuple[object, object]], *, option: str = "--out") -> None:
        self.run = run
        self.differences = differences
        changes = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in differences.items())
        super().__init__(
            f"{run} holds another run ({changes}); give these again to go on with it, or choose another {option}"
        )


class StoppedEarly(CompactError):
    """The run ended before its work did, with nothing lost; the same command goes on."""

    exit_status = 3


class SourceError(CompactError):
    """The place where images should come from cannot be read, or holds none."""


class TeacherError(CompactError):
    """The teacher refuses for good: asking again would change nothing."""


class TeacherUnavailableError(TeacherError):
    """The teacher cannot be reached, or keeps failing after every retry."""


class JournalError(CompactError):
    """The run folder cannot be used: locked, damaged, full, or of another version."""


class ReleaseError(CompactError):
    """A release cannot be written, or what stands there is not a valid one."""


class HubError(CompactError):
    """The Hub refuses what was asked of it, or a repository is in another state than expected."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached, or keeps failing; nothing is lost, and the same call goes on.

    `retry_after_s` is how many seconds it asked to wait, 0 where it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TuningError(CompactError):
    """A recipe, a base model or a training run failed."""


class EvaluationError(CompactError):
    """A model or a dataset cannot be judged."""
