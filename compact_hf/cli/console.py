"""Prints data to stdout, and messages and progress to stderr; control characters in them are escaped.

Progress is a bar if stderr is a terminal, otherwise a line at most every ten seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TextIO

from compact_hf.errors import CompactError
from compact_hf.escaping import escape_controls, escape_line
from compact_hf.reports.table import Table

_LOG_INTERVAL_S: Final = 10.0
"""Seconds between progress lines, and between warnings, if stderr is not a terminal."""


def log(text: str) -> None:
    """Write one line to stderr. If its reader has closed it, later messages are discarded and the work continues."""
    # None if the process was started with stderr closed.
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{escape_line(text)}\n")
            sys.stderr.flush()
        except OSError:
            silence(sys.stderr)


def configure_hub_progress_bars() -> None:
    """Disable the progress bars of huggingface_hub if stderr is not a terminal."""
    # On use: most commands do not need huggingface_hub.
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()


def silence(stream: TextIO) -> None:
    """Redirect a closed stream to the null device, so that Python's flush at exit does not fail."""
    with open(os.devnull, "wb") as devnull:
        # On the level of file descriptors, because Python flushes the stream object at exit.
        os.dup2(devnull.fileno(), stream.fileno())


def print_data(text: str) -> None:
    """Write data to stdout, usually one line; a line end is added.

    Raises:
        CompactError: stdout is closed, or cannot be written.
        BrokenPipeError: the reader of stdout has closed it.
    """
    if sys.stdout is None:
        raise CompactError("stdout is closed, so the result cannot be printed: run the command with stdout open")
    encoding = sys.stdout.encoding or "utf-8"
    with _translate_stdout_errors():
        # Questions and file names may have characters outside stdout's encoding: print those as escapes.
        sys.stdout.write(escape_controls(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def print_json(value: Any) -> None:
    """Write a value to stdout as JSON, in ASCII, so that the output is the same in every encoding."""
    # json leaves one control character as it is, and `print_data` would escape it in a way that is not JSON.
    print_data(json.dumps(value, indent=2, sort_keys=True).replace("\x7f", r"\u007f"))


def flush_data() -> None:
    """Flush stdout while an error can still be reported. Raises the same errors as `print_data`."""
    if sys.stdout is not None:
        with _translate_stdout_errors():
            sys.stdout.flush()


@contextlib.contextmanager
def _translate_stdout_errors() -> Iterator[None]:
    """Raise `CompactError` if stdout cannot be written, for example because its disk is full."""
    try:
        yield
    except BrokenPipeError:
        # `| head` has read enough: `main` ends quietly, with status 0.
        raise
    except OSError as error:
        # Full disk and the like. The stream is silenced first, otherwise the flush at exit fails again.
        silence(sys.stdout)
        raise CompactError(
            f"cannot write to stdout ({error.strerror}): redirect it to a writable place with free space"
        ) from error


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, is_numeric: bool = False) -> None:
    """Write a table with aligned columns, numbers right-aligned (see `Table`); nothing if there are no rows."""
    if not rows:
        return
    # All cells as text, because widths are numbers of characters.
    lines = [[escape_line(str(cell)) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    numeric_columns = Table(head, rows, is_numeric).numeric_columns()
    print_data("")
    for line in lines:
        cells = (
            cell.rjust(width) if is_numeric else cell.ljust(width)
            for cell, width, is_numeric in zip(line, widths, numeric_columns, strict=True)
        )
        print_data("  ".join(cells).rstrip())


def print_summary(parts: Iterable[str | Table]) -> None:
    """Write the sentences and tables that the `summary` of a result yields."""
    for part in parts:
        if isinstance(part, str):
            print_data(part)
        else:
            print_table(part.head, part.rows, is_numeric=part.is_numeric)


class ProgressBar:
    """Shows progress: a bar on a terminal, otherwise a line at most every ten seconds and one at the end.

    Args:
        label (`str`): the name of the bar, usually what is counted.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        # Created by the first `show`, when the total is known.
        self._bar: Any = None
        self._logged_at = time.monotonic()
        self._last_line = ""
        # Lets the first warning through at any time.
        self._warned_at = -_LOG_INTERVAL_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; the bar stays on the screen as it is."""
        if self._bar is not None:
            self._bar.close()

    def warn_throttled(self, text: str) -> None:
        """Write one line above the bar, unless another warning was written in the last ten seconds."""
        if time.monotonic() - self._warned_at < _LOG_INTERVAL_S:
            return
        self._warned_at = time.monotonic()
        self.log_note(text)

    def log_note(self, text: str) -> None:
        """Write one line above the bar."""
        if self._bar is not None:
            # tqdm clears the bar, writes the line and draws the bar again.
            self._bar.write(escape_line(text), file=sys.stderr)
        else:
            log(text)

    def show(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` are done, followed by a short note."""
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw(done, total, note)
            return
        line = f"{self._label}: {done} of {total}{', ' if note else ''}{note}"
        # The last line is written at once: the total has to be in the log.
        is_due = time.monotonic() - self._logged_at >= _LOG_INTERVAL_S or done == total
        if is_due and line != self._last_line:
            log(line)
            self._logged_at, self._last_line = time.monotonic(), line

    def _draw(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._label, total=total, file=sys.stderr, initial=done, dynamic_ncols=True)
        # The total may change: images turn out to be unusable.
        self._bar.total = total
        self._bar.set_postfix_str(escape_line(note), refresh=False)
        self._bar.update(done - self._bar.n)
