"""Progress: transformers' and datasets' own bars off the terminal, as the library talks to its caller only; and how far
training is, from a line of its output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_BAR: Final = re.compile(r"\s*\d+%\|.*?\| (\d+)/(\d+) \[")


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Switch both libraries' bars off inside the block; afterwards they are as they were."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_shown = transformers_logging.is_progress_bar_enabled()
    datasets_shown = not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if transformers_shown:
            transformers_logging.enable_progress_bar()
        if datasets_shown:
            datasets.enable_progress_bars()


def steps_in(line: str) -> tuple[int, int] | None:
    """Return how many of how many steps are done, where a line of training's output is its progress bar."""
    found = _BAR.match(line)
    return (int(found[1]), int(found[2])) if found else None
