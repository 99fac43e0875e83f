"""Loads a LoRA adapter onto its base, after checking that they belong together.

PEFT loads an adapter onto any model that has some of its layers, without an error: weights that the model lacks are
dropped, and layers that the adapter lacks stay untrained. Therefore names and shapes are compared first. This reads
only the config of the base and the header of the adapter's file, no weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.ref import RepoRef
from compact_hf.models.finite import check_weight_files, check_weights
from compact_hf.models.loading import (
    ADAPTER_CONFIG,
    LOAD_ERRORS,
    build_network,
    first_line,
    load_config,
    load_network,
    resolve_model,
    translate_load_errors,
)
from compact_hf.parsing import read_json
from compact_hf.regular_files import check_regular

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

_Shapes = dict[str, tuple[int, ...]]
_PEFT_PREFIX: Final = "base_model.model."  # PEFT adds it to every key


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter and the base that its config names.

    Attributes:
        directory (`Path`): directory of the adapter.
        base (`str`): the model that it was trained on, a directory or a repository's name.
        base_revision (`str`, *optional*): revision of the base's repository; None if it was not recorded.
    """

    directory: Path
    base: str
    base_revision: str | None


def read_adapter_config(directory: Path) -> AdapterInfo:
    """Read an adapter's config.

    Args:
        directory (`Path`): directory of the adapter.

    Raises:
        TuningError: if the config cannot be read or names no base.
    """
    path = directory / ADAPTER_CONFIG
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise TuningError(
            f"{path} cannot be read ({first_line(error)}): save the adapter again with PEFT, which writes this file"
        ) from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base:
        raise TuningError(
            f"{path} names no base: set base_model_name_or_path to the model that the adapter was trained on"
        )
    return AdapterInfo(directory, str(base), config.get("revision"))


def find_base(adapter: AdapterInfo, base: str | None = None) -> Path:
    """Return the directory of an adapter's base; a base on the Hub is downloaded, or taken from the cache.

    Args:
        adapter (`AdapterInfo`): the adapter.
        base (`str`, *optional*, defaults to the base in the adapter's config): a directory, or a repository's name with
            an optional `@revision`.

    Raises:
        TuningError: if the base was not found; the message names the adapter, and `--base`, which gives another base.
        UsageError: if there is no directory `base`, no repository can have this name, or the directory holds no model.
    """
    # The recorded revision belongs to the recorded base, not to another one.
    if base is None or base == adapter.base:
        name, revision = adapter.base, adapter.base_revision
    else:
        ref = None if Path(base).exists() else RepoRef.parse(base)
        name, revision = (ref.repo_id, ref.revision) if ref else (base, None)
    try:
        return resolve_model(name, revision=revision)
    except (TuningError, UsageError) as error:
        whose = f"{adapter.directory} is an adapter, and its base" if base is None else "the base"
        # Without `base`, the command is right, but the adapter's config names a base that is not here.
        error_type = TuningError if base is None else type(error)
        raise error_type(f"{whose} cannot be used: {error}; give the model that it was trained on as --base") from error


def check_adapter_base(adapter: Path, base: str | Path, *, revision: str | None = None) -> None:
    """Raise if an adapter does not fit a base.

    Args:
        adapter (`Path`): directory of the adapter.
        base (`str | Path`): directory or repository of the base, of which only the config is read.
        revision (`str`, *optional*, defaults to `main`): revision of the base's repository.

    Raises:
        TuningError: if the adapter has weights that do not exist in the base, lacks some, or has them in another shape;
            or adapter or base cannot be read, or the adapter is not saved as safetensors.
    """
    expected, actual = _expected_shapes(adapter, base, revision), _read_shapes(adapter / ADAPTER_WEIGHTS)
    if difference := _describe_difference(expected, actual):
        raise TuningError(
            f"adapter {adapter} was not made for {base} ({difference}): give the base that it was trained on"
        )


