"""Find what installed packages add to this one: a group of entry points and a name in, the object out.

A package registers in its pyproject.toml, this one as any other:

    [project.entry-points."compact_hf.model_families"]
    llava = "compact_hf.models.llava.family:Llava"

Entry points cross processes: a child process, a worker on another machine and a package of somebody else find the same
names without importing each other. Nothing is imported before it is asked for by name.
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, distribution, entry_points
from typing import Any

from compact_hf.errors import UsageError, did_you_mean

_LOAD_ERRORS = (ImportError, AttributeError, SyntaxError)


def list_plugins(group: str) -> tuple[str, ...]:
    """Return the names that are registered in a group, sorted, without importing any of them."""
    return tuple(sorted(_find_entry_points(tuple(sys.path)).select(group=group).names))


def load_plugin(group: str, name_or_path: str) -> Any:
    """Import what a name is registered for.

    Args:
        group (`str`): the entry points' group, such as `compact_hf.model_families`.
        name_or_path (`str`): a registered name, or `package.module:Class` for what no package has registered.

    Returns:
        `Any`: the object, usually a class.

    Raises:
        UsageError: the name is unknown, two packages have registered it for different objects, or importing it fails.
    """
    if ":" in name_or_path:
        return _load_path(name_or_path)
    if (own := _own_entry_points().get((group, name_or_path))) is not None:
        return own.load()  # a package of somebody else cannot take the name of one of ours
    found = _find_entry_points(tuple(sys.path)).select(group=group, name=name_or_path)
    registered = {entry.value: entry for entry in found}
    if not registered:
        names = list_plugins(group)
        raise UsageError(
            f"{name_or_path!r} is not one of the {_plural_noun(group)} ({', '.join(names) or 'none is installed'}); "
            f"install the package that registers it, or give package.module:Class{did_you_mean(name_or_path, names)}"
        )
    if len(registered) > 1:
        owners = " and ".join(sorted(f"{_distribution(entry)} ({value})" for value, entry in registered.items()))
        raise UsageError(f"{name_or_path!r} of the {_plural_noun(group)} is registered by {owners}; uninstall one")
    (entry,) = registered.values()
    try:
        return entry.load()
    except _LOAD_ERRORS as error:
        raise UsageError(
            f"{name_or_path!r} of the {_plural_noun(group)} cannot be imported from {entry.value} of the package "
            f"{_distribution(entry)} ({_first_line(error)}); install that package again, or uninstall it"
        ) from error


@cache
def _own_entry_points() -> dict[tuple[str, str], EntryPoint]:
    """Return those of this package: (group, name) -> entry point, without a look through all packages."""
    return {(entry.group, entry.name): entry for entry in distribution("compact_hf").entry_points}


@lru_cache(maxsize=4)
def _find_entry_points(path: tuple[str, ...]) -> Any:  # noqa: ARG001  # packages are found on it
    """Return those of all installed packages, to be selected from; to look for them takes 10 ms."""
    return entry_points()


def _load_path(path: str) -> Any:
    module_name, _, qualified_name = path.partition(":")
    if module_name.startswith("."):
        raise UsageError(f"{path!r} is no name of a module; give package.module:Class of a package that is installed")
    try:
        loaded: Any = import_module(module_name)
        for attribute in qualified_name.split("."):
            loaded = getattr(loaded, attribute)
    except (*_LOAD_ERRORS, ValueError) as error:  # ValueError: nothing stands before the colon
        raise UsageError(
            f"cannot import {path!r} ({_first_line(error)}); give package.module:Class of a package that is installed"
        ) from error
    return loaded


def _plural_noun(group: str) -> str:
    """Return what a group's plugins are called: `model families` for `compact_hf.model_families`."""
    return group.rpartition(".")[2].replace("_", " ")


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
