"""A LoRA adapter and its base: their folders in, one network out, or a line that says why they do not belong together.

PEFT loads an adapter onto any model that has some of its layers: what the model lacks is dropped, and what the adapter
lacks stays as it is, both without an error. So keys and shapes are compared first; that takes the base's config and the
head of the adapter's file, no weights.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.loading import ADAPTER_CONFIG, build_network, first_line, load_config, load_network

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

_Shapes = dict[str, tuple[int, ...]]
_PEFT_PREFIX: Final = "base_model.model."  # PEFT's, before every key


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter says of itself.

    Attributes:
        directory (`Path`): where it lies.
        base (`str`): the model that it was trained on, a folder or a repository's name.
        base_revision (`str`, *optional*): of that repository; None where it was not written down.
    """

    directory: Path
    base: str
    base_revision: str | None


def read_adapter_config(directory: Path) -> AdapterInfo:
    """Read what an adapter's folder says of it.

    Raises:
        TuningError: the config cannot be read or names no base.
    """
    path = directory / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TuningError(f"{path} cannot be read ({first_line(error)}); PEFT writes it beside the weights") from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base:
        raise TuningError(f"{path} names no base (base_model_name_or_path); write the model it was trained on there")
    return AdapterInfo(directory, str(base), config.get("revision"))


def check_adapter_base(adapter: Path, base: str | Path, *, revision: str | None = None) -> None:
    """Raise where an adapter was made for a model of another shape.

    Args:
        adapter (`Path`): its folder.
        base (`str | Path`): a folder, or a repository's name, of which only the config is read.
        revision (`str`, *optional*): of the repository.

    Raises:
        TuningError: the adapter has weights that the base has no place for, lacks some, or has them in another shape;
            or one of the two cannot be read, or the weights are no safetensors.
    """
    expected, actual = _expected_shapes(adapter, base, revision), _read_shapes(adapter / ADAPTER_WEIGHTS)
    if difference := _describe_difference(expected, actual):
        raise TuningError(
            f"adapter {adapter} was not made for {base}: {difference}; give the base that it was trained on"
        )


def load_merged_model(adapter: Path, base: Path) -> Any:
    """Return a base with an adapter merged into it, each weight in the precision that the base is loaded in.

    Args:
        adapter (`Path`): its folder.
        base (`Path`): the base's folder; see `check_adapter_base`, which has to come first.

    Returns:
        `PreTrainedModel`: on the CPU; the peak is one copy of the base and the adapter.
    """
    from peft import PeftModel

    model = load_network(base)
    with _ignore_peft_warning():
        dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    for name, weight in model.named_parameters():
        # A module that was trained in full comes in the adapter's precision, which is often the higher one.
        weight.data = weight.data.to(dtypes[name])
    return model


def load_peft_model(adapter: Path, base: Path) -> Any:
    """Return a base with an adapter over it that can be switched off (`disable_adapter`).

    Args:
        adapter (`Path`): its folder.
        base (`Path`): the base's folder; see `check_adapter_base`, which has to come first.

    Returns:
        `peft.PeftModel`: on the CPU.
    """
    from peft import PeftModel

    model = load_network(base)
    with _ignore_peft_warning():
        return PeftModel.from_pretrained(model, str(adapter))


def _expected_shapes(adapter: Path, base: str | Path, revision: str | None) -> _Shapes:
    """Return what PEFT would save for this adapter's config on that base."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    try:
        model_config = load_config(base, revision=revision)
        with torch.device("meta"), _ignore_peft_warning():
            model = build_network(model_config)
    except (OSError, ValueError, KeyError) as error:
        raise TuningError(f"{base} is no vision-language model that can be read: {first_line(error)}") from error
    try:
        peft_config = PeftConfig.from_pretrained(str(adapter))
        peft_config.base_model_name_or_path = model.name_or_path
        with torch.device("meta"), _ignore_peft_warning():
            state = get_peft_model_state_dict(get_peft_model(model, peft_config), save_embedding_layers=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TuningError(f"adapter {adapter} does not go onto {base}: {first_line(error)}") from error
    return {key: tuple(weight.shape) for key, weight in state.items()}


def _read_shapes(path: Path) -> _Shapes:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TuningError(f"{path.parent} has no {path.name}; save the adapter as safetensors, the one format taken")
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise TuningError(f"{path} cannot be read ({first_line(error)}); save or fetch it again") from error


def _describe_difference(expected: _Shapes, actual: _Shapes) -> str:
    """Return the first difference in words, an empty string where there is none that matters."""
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    for key in sorted(expected.keys() | actual.keys()):
        name = key.removeprefix(_PEFT_PREFIX)
        if key not in actual:
            return f"the adapter has no {name}"
        if key not in expected:
            if any(layer in key for layer in EMBEDDING_LAYER_NAMES):  # saved along by PEFT where tokens were added
                continue
            return f"that base has no place for {name}"
        if expected[key] != actual[key]:
            return f"{name} is {list(actual[key])}, there it would be {list(expected[key])}"
    return ""


@contextmanager
def _ignore_peft_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT 0.21 asks by the name that transformers 5.23 has deprecated; nobody here can change that.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
