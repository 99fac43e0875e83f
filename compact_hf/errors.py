"""Defines the exceptions that this package raises on purpose.

    CompactError                     exit 1
    ├── UsageError                   exit 2   the command or the call is wrong
    │   ├── UnknownCapabilityError
    │   ├── SettingsMismatchError             an output directory belongs to a run with other settings
    │   └── ContentsMismatchError             an output directory was started with other contents of its inputs
    ├── StoppedEarly                 exit 3   budget spent or Ctrl-C; the same command resumes
    ├── SourceError                           the image source cannot be read, or has no images
    ├── TeacherError                          the teacher refuses permanently (key, model, request)
    │   ├── TeacherUnavailableError           the teacher cannot be reached, or keeps failing
    │   └── UnusableRepliesError              the teacher answers, but never what was requested
    ├── NothingKeptError                      a run has finished and kept nothing
    ├── JournalError                          the run directory is locked, damaged, full or of another version
    ├── ReleaseError                          a dataset release cannot be written or is not valid
    ├── HubError                              the Hub refuses: token, permissions, name, or an unexpected state
    │   └── HubUnavailableError               the Hub cannot be reached, or keeps failing; the same call resumes
    ├── TuningError                           a recipe, a base model or a training run failed
    └── EvaluationError                       a model or a dataset cannot be evaluated

Each message is one line: what happened, what is allowed, and what to do. Some exceptions also have the details as
attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import takewhile
from typing import ClassVar


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean NAME?` with the most similar allowed name, or an empty string if none is similar."""
    matches = get_close_matches(name, tuple(allowed))
    if not matches:
        return ""
    # Among similar names, prefer the longest common prefix: for lora_rank, lora_r rather than local_rank.
    return f"; did you mean {max(matches, key=lambda candidate: _common_prefix_length(name, candidate))}?"


def _common_prefix_length(a: str, b: str) -> int:
    """Return the length of the common prefix of two strings."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


class CompactError(Exception):
    """Base class of all exceptions of this package. `exit_status` is the exit status of the command line."""

    # 0 is success. 2 is also argparse's status for wrong usage.
    exit_status: ClassVar[int] = 1


class UsageError(CompactError):
    """The command or the call is wrong: an argument has a value that is not allowed, or does not fit the others."""

    exit_status = 2


class UnknownCapabilityError(UsageError):
    """A name is not one of the ten capabilities.

    Attributes:
        name (`str`): the unknown name.
        allowed (`tuple[str, ...]`): the ten capabilities.
    """

    def __init__(self, name: str, allowed: tuple[str, ...]) -> None:
        self.name = name
        self.allowed = allowed
        super().__init__(f"unknown capability {name!r}; the ten are {', '.join(allowed)}{did_you_mean(name, allowed)}")


class SettingsMismatchError(UsageError):
    """An output directory was started with other settings than those given now.

    Attributes:
        run (`str`): the directory.
        differences (`dict[str, tuple[object, object]]`): setting -> its stored and its new value.
    """

    def __init__(self, run: str, differences: dict[str, tuple[object, object]], *, option: str = "--out") -> None:
        self.run = run
        self.differences = differences
        changes = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in differences.items())
        super().__init__(
            f"{run} was started with other settings ({changes}): use those to resume it, or choose another {option}"
        )


class ContentsMismatchError(UsageError):
    """An output directory was started with other contents of a dataset, a model or a file than it has now.

    Attributes:
        run (`str`): the directory.
        changes (`dict[str, str]`): input -> what is different about it.
    """

    def __init__(self, run: str, changes: dict[str, str], *, option: str = "--out", advice: str = "") -> None:
        self.run = run
        self.changes = changes
        inputs = "; ".join(f"{name} ({change})" for name, change in changes.items())
        advice = advice or f"put the earlier contents back to resume it, or choose another {option}"
        super().__init__(f"{run} was started with other contents of {inputs}: {advice}")


class StoppedEarly(CompactError):
    """The run stopped before it was finished. Its work is kept, and the same command resumes it."""

    exit_status = 3


class SourceError(CompactError):
    """An image source cannot be read, or has no images."""


class TeacherError(CompactError):
    """The teacher refuses permanently, so that retrying would not help."""


class TeacherUnavailableError(TeacherError):
    """The teacher cannot be reached, or keeps failing after every retry."""


class UnusableRepliesError(TeacherError):
    """The teacher answers, but none of its replies can be used. Its images are not finished."""


class NothingKeptError(CompactError):
    """A run has finished, and no question was accepted, so that there is nothing to assemble."""


class JournalError(CompactError):
    """A run directory cannot be used: it is locked, damaged or of another version, or its disk is full."""


class ReleaseError(CompactError):
    """A dataset release cannot be written, or is not valid."""


class HubError(CompactError):
    """The Hub refuses a request, or a repository is in an unexpected state."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached, or keeps failing. Finished work is kept, and the same call resumes.

    Attributes:
        retry_after_s (`float`): seconds that the Hub asked to wait, 0 if it did not.
        was_retried (`bool`): whether the request was already repeated for minutes, so that another try is in vain.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0, was_retried: bool = False) -> None:
        self.retry_after_s = retry_after_s
        self.was_retried = was_retried
        super().__init__(message)


class TuningError(CompactError):
    """A recipe, a base model or a training run failed."""


class EvaluationError(CompactError):
    """A model or a dataset cannot be evaluated."""
