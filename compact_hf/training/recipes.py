"""Finds, reads, copies and checks recipes: training YAML files, shipped ones by name and your own by path.

    compact recipe copy llava15-7b-lora-1gpu --out mine --model ORG/BASE

A recipe holds only keys that `trl sft --config RECIPE` takes: those of TRL and of accelerate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError, did_you_mean
from compact_hf.models.family import ModelFamily
from compact_hf.models.loading import first_line
from compact_hf.models.registry import iter_families, read_family
from compact_hf.parsing import read_yaml

_SUFFIX: Final = ".yaml"
# A copy changes this line of the text and keeps everything else, comments included.
_MODEL_LINE: Final = re.compile(r"^model_name_or_path: .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RecipeCopy:
    """A copy of a recipe.

    Attributes:
        recipe (`Path`): the YAML file, which names the template by its absolute path.
        template (`Path`): the chat template, in the same directory.
    """

    recipe: Path
    template: Path


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes, sorted: their file names without `.yaml`."""
    return tuple(sorted(_shipped_recipes()))


def recipe_path(recipe: Path | str) -> Path:
    """Return the path of a recipe.

    Args:
        recipe (`Path` or `str`): a YAML file or the name of a shipped recipe.

    Raises:
        UsageError: if there is no such file, and no shipped recipe has this name.
    """
    # A file takes precedence over the shipped recipe of the same name.
    path = Path(recipe)
    if path.is_file():
        return path
    name = str(recipe)
    shipped = _shipped_recipes()
    if name.removesuffix(_SUFFIX) in shipped:
        return shipped[name.removesuffix(_SUFFIX)][0]
    suggestion = did_you_mean(path.stem, recipe_names())
    raise UsageError(f"no recipe {name!r}: give a YAML file or one of {', '.join(recipe_names())}{suggestion}")


def read_recipe(recipe: Path | str) -> dict[str, Any]:
    """Return a recipe's settings.

    Args:
        recipe (`Path` or `str`): a YAML file or the name of a shipped recipe.

    Raises:
        UsageError: if the recipe was not found.
        TuningError: if it cannot be read, or is not a YAML mapping.
    """
    path = recipe_path(recipe)
    try:
        settings = read_yaml(path)
    except (OSError, ValueError) as error:
        raise TuningError(
            f"recipe {path} cannot be read ({error}): give a YAML file that `trl sft --config` takes"
        ) from error
    if not isinstance(settings, dict):
        raise TuningError(
            f"recipe {path} is a YAML {type(settings).__name__}, not a mapping: write `key: value` lines as `trl sft` "
            "takes them"
        )
    return settings


def recipe_purpose(recipe: Path | str) -> str:
    """Return a recipe's first line if it is a comment, which describes its purpose; else an empty string.

    Args:
        recipe (`Path` or `str`): a YAML file or the name of a shipped recipe.

    Raises:
        UsageError: if the recipe was not found.
    """
    first_line = recipe_path(recipe).read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip().removesuffix(".") if first_line.startswith("#") else ""


