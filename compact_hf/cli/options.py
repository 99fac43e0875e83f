"""Flags of the command line from options classes, and what shows a run's progress on a bar."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import Field
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import ProgressBar
from compact_hf.runs.options import Flag, iter_flags

if TYPE_CHECKING:
    from compact_hf.runs.run import RunProgress

_TYPES: Final[Mapping[str, type]] = {"int": int, "float": float, "str": str}


def add_options(
    parser: Any, options: type, *, without: Collection[str] = (), help_texts: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Add a flag for each field of an options class that is one, and return the names under which values are found.

    Args:
        parser: a parser, or a group of one.
        options (`type`): such as `RunOptions`.
        without (`Collection[str]`, *optional*): fields that this command does not have.
        help_texts (`Mapping[str, str]`, *optional*): what `--help` says of a field instead.
    """
    names = []
    for item, flag in iter_flags(options):
        if item.name in without:
            continue
        help_text = (help_texts or {}).get(item.name, flag.help)
        parser.add_argument(f"--{flag.name or item.name.replace('_', '-')}", **_argument(item, flag, help_text))
        names.append(item.name)
    return tuple(names)


def _argument(item: Field[Any], flag: Flag, help_text: str) -> dict[str, Any]:
    """Return the keywords of `add_argument` for a field; the flag or the field's type parses its text."""
    argument = {"dest": item.name, "default": item.default, "help": help_text.replace("%", "%%")}
    if item.default is False:
        return argument | {"action": "store_true"}
    kind = flag.parse
    if kind is None:
        type_name = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
        kind = _TYPES[type_name.partition("|")[0].strip()]
    return argument | {"metavar": flag.metavar} | ({} if kind is str else {"type": kind})


def make_progress_callback(bar: ProgressBar) -> Callable[[RunProgress], None]:
    """Return what shows a run's progress on a bar, and each new failure above it."""
    failures = 0

    def show(progress: RunProgress) -> None:
        nonlocal failures
        if progress.failures > failures:
            failures = progress.failures
            bar.warn_throttled(f"compact: trying again: {progress.last_failure}")
        bar.show(progress.finished, progress.images, f"{progress.accepted} questions")

    return show
