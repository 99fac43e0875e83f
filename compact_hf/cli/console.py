"""What the command line says: data on stdout; on stderr lines, and progress bars where it is a terminal."""

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
from compact_hf.reports.table import Table

_LOG_INTERVAL_S: Final = 10.0
"""Seconds between the lines that stand for a progress bar where stderr is no terminal."""


def log(text: str) -> None:
    """Write one line to stderr. Where nobody listens any more, the work goes on all the same."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        except OSError:
            silence(sys.stderr)


def configure_hub_progress_bars() -> None:
    """Have the Hub's client draw its own bars only where somebody can see them."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()


def silence(stream: TextIO) -> None:
    """Send what is left for a stream nowhere, or Python complains about it at its end."""
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())


def print_data(text: str) -> None:
    """Write one line of data to stdout.

    Raises:
        CompactError: it cannot be written.
        BrokenPipeError: whoever read stdout has had enough.
    """
    if sys.stdout is None:
        raise CompactError("stdout is closed, so there is nowhere to put the result; leave it open")
    encoding = sys.stdout.encoding or "utf-8"
    with _translate_stdout_errors():
        # Whatever stands in questions and file names, it can be shown, if need be as an escape.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def print_json(value: Any) -> None:
    """Write a value to stdout as JSON, in ASCII, so that it is the same in every encoding."""
    print_data(json.dumps(value, indent=2, sort_keys=True))


def flush_data() -> None:
    """Flush stdout now, while an error can still be reported; raises as `print_data` does."""
    if sys.stdout is not None:
        with _translate_stdout_errors():
            sys.stdout.flush()


@contextlib.contextmanager
def _translate_stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise CompactError(f"cannot write to stdout: {error.strerror}; give it a place with room") from error


def replace_unprintable(text: str) -> str:
    """Return a text without what moves a terminal's cursor or changes its colours."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, is_numeric: bool = False) -> None:
    """Write a table with aligned columns, numbers to the right (see `Table`); nothing if there are no rows."""
    if not rows:
        return
    lines = [head, *([replace_unprintable(str(cell)) for cell in row] for row in rows)]
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
    """Write sentences and tables, as a result's `summary` yields them."""
    for part in parts:
        if isinstance(part, str):
            print_data(part)
        else:
            print_table(part.head, part.rows, is_numeric=part.is_numeric)


class ProgressBar:
    """Progress on long work: a bar on a terminal, elsewhere a line at most every ten seconds and one at the end.

    Args:
        label (`str`): what is being done.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._logged_at = time.monotonic()
        self._last_line = ""
        self._warned_at = -_LOG_INTERVAL_S

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

    def warn_throttled(self, text: str) -> None:
        """Write one line above the bar, unless another warning was in the last ten seconds."""
        if time.monotonic() - self._warned_at < _LOG_INTERVAL_S:
            return
        self._warned_at = time.monotonic()
        self.log_note(text)

    def log_note(self, text: str) -> None:
        """Say one line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            log(text)

    def show(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done, with a short note beside."""
        if sys.stderr is not None and sys.stderr.isatty():
            self._draw(done, total, note)
            return
        line = f"{self._label}: {done} of {total}{', ' if note else ''}{note}"
        is_due = time.monotonic() - self._logged_at >= _LOG_INTERVAL_S or done == total
        if is_due and line != self._last_line:
            log(line)
            self._logged_at, self._last_line = time.monotonic(), line

    def _draw(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._label, total=total, file=sys.stderr, initial=done, dynamic_ncols=True)
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
