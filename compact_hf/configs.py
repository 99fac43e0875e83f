"""Configs: a YAML file in, a checked pydantic model out, every wrong key named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compact_hf.errors import UsageError

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
        raise UsageError(f"{file}: {place}: {first['msg']}; the keys are {', '.join(kind.model_fields)}") from error
