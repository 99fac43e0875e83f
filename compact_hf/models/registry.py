"""Model families by `model_type`, as config.json has it: ours, and those that other packages register."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from compact_hf.models.family import ModelFamily
from compact_hf.plugins import list_plugins, load_plugin

GROUP: Final = "compact_hf.model_families"
"""The group of entry points: the name is the `model_type`, the object a `ModelFamily`."""


def get_family(model_type: str) -> ModelFamily:
    """Return the family of a `model_type`, its classes registered with transformers.

    Returns:
        `ModelFamily`: of a type that nobody has registered, `ModelFamily` itself, which has no parts to train.

    Raises:
        UsageError: the family's package cannot be imported.
    """
    if model_type not in list_plugins(GROUP):
        return ModelFamily()
    family: ModelFamily = load_plugin(GROUP, model_type)()
    family.register()
    return family


def read_family(model: str | Path, *, revision: str | None = None) -> ModelFamily:
    """Return the family of a whole model, of which only config.json is read.

    Args:
        model (`str | Path`): a directory or a repository.
        revision (`str`, *optional*): of the repository.

    Raises:
        OSError: there is no such model, or it has no config.json that can be read.
        UsageError: as `get_family`.
    """
    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
    return get_family(str(config.get("model_type", "")))


def family_names() -> tuple[str, ...]:
    """Return the registered families' names, sorted, without importing any."""
    return list_plugins(GROUP)


def iter_families() -> Iterator[ModelFamily]:
    """Yield every registered family, by name, without registering its classes.

    Raises:
        UsageError: a family's package cannot be imported.
    """
    for name in family_names():
        yield load_plugin(GROUP, name)()
