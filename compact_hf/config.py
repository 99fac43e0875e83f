"""Reads YAML configuration files into pydantic models, and reports the first wrong key in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compact_hf.errors import UsageError, did_you_mean
from compact_hf.parsing import read_yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

    Config = TypeVar("Config", bound=BaseModel)


def read_config(path: Path, model: type[Config], *, example: str) -> Config:
    """Read a configuration file.

    Args:
        path (`Path`): a YAML file.
        model (`type[BaseModel]`): the pydantic model of its keys.
        example (`str`): the name of an example file, for the error message if `path` cannot be read.

    Returns:
        `BaseModel`: an instance of `model`.

    Raises:
        UsageError: the file cannot be read, or a key is missing, unknown or has a wrong value.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(read_yaml(path))
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}): give a config file such as {example}") from error
    except ValidationError as error:
        # `loc` is the path of the key, such as ("variants", 0, "name"); it is empty if the file is not a mapping.
        first = error.errors(include_url=False)[0]
        location = ".".join(map(str, first["loc"])) or "the whole file"
        # pydantic writes this prefix before the messages of our own validators.
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] in ("missing", "extra_forbidden"):
            text += (
                f"; valid keys are {', '.join(model.model_fields)}{did_you_mean(str(first['loc'][-1]), _keys(model))}"
            )
        raise UsageError(f"{path}: {location}: {text}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error


def _keys(model: type[BaseModel]) -> set[str]:
    """Return the keys of a configuration model and of the models nested in it."""
    # pydantic puts the schemas of nested models into `$defs`, at any depth of nesting.
    schema = model.model_json_schema()
    return {key for part in (schema, *schema.get("$defs", {}).values()) for key in part.get("properties", {})}
