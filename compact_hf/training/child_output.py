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
from compact_hf.training.checkpoints import find_last_checkpoint
from compact_hf.training.memory import ESTIMATE_PREFIX, SMALLER_BATCH_ADVICE

KILLED_STATUS: Final = 128 + signal.SIGKILL
"""The launcher's exit status where a training process was killed."""
# The launcher's own "CalledProcessError" follows the training script's error and says nothing.
_ERROR_LINE: Final = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?:[\w.]*(?:Error|Exception|Interrupt)\b(?<!CalledProcessError)|.*: error): .+"
)
_USAGE_ERROR: Final = re.compile(r"^compact tune: error: (.+)")
_OWN_ERROR: Final = re.compile(r"^(?:\[rank\d+\]: ?)?compact_hf\.errors\.(\w+): (.+)")
_PROGRESS_BAR: Final = re.compile(r"\s*\d+%\|.*?\| (\d+)/(\d+) \[")


class ChildOutput:
    """What was said that matters: the last line, the line that tells why it ended, and the estimate of memory."""

    def __init__(self) -> None:
        self._last_line = self._error_line = self._memory_estimate = ""

    def add_line(self, line: str) -> None:
        """Take the next line."""
        self._last_line = line
        if line.startswith(ESTIMATE_PREFIX):
            self._memory_estimate = line.removeprefix(ESTIMATE_PREFIX)
        # What we say ourselves is clearer than what follows from it.
        if _OWN_ERROR.match(line) or (_ERROR_LINE.match(line) and not _OWN_ERROR.match(self._error_line)):
            self._error_line = line

    def build_error(self, status: int, log: Path | None) -> CompactError:
        """Return what went wrong, in its own class where it is one of ours."""
        if own_error := _OWN_ERROR.match(self._error_line):
            error_class: type[CompactError] = getattr(errors, own_error[1])
            return error_class(own_error[2])
        if usage_error := _USAGE_ERROR.match(self._error_line):
            return UsageError(f"{usage_error[1]}; settings are those of trl sft, as its --help lists them")
        log_hint = f"; all it said is in {log}" if log else ""
        if status == KILLED_STATUS:
            memory_hint = f"training takes {self._memory_estimate}; " if self._memory_estimate else ""
            return TuningError(
                "training was killed from outside, as the system does with what takes the last memory: "
                f"{memory_hint}{SMALLER_BATCH_ADVICE}{log_hint}"
            )
        return TuningError(f"training ended with status {status}: {self._error_line or self._last_line}{log_hint}")

    def build_stop_error(self, output_dir: Path) -> StoppedEarly:
        """Return where it stopped after Ctrl-C."""
        own_error = _OWN_ERROR.match(self._error_line)
        if own_error and own_error[1] == StoppedEarly.__name__:
            return StoppedEarly(own_error[2])
        checkpoint = find_last_checkpoint(output_dir)
        position = f"with the checkpoint {checkpoint}" if checkpoint else "before the first checkpoint"
        return StoppedEarly(f"stopped {position}; the same command goes on")


def parse_progress(line: str) -> tuple[int, int] | None:
    """Return how many of how many steps are done, where a line of training's output is its progress bar."""
    match = _PROGRESS_BAR.match(line)
    return (int(match[1]), int(match[2])) if match else None
