"""Finds methods by name: those that packages register by entry points, or `package.module:Class`."""

from __future__ import annotations

import re
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.methods.base import Method
from compact_hf.plugins import list_plugins, load_plugin
from compact_hf.runs.options import RunOptions, iter_fields, iter_flags

METHOD_GROUP: Final = "compact_hf.methods"
DEFAULT_METHOD: Final = "compact"
_COMMAND_NAMES: Final = frozenset(
    {"source", "dataset", "out", "method", "dry_run", "runner", "shards", "debug", "help", "run", "option_names"}
)
"""Names that `generate` and its command use for other arguments, so a method's options cannot have them."""

# Lower-case identifier, but not k1, k2, ..., which are the subsets of COMPACT.
_NAME: Final = re.compile(r"(?!k\d+$)[a-z][a-z0-9_]*")
_RESERVED_NAMES: Final = frozenset({"all", "with_images", "compositional", "instruction", "instruction_text"})
"""Config names that every dataset uses, so a method cannot have them."""


def get_method(name_or_path: str) -> type[Method]:
    """Return a method by its name.

    Args:
        name_or_path (`str`): a registered name such as `compact`, or `package.module:Class`.

    Raises:
        UsageError: there is no such method, it cannot be imported, it is registered under a name other than its own, or
            its name or options conflict with existing ones.
    """
    # What third parties wrote is checked once here, so that callers get a clear message and need no checks.
    method = load_plugin(METHOD_GROUP, name_or_path)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UsageError(
            f"{name_or_path} is not a method ({method!r}): give a class derived from Method (methods/base.py)"
        )
    if not _NAME.fullmatch(method.name) or method.name in _RESERVED_NAMES:
        raise UsageError(
            f"{method.name!r} cannot be a method's name (it becomes a config of datasets): use lower-case letters, "
            "digits and underscores, and no reserved name"
        )
    # The name in a run's identity would not be the `source` of its rows.
    if ":" not in name_or_path and method.name != name_or_path:
        raise UsageError(f"the method {name_or_path} calls itself {method.name}: register it under that name")
    # argparse would raise on a flag that exists twice, and a keyword of `generate` would go to the wrong class.
    taken = _names_of_flags(RunOptions) | _COMMAND_NAMES
    if clashes := sorted(_names_of_flags(method.options) & taken):
        raise UsageError(
            f"the method {name_or_path} has options that every run has ({', '.join(clashes)}): rename them"
        )
    return method


def _names_of_flags(options: type) -> set[str]:
    """Return the names of an options class's fields and flags, with `_` instead of `-`."""
    fields = {item.name for item in iter_fields(options)}
    return fields | {flag.name.replace("-", "_") for _, flag in iter_flags(options) if flag.name}


def list_methods() -> dict[str, type[Method]]:
    """Return all registered methods by name, sorted.

    Raises:
        UsageError: one of the methods cannot be imported.
    """
    return {name: get_method(name) for name in list_plugins(METHOD_GROUP)}
