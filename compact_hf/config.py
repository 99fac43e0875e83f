"""Configs: a YAML file in, a checked pydantic model out, every wrong key named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compact_hf.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    Config = TypeVar("Config", bound=BaseModel)


def read_config(path: Path, model: type[Config], *, example: str) -> Config:
    """Read a config.

    Args:
        model (`type[BaseModel]`): what its keys are.
        example (`str`): a file of the kind that was wanted, for whoever named one that is not there.

    Raises:
        UsageError: there is no such file, or a key is missing, unknown or of the wrong kind.
    """
    import yaml
    from pydantic import ValidationError

    try:
        return model.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give a config such as {example}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(map(str, first["loc"])) or "the whole of it"
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] in ("missing", "extra_forbidden"):
            text += f"; the keys are {', '.join(model.model_fields)}{did_you_mean(str(first['loc'][-1]), _keys(model))}"
        raise UsageError(f"{path}: {location}: {text}") from error


def _keys(model: type[BaseModel]) -> set[str]:
    """Return the keys of a kind of config, and those of the parts that it has."""
    schema = model.model_json_schema()
    return {key for part in (schema, *schema.get("$defs", {}).values()) for key in part.get("properties", {})}