def copy_recipe(recipe: Path | str, out: Path | str, *, model: str | None = None) -> RecipeCopy:
    """Copy a recipe together with the training chat template, for a base without a template or with another one.

    Args:
        recipe (`Path` or `str`): a YAML file or the name of a shipped recipe.
        out (`Path | str`): the directory to write to; created if it does not exist.
        model (`str`, *optional*, defaults to the recipe's): the base, a repository or a directory.

    Returns:
        `RecipeCopy`: the paths of the two files.

    Raises:
        UsageError: if the recipe was not found, or one of the two files exists already.
        TuningError: if the recipe names no base to replace, or the base's family has no template.
    """
    out = Path(out)
    path = recipe_path(recipe)
    text = path.read_text(encoding="utf-8")
    copy = RecipeCopy(out.resolve() / path.name, out.resolve() / "chat_template.jinja")
    model_line = f"model_name_or_path: {json.dumps(model)}" if model else ""
    # A JSON string is also a YAML string, so this quotes any path correctly.
    text, count = _MODEL_LINE.subn(
        lambda match: f"{model_line or match[0]}\nchat_template_path: {json.dumps(str(copy.template))}", text
    )
    if count != 1:
        raise TuningError(f"recipe {path} has {count} lines `model_name_or_path: ...`: a copy needs exactly one")
    template = _find_template(path, model or str(read_recipe(path)["model_name_or_path"]))
    for file in (copy.recipe, copy.template):
        if file.exists():
            raise UsageError(f"{file} exists already: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        copy.recipe.write_text(text, encoding="utf-8")
        copy.template.write_text(template, encoding="utf-8")
    except OSError as error:
        raise TuningError(f"the recipe cannot be written to {out} ({error.strerror}): choose another --out") from error
    return copy


def _find_template(recipe: Path, base: str) -> str:
    """Return the training template of the base's family; if the base is not local, of the shipped recipe's family."""
    # path -> family
    shipped = dict(_shipped_recipes().values())
    try:
        # A shipped recipe belongs to a family, so the config of a base on the Hub is fetched only for other recipes.
        family = read_family(base) if Path(base).is_dir() or recipe not in shipped else shipped[recipe]
    except (OSError, ValueError) as error:
        raise TuningError(
            f"the config of the base {base}, which determines the chat template, cannot be read "
            f"({first_line(error)}): give a readable base as --model"
        ) from error
    template = family.chat_template()
    if template is None:
        raise TuningError(
            f"there is no training chat template for {base}: its model family, {family.label}, does not ship one"
        )
    return template


def check_recipe_keys(settings: Mapping[str, Any]) -> None:
    """Raise if a recipe has a key that `trl sft` would refuse, or an accelerate config that does not exist.

    This imports TRL and accelerate, which takes seconds: call it only if both are needed anyway.

    Args:
        settings (`Mapping[str, Any]`): the recipe's settings.

    Raises:
        UsageError: if a key or the accelerate config is unknown; the message suggests the closest valid one.
    """
    valid_keys = _list_valid_keys()
    unknown = [key for key in settings if key not in valid_keys]
    if unknown:
        suggestion = did_you_mean(unknown[0], valid_keys)
        raise UsageError(
            f"the recipe has a key that neither trl sft nor accelerate launch accepts: {unknown[0]}{suggestion}"
        )
    config = str(settings.get("accelerate_config", ""))
    configs = sorted(Path(file.name).stem for file in files("trl.accelerate_configs").iterdir())
    if config and config not in configs and not Path(config).is_file():
        raise UsageError(
            f"the recipe's accelerate_config {config} is neither a file nor one of {', '.join(configs)}"
            f"{did_you_mean(config, configs)}"
        )


def _list_valid_keys() -> set[str]:
    """Return all keys that `trl sft --config` takes: of its script, of accelerate, and two of the command itself."""
    from accelerate.commands.launch import launch_command_parser
    from trl.scripts.sft import make_parser

    # argparse has no public list of a parser's options.
    script_keys = {option.dest for option in make_parser()._actions}
    launcher_keys = {name[2:] for option in launch_command_parser()._actions for name in option.option_strings}
    # Short flags such as `-h` have become an empty text above.
    return (script_keys | launcher_keys | {"accelerate_config", "env"}) - {"help", ""}


def _shipped_recipes() -> dict[str, tuple[Path, ModelFamily]]:
    """Return the shipped recipes: name -> (path, model family)."""
    recipes: dict[str, tuple[Path, ModelFamily]] = {}
    for family in iter_families():
        directory = family.directory()
        for path in sorted((directory / "recipes").glob(f"*{_SUFFIX}")) if directory else ():
            # One family may be registered for several model types.
            if recipes.setdefault(path.stem, (path, family))[0] != path:
                raise TuningError(
                    f"two model families ship a recipe {path.stem!r} ({recipes[path.stem][0]} and {path}): "
                    "uninstall one of their packages"
                )
    return recipes