def load_merged_model(adapter: Path, base: Path) -> Any:
    """Return a base with an adapter merged into its weights, which keep the dtype of the base.

    Args:
        adapter (`Path`): directory of the adapter.
        base (`Path`): directory of the base; call `check_adapter_base` first.

    Returns:
        `PreTrainedModel`: the model, on the CPU. Peak memory is one copy of the base plus the adapter.

    Raises:
        TuningError: if the base cannot be loaded, or weights are not finite, before or after merging.
    """
    from peft import PeftModel

    check_weight_files(adapter)
    model = _load_base(base)
    with _ignore_peft_warning():
        dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    for name, weight in model.named_parameters():
        # Modules that were trained in full have the dtype of the adapter, which is often a higher precision.
        weight.data = weight.data.to(dtypes[name])
    try:
        # A sum of finite weights can be too large for float16.
        check_weights(model)
    except ValueError as error:
        raise TuningError(f"adapter {adapter} cannot be merged into {base}: {error}") from error
    return model


def load_peft_model(adapter: Path, base: Path) -> Any:
    """Return a base with an unmerged adapter, which `disable_adapter` can switch off.

    Args:
        adapter (`Path`): directory of the adapter.
        base (`Path`): directory of the base; call `check_adapter_base` first.

    Returns:
        `peft.PeftModel`: the model, on the CPU.

    Raises:
        TuningError: if the base cannot be loaded, or weights are not finite.
    """
    from peft import PeftModel

    check_weight_files(adapter)
    model = _load_base(base)
    with _ignore_peft_warning():
        return PeftModel.from_pretrained(model, str(adapter))


def _load_base(base: Path) -> Any:
    try:
        return load_network(base)
    except LOAD_ERRORS as error:
        raise TuningError(f"the base {base} cannot be loaded: {first_line(error)}") from error


def _expected_shapes(adapter: Path, base: str | Path, revision: str | None) -> _Shapes:
    """Return the names and shapes that PEFT would save for an adapter of this config on that base."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    try:
        model_config = load_config(base, revision=revision)
        with torch.device("meta"), _ignore_peft_warning(), translate_load_errors():
            # No weights are read: on the meta device, the model has only names and shapes.
            model = build_network(model_config)
    except LOAD_ERRORS as error:
        raise TuningError(f"{base} is not a readable vision-language model: {first_line(error)}") from error
    try:
        with torch.device("meta"), _ignore_peft_warning(), translate_load_errors():
            peft_config = PeftConfig.from_pretrained(str(adapter))
            peft_config.base_model_name_or_path = model.name_or_path
            # "auto", PEFT's default, would look for the config of the base on the Hub.
            state = get_peft_model_state_dict(get_peft_model(model, peft_config), save_embedding_layers=False)
    except LOAD_ERRORS as error:
        raise TuningError(f"adapter {adapter} cannot be applied to {base}: {first_line(error)}") from error
    return {key: tuple(weight.shape) for key, weight in state.items()}


def _read_shapes(path: Path) -> _Shapes:
    """Return the names and shapes in an adapter's file, from its header."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TuningError(
            f"{path.parent} has no {path.name}: save the adapter as safetensors, the only supported format"
        )
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise TuningError(f"{path} cannot be read ({first_line(error)}): save or download it again") from error


def _describe_difference(expected: _Shapes, actual: _Shapes) -> str:
    """Return a description of the first relevant difference, or an empty string if there is none."""
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    for key in sorted(expected.keys() | actual.keys()):
        name = key.removeprefix(_PEFT_PREFIX)
        if key not in actual:
            return f"the adapter has no {name}"
        if key not in expected:
            if any(layer in key for layer in EMBEDDING_LAYER_NAMES):  # PEFT also saves embeddings if tokens were added
                continue
            return f"this base has no {name}"
        if expected[key] != actual[key]:
            return f"{name} is {list(actual[key])}, but has to be {list(expected[key])} for this base"
    return ""


@contextmanager
def _ignore_peft_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT 0.21 uses a property that transformers 5.23 has deprecated. Users cannot change that.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
