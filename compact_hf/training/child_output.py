"""Reads the output of a training process: its progress, and the error that ended it.

A failed training process ends in one of three ways: with one of our own errors on one line, with the traceback of
another error, or killed by a signal. Launchers add reports of their own, which say nothing about the cause.
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
"""The launcher's exit status if a training process was killed."""
# The launcher's own "CalledProcessError" follows the training script's error and says nothing.
_ERROR_LINE: Final = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?:[\w.]*(?:Error|Exception|Interrupt)\b(?<!CalledProcessError)|.*: error): .+"
)
_USAGE_ERROR: Final = re.compile(r"^compact tune: error: (.+)")
_OWN_ERROR: Final = re.compile(r"^(?:\[rank\d+\]: ?)?compact_hf\.errors\.(\w+): (.+)")
_PROGRESS_BAR: Final = re.compile(r"\s*\d+%\|.*?\| (\d+)/(\d+) \[")


class ChildOutput:
    """Keeps the lines of the output that explain a failure: the last one, the error, and the memory estimate."""

    def __init__(self) -> None:
        self._last_line = self._error_line = self._memory_estimate = ""

    def add_line(self, line: str) -> None:
        """Read the next line of output.

        Args:
            line (`str`): without its line end.
        """
        self._last_line = line
        if line.startswith(ESTIMATE_PREFIX):
            self._memory_estimate = line.removeprefix(ESTIMATE_PREFIX)
        # One of our own errors explains more than the errors that follow from it, so these do not replace it.
        if _OWN_ERROR.match(line) or (_ERROR_LINE.match(line) and not _OWN_ERROR.match(self._error_line)):
            self._error_line = line

    def build_error(self, status: int, log: Path | None) -> CompactError:
        """Return the error that ended training: one of our own in its own class, any other as a `TuningError`.

        Args:
            status (`int`): exit status of the launcher.
            log (`Path`, *optional*): the file with the whole output, which the message names.
        """
        if own_error := _OWN_ERROR.match(self._error_line):
            error_class: type[CompactError] = getattr(errors, own_error[1])
            return error_class(own_error[2])
        if usage_error := _USAGE_ERROR.match(self._error_line):
            return UsageError(f"{usage_error[1]}; settings are those of trl sft: see trl sft --help")
        log_hint = f"; full output: {log}" if log else ""
        if status == KILLED_STATUS:
            memory_hint = f"training takes {self._memory_estimate}; " if self._memory_estimate else ""
            return TuningError(
                "training was killed from outside, probably by the system because memory ran out: "
                f"{memory_hint}{SMALLER_BATCH_ADVICE}{log_hint}"
            )
        return TuningError(f"training ended with status {status}: {self._error_line or self._last_line}{log_hint}")

    def build_stop_error(self, output_dir: Path) -> StoppedEarly:
        """Return the error for a run that Ctrl-C stopped; the message names the checkpoint it can resume from.

        Args:
            output_dir (`Path`): the run's output directory.
        """
        own_error = _OWN_ERROR.match(self._error_line)
        if own_error and own_error[1] == StoppedEarly.__name__:
            return StoppedEarly(own_error[2])
        checkpoint = find_last_checkpoint(output_dir)
        position = f"with the checkpoint {checkpoint}" if checkpoint else "before the first checkpoint"
        return StoppedEarly(f"stopped {position}; run the same command again to resume")


def is_own_error(line: str) -> bool:
    """Return whether a line is one of our own errors, from which `ChildOutput.build_error` builds the same error.

    Args:
        line (`str`): one line of a training process's output.
    """
    return _OWN_ERROR.match(line) is not None


def parse_progress(line: str) -> tuple[int, int] | None:
    """Return (steps done, total steps) if a line of output is the progress bar, else None.

    Args:
        line (`str`): one line of a training process's output.
    """
    match = _PROGRESS_BAR.match(line)
    return (int(match[1]), int(match[2])) if match else None
