"""Recipes: the shipped training YAMLs by name, or anybody's own by path; a dictionary of TRL's settings comes out.

A recipe is what `trl sft --config RECIPE` takes and nothing else, so TRL alone says which keys there are.
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError

_ENDING: Final = ".yaml"


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes, sorted: the files' names without `.yaml`."""
    return tuple(sorted(path.stem for path in _folder().glob(f"*{_ENDING}")))


def recipe_path(recipe: Path | str) -> Path:
    """Return where a recipe stands: a file of the caller's, or a shipped recipe by its name.

    Raises:
        TuningError: there is no such file, and no shipped recipe has this name.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    name = str(recipe)
    shipped = _folder() / f"{name.removesuffix(_ENDING)}{_ENDING}"
    if path.name == name and shipped.is_file():
        return shipped
    near = difflib.get_close_matches(path.stem, recipe_names(), n=1, cutoff=0.4)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise TuningError(f"no recipe {name!r}: give a YAML file or one of {', '.join(recipe_names())}{meant}")


def read_recipe(recipe: Path | str) -> dict[str, Any]:
    """Return a recipe's settings.

    Raises:
        TuningError: there is no such recipe, it cannot be read, or it is not a YAML mapping.
    """
    import yaml

    path = recipe_path(recipe)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise TuningError(
            f"recipe {path} cannot be read ({told}); it has to be YAML as `trl sft --config` takes it"
        ) from error
    if not isinstance(settings, dict):
        raise TuningError(
            f"recipe {path} holds {type(settings).__name__}, not `key: value` lines as `trl sft` takes them"
        )
    return settings


def _folder() -> Path:
    return Path(str(files("compact_hf.tuning") / "recipes"))
