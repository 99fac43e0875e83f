"""What the command line says on stderr: lines, progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

_EVERY_S: Final = 10.0
"""Seconds between the lines that stand for a progress bar where stderr is no terminal."""


def say(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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

    def show(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done, with a short note beside."""
        if sys.stderr.isatty():
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
