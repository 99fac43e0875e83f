"""Finds the plugins of installed packages: methods, model families and evaluation tasks.

Plugins are entry points. A package registers them in its pyproject.toml; this package registers its own in the same
way:

    [project.entry-points."compact_hf.model_families"]
    llava = "compact_hf.models.llava.family:Llava"

Entry points work across processes: a child process or a worker on another machine finds the same plugins without
importing the package that registers them. A plugin is imported only when it is loaded by name.
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, distribution, entry_points
from typing import Any

from compact_hf.errors import UsageError, did_you_mean

# What a broken plugin raises: a missing module, a missing class, syntax of a newer Python.
_LOAD_ERRORS = (ImportError, AttributeError, SyntaxError)


def list_plugins(group: str) -> tuple[str, ...]:
    """Return the names that are registered in a group, sorted, without importing the plugins."""
    return tuple(sorted(_find_entry_points(tuple(sys.path)).select(group=group).names))


def load_plugin(group: str, name_or_path: str) -> Any:
    """Import a plugin.

    Args:
        group (`str`): the group of entry points, such as `compact_hf.model_families`.
        name_or_path (`str`): a registered name, or `package.module:Class` for a class that is not registered.

    Returns:
        `Any`: the object that the entry point refers to, usually a class.

    Raises:
        UsageError: the name is unknown, is registered by two packages for different objects, or cannot be imported.
    """
    # Registered names have no colon.
    if ":" in name_or_path:
        return _load_path(name_or_path)
    if (own := _own_entry_points().get((group, name_or_path))) is not None:
        return own.load()  # other packages cannot replace our own plugins
    found = _find_entry_points(tuple(sys.path)).select(group=group, name=name_or_path)
    # By value, because one package may be found twice on `sys.path` with the same entry point, which is no conflict.
    registered = {entry.value: entry for entry in found}
    if not registered:
        names = list_plugins(group)
        raise UsageError(
            f"{name_or_path!r} is not one of the {_plural_noun(group)} ({', '.join(names) or 'none is installed'}); "
            f"install the package that registers it, or give package.module:Class{did_you_mean(name_or_path, names)}"
        )
    if len(registered) > 1:
        owners = " and ".join(sorted(f"{_distribution(entry)} ({value})" for value, entry in registered.items()))
        raise UsageError(
            f"{name_or_path!r} of the {_plural_noun(group)} is registered by {owners}: uninstall one of them"
        )
    (entry,) = registered.values()
    try:
        return entry.load()
    except _LOAD_ERRORS as error:
        raise UsageError(
            f"{name_or_path!r} of the {_plural_noun(group)} cannot be imported from {entry.value} of the package "
            f"{_distribution(entry)} ({_first_line(error)}): reinstall or uninstall that package"
        ) from error


@cache
def _own_entry_points() -> dict[tuple[str, str], EntryPoint]:
    """Return the entry points of this package by (group, name), without searching all installed packages."""
    return {(entry.group, entry.name): entry for entry in distribution("compact_hf").entry_points}


@lru_cache(maxsize=4)
def _find_entry_points(path: tuple[str, ...]) -> Any:  # noqa: ARG001  # packages are found on it
    """Return the entry points of all installed packages. Cached by `sys.path`, because the search takes 10 ms."""
    return entry_points()


def _load_path(path: str) -> Any:
    """Import the object at `package.module:Class`."""
    module_name, _, qualified_name = path.partition(":")
    if module_name.startswith("."):
        raise UsageError(f"{path!r} is a relative import: give package.module:Class of an installed package")
    try:
        loaded: Any = import_module(module_name)
        for attribute in qualified_name.split("."):
            loaded = getattr(loaded, attribute)
    except (*_LOAD_ERRORS, ValueError) as error:  # ValueError: the module name is empty
        raise UsageError(
            f"cannot import {path!r} ({_first_line(error)}): give package.module:Class of an installed package"
        ) from error
    return loaded


def _plural_noun(group: str) -> str:
    """Return the noun for the plugins of a group, such as `model families` for `compact_hf.model_families`."""
    return group.rpartition(".")[2].replace("_", " ")


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
