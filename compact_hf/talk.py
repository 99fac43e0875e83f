"""What the command line says on stderr: lines, progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, Final, Self, TextIO

_EVERY_S: Final = 10.0
"""Seconds between the lines that stand for a progress bar where stderr is no terminal."""


def say(text: str) -> None:
    """Write one line to stderr. Where nobody listens any more, the work goes on all the same."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        except OSError:
            silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Send what is left for a stream nowhere, or Python complains about it at its end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class Bar:
    """Progress on long work: a bar on a terminal, elsewhere a line at most every ten seconds and one at the end.

    Args:
        label (`str`): what is being done.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._said_at = time.monotonic()
        self._said = ""
        self._noted_at = -_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def note(self, text: str) -> None:
        """Say one line above the bar, unless another was said in the last ten seconds."""
        if time.monotonic() - self._noted_at < _EVERY_S:
            return
        self._noted_at = time.monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            say(text)

    def show(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done, with a short note beside."""
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw(done, total, note)
            return
        line = f"{self._label}: {done} of {total}{', ' if note else ''}{note}"
        due = time.monotonic() - self._said_at >= _EVERY_S or done == total
        if due and line != self._said:
            say(line)
            self._said_at, self._said = time.monotonic(), line

    def _draw(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._label, total=total, file=sys.stderr, initial=done, dynamic_ncols=True)
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
