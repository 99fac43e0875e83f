"""Looks up model families, ours and those of installed packages, by the `model_type` in config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from compact_hf.models.family import ModelFamily
from compact_hf.plugins import list_plugins, load_plugin
from compact_hf.regular_files import check_regular_files

GROUP: Final = "compact_hf.model_families"
"""The group of entry points: name is the `model_type`, value the subclass of `ModelFamily`."""

_MAX_LAYERS: Final = 1000


def get_family(model_type: str) -> ModelFamily:
    """Return the family of a `model_type`, after registering its classes with transformers.

    Args:
        model_type (`str`): as in config.json.

    Returns:
        `ModelFamily`: the family; if none is registered for this type, `ModelFamily` itself, which has no parts to
            train.

    Raises:
        UsageError: if the family's package cannot be imported.
    """
    # Checked without importing any package.
    if model_type not in list_plugins(GROUP):
        return ModelFamily()
    family: ModelFamily = load_plugin(GROUP, model_type)()
    family.register()
    return family


def read_family(model: str | Path, *, revision: str | None = None) -> ModelFamily:
    """Return the family of a whole model (not an adapter), reading only its config.json.

    Args:
        model (`str | Path`): a directory or a repository.
        revision (`str`, *optional*, defaults to `main`): revision of the repository.

    Raises:
        OSError: if the model was not found, or its config.json is missing or cannot be read.
        ValueError: if its config.json names more layers than any model has.
        UsageError: if the family's package cannot be imported.
    """
    from transformers import PreTrainedConfig

    check_regular_files(model)
    config, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
    _check_layers(config)
    return get_family(str(config.get("model_type", "")))


def _check_layers(config: Mapping[str, Any]) -> None:
    """Raise if a configuration, or a part of it, names more layers than any model has: they take time and memory."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check_layers(value)
        elif isinstance(value, int) and key.endswith(("layers", "layer", "depth")) and value > _MAX_LAYERS:
            raise ValueError(f"its config.json sets {key} to {value}; at most {_MAX_LAYERS} are loaded")


def family_names() -> tuple[str, ...]:
    """Return the `model_type` of all registered families, sorted, without importing them."""
    return list_plugins(GROUP)


def iter_families() -> Iterator[ModelFamily]:
    """Yield all registered families, sorted by name, without registering their classes with transformers.

    Raises:
        UsageError: if a family's package cannot be imported.
    """
    for name in family_names():
        yield load_plugin(GROUP, name)()
