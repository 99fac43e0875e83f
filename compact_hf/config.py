"""Configs: a YAML file in, a checked pydantic model out, every wrong key named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compact_hf.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    Config = TypeVar("Config", bound=BaseModel)


def read_config(file: Path, kind: type[Config], *, example: str) -> Config:
    """Read a config.

    Args:
        kind (`type[BaseModel]`): what its keys are.
        example (`str`): a file of the kind that was wanted, for whoever named one that is not there.

    Raises:
        UsageError: there is no such file, or a key is missing, unknown or of the wrong kind.
    """
    import yaml
    from pydantic import ValidationError

    try:
        return kind.model_validate(yaml.safe_load(file.read_bytes()))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; give a config such as {example}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole of it"
        told = first["msg"].removeprefix("Value error, ")
        if first["type"] in ("missing", "extra_forbidden"):
            told += f"; the keys are {', '.join(kind.model_fields)}{did_you_mean(str(first['loc'][-1]), _keys(kind))}"
        raise UsageError(f"{file}: {place}: {told}") from error


def _keys(kind: type[BaseModel]) -> set[str]:
    """Return the keys of a kind of config, and those of the parts that it has."""
    schema = kind.model_json_schema()
    return {key for part in (schema, *schema.get("$defs", {}).values()) for key in part.get("properties", {})}
