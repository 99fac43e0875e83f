"""Recipes: the shipped training YAMLs by name, or anybody's own by path; a dictionary of TRL's settings comes out.

    compact recipe copy llava15-7b-lora-1gpu --out mine --model ORG/BASE

A recipe is what `trl sft --config RECIPE` takes and nothing else, so TRL and accelerate say which keys there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, did_you_mean
from compact_hf.models.family import ModelFamily
from compact_hf.models.loading import first_line
from compact_hf.models.registry import iter_families, read_family

_SUFFIX: Final = ".yaml"
_MODEL_LINE: Final = re.compile(r"^model_name_or_path: .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RecipeCopy:
    """A recipe of one's own.

    Attributes:
        recipe (`Path`): the YAML file, which names the template by its whole path.
        template (`Path`): the chat template beside it.
    """

    recipe: Path
    template: Path


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes, sorted: the files' names without `.yaml`."""
    return tuple(sorted(_shipped_recipes()))


def recipe_path(recipe: Path | str) -> Path:
    """Return where a recipe stands: a file of the caller's, or a shipped recipe by its name.

    Raises:
        TuningError: there is no such file, and no shipped recipe has this name.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    name = str(recipe)
    shipped = _shipped_recipes()
    if name.removesuffix(_SUFFIX) in shipped:
        return shipped[name.removesuffix(_SUFFIX)][0]
    suggestion = did_you_mean(path.stem, recipe_names())
    raise TuningError(f"no recipe {name!r}: give a YAML file or one of {', '.join(recipe_names())}{suggestion}")


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
        reason = " ".join(str(error).split())
        raise TuningError(
            f"recipe {path} cannot be read ({reason}); it has to be YAML as `trl sft --config` takes it"
        ) from error
    if not isinstance(settings, dict):
        raise TuningError(
            f"recipe {path} holds {type(settings).__name__}, not `key: value` lines as `trl sft` takes them"
        )
    return settings


def recipe_purpose(recipe: Path | str) -> str:
    """Return what a recipe's first comment says it is for; empty where it has none.

    Raises:
        TuningError: there is no such recipe.
    """
    first_line = recipe_path(recipe).read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip().removesuffix(".") if first_line.startswith("#") else ""


def copy_recipe(recipe: Path | str, out: Path | str, *, model: str | None = None) -> RecipeCopy:
    """Write a recipe and the training chat template side by side, for a base that brings none or another one.

    Args:
        recipe (`Path` or `str`): as for `recipe_path`.
        out (`Path | str`): a directory; made if there is none.
        model (`str`, *optional*): the base, a repository or a folder, in the place of the recipe's.

    Raises:
        TuningError: there is no such recipe, it names no base to replace, the base's family has no template, or `out`
            holds one of the two files.
    """
    out = Path(out)
    path = recipe_path(recipe)
    text = path.read_text(encoding="utf-8")
    copy = RecipeCopy(out.resolve() / path.name, out.resolve() / "chat_template.jinja")
    model_line = f"model_name_or_path: {json.dumps(model)}" if model else ""
    # JSON's strings are YAML's too, whatever stands in a path.
    text, count = _MODEL_LINE.subn(
        lambda match: f"{model_line or match[0]}\nchat_template_path: {json.dumps(str(copy.template))}", text
    )
    if count != 1:
        raise TuningError(f"recipe {path} has {count} lines `model_name_or_path: ...`; it needs one to be copied")
    template = _find_template(path, model or str(read_recipe(path)["model_name_or_path"]))
    for file in (copy.recipe, copy.template):
        if file.exists():
            raise TuningError(f"{file} exists already; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        copy.recipe.write_text(text, encoding="utf-8")
        copy.template.write_text(template, encoding="utf-8")
    except OSError as error:
        raise TuningError(f"the recipe cannot be written to {out}: {error.strerror}; choose another --out") from error
    return copy


def _find_template(recipe: Path, base: str) -> str:
    """Return the training template of the base's family; of a base that is not here, of the shipped recipe's."""
    shipped = dict(_shipped_recipes().values())
    try:
        family = read_family(base) if Path(base).is_dir() or recipe not in shipped else shipped[recipe]
    except (OSError, ValueError) as error:
        raise TuningError(
            f"the base {base} does not say what it is ({first_line(error)}), and so which chat template it needs; give "
            "one that can be read as --model"
        ) from error
    template = family.chat_template()
    if template is None:
        raise TuningError(f"no chat template for {base} comes along: its model family, {family.label}, has none")
    return template


def check_recipe_keys(settings: Mapping[str, Any]) -> None:
    """Tell of a key that `trl sft` would stop at, and of an accelerate config that there is not.

    Imports TRL and accelerate, which takes seconds: call it where both are needed anyway.

    Args:
        settings (`Mapping[str, Any]`): a recipe's.

    Raises:
        TuningError: naming the key and the one that was probably meant.
    """
    valid_keys = _list_valid_keys()
    unknown = [key for key in settings if key not in valid_keys]
    if unknown:
        suggestion = did_you_mean(unknown[0], valid_keys)
        raise TuningError(
            f"the recipe has a key that neither trl sft nor accelerate launch knows: {unknown[0]}{suggestion}"
        )
    config = str(settings.get("accelerate_config", ""))
    configs = sorted(Path(file.name).stem for file in files("trl.accelerate_configs").iterdir())
    if config and config not in configs and not Path(config).is_file():
        raise TuningError(
            f"the recipe's accelerate_config {config} is neither a file nor one of {', '.join(configs)}"
            f"{did_you_mean(config, configs)}"
        )


def _list_valid_keys() -> set[str]:
    """Return every key that `trl sft --config` takes: the script's, the launcher's and two of the command itself."""
    from accelerate.commands.launch import launch_command_parser
    from trl.scripts.sft import make_parser

    script_keys = {option.dest for option in make_parser()._actions}
    launcher_keys = {name[2:] for option in launch_command_parser()._actions for name in option.option_strings}
    return (script_keys | launcher_keys | {"accelerate_config", "env"}) - {"help", ""}


def _shipped_recipes() -> dict[str, tuple[Path, ModelFamily]]:
    """Return the recipes that the model families bring along, by their names, with the family of each."""
    recipes: dict[str, tuple[Path, ModelFamily]] = {}
    for family in iter_families():
        directory = family.directory()
        for path in sorted((directory / "recipes").glob(f"*{_SUFFIX}")) if directory else ():
            # One family may be registered for several model types.
            if recipes.setdefault(path.stem, (path, family))[0] != path:
                raise TuningError(
                    f"two model families bring a recipe {path.stem!r} along ({recipes[path.stem][0]} and {path}); "
                    "uninstall one of their packages"
                )
    return recipes
