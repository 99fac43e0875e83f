"""Makes command-line flags from the fields of options classes, and shows the progress of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import Field
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import ProgressBar
from compact_hf.runs.options import Flag, iter_flags
from compact_hf.wording import format_count

if TYPE_CHECKING:
    from compact_hf.runs.run import RunProgress

# Annotations are strings (`from __future__ import annotations`): text of the type -> function that parses a value.
_TYPES: Final[Mapping[str, type]] = {"int": int, "float": float, "str": str}


def add_options(
    parser: Any, options: type, *, without: Collection[str] = (), help_texts: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Add a flag for each field of an options class that was made by `option`.

    Args:
        parser (`argparse.ArgumentParser`): a parser, or one of its argument groups.
        options (`type`): an options class, such as `RunOptions`.
        without (`Collection[str]`, *optional*): names of fields to skip.
        help_texts (`Mapping[str, str]`, *optional*): field name -> help text that replaces the field's own.

    Returns:
        `tuple[str, ...]`: the names of the added fields, which are also attributes of the parsed arguments.
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
    """Return the keywords of `add_argument` for a field. Its text is parsed by the flag, else by the field's type."""
    argument = {"dest": item.name, "default": item.default, "help": help_text.replace("%", "%%")}
    # A flag without a value.
    if item.default is False:
        return argument | {"action": "store_true"}
    kind = flag.parse
    if kind is None:
        type_name = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
        # "int | None" is parsed as int: an option that is not given keeps the default None.
        kind = _TYPES[type_name.partition("|")[0].strip()]
    # No type for text: completion.py takes arguments without a type for possible paths.
    return argument | {"metavar": flag.metavar} | ({} if kind is str else {"type": kind})


def make_progress_callback(bar: ProgressBar) -> Callable[[RunProgress], None]:
    """Return a callback that shows the progress of a run on a bar, and new failed requests above it."""
    failures = 0

    def show(progress: RunProgress) -> None:
        nonlocal failures
        # The counter never decreases within a session, so a larger value means new failures.
        if progress.failures > failures:
            failures = progress.failures
            retrying = ", retrying" if progress.is_retrying else ""
            bar.warn_throttled(f"compact: request failed{retrying}: {progress.last_failure}")
        bar.show(progress.finished, progress.images, format_count(progress.accepted, "question"))

    return show
