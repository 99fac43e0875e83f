"""Read the output of a training process: how far it is, and the error that ended it.

A training process ends with one of our own errors in one line, with another one's traceback, or killed. Launchers add
reports of their own, which say nothing.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Final

from compact_hf import errors
from compact_hf.errors import CompactError, StoppedEarly, TuningError, UsageError
from compact_hf.training.checkpoints import last_whole
from compact_hf.training.memory import NEEDED, SMALLER

KILLED: Final = 128 + signal.SIGKILL
"""The launcher's exit status where a training process was killed."""
# The launcher's own "CalledProcessError" follows the training script's error and says nothing.
_TELLING: Final = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?:[\w.]*(?:Error|Exception|Interrupt)\b(?<!CalledProcessError)|.*: error): .+"
)
_USAGE: Final = re.compile(r"^compact tune: error: (.+)")
_OURS: Final = re.compile(r"^(?:\[rank\d+\]: ?)?compact_hf\.errors\.(\w+): (.+)")
_BAR: Final = re.compile(r"\s*\d+%\|.*?\| (\d+)/(\d+) \[")


class Words:
    """What was said that matters: the last line, the line that tells why it ended, and the estimate of memory."""

    def __init__(self) -> None:
        self._last = self._telling = self._needed = ""

    def read(self, line: str) -> None:
        """Take the next line."""
        self._last = line
        if line.startswith(NEEDED):
            self._needed = line.removeprefix(NEEDED)
        # What we say ourselves is clearer than what follows from it.
        if _OURS.match(line) or (_TELLING.match(line) and not _OURS.match(self._telling)):
            self._telling = line

    def error(self, status: int, log: Path | None) -> CompactError:
        """Return what went wrong, in its own class where it is one of ours."""
        if ours := _OURS.match(self._telling):
            kind: type[CompactError] = getattr(errors, ours[1])
            return kind(ours[2])
        if usage := _USAGE.match(self._telling):
            return UsageError(f"{usage[1]}; settings are those of trl sft, as its --help lists them")
        more = f"; all it said is in {log}" if log else ""
        if status == KILLED:
            takes = f"training takes {self._needed}; " if self._needed else ""
            return TuningError(
                "training was killed from outside, as the system does with what takes the last memory: "
                f"{takes}{SMALLER}{more}"
            )
        return TuningError(f"training ended with status {status}: {self._telling or self._last}{more}")

    def stopped(self, output_dir: Path) -> StoppedEarly:
        """Return where it stopped after Ctrl-C."""
        ours = _OURS.match(self._telling)
        if ours and ours[1] == StoppedEarly.__name__:
            return StoppedEarly(ours[2])
        checkpoint = last_whole(output_dir)
        where = f"with the checkpoint {checkpoint}" if checkpoint else "before the first checkpoint"
        return StoppedEarly(f"stopped {where}; the same command goes on")


def steps_in(line: str) -> tuple[int, int] | None:
    """Return how many of how many steps are done, where a line of training's output is its progress bar."""
    found = _BAR.match(line)
    return (int(found[1]), int(found[2])) if found else None
