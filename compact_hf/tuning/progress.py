"""Keeping transformers' and datasets' own progress bars off the terminal: the library talks to its caller only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
