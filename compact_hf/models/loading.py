"""Locate a model, a directory or a repository on the Hub, and its files; load it without progress bars.

Teachers, training and evaluation load by `load_config`, `load_processor` and `load_network`, which first register the
classes of the model's family. They raise what transformers raises (`LOAD_ERRORS`): the caller says what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.models.registry import get_family, read_family
from compact_hf.records import digest


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Switch both libraries' bars off inside the block; afterwards they are as they were."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_enabled = transformers_logging.is_progress_bar_enabled()
    datasets_enabled = not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if transformers_enabled:
            transformers_logging.enable_progress_bar()
        if datasets_enabled:
            datasets.enable_progress_bars()


ADAPTER_CONFIG: Final = "adapter_config.json"
MODEL_CONFIG: Final = "config.json"

_FILE_PATTERNS: Final = ("*.json", "*.jinja", "*.safetensors", "*.bin", "*.model")
_IGNORE_PATTERNS: Final = ["checkpoint-*", "runs/*", "original/*", "*.pth", "*.gguf"]


def resolve_model(model: str, *, revision: str | None = None) -> Path:
    """Return the folder with a model's files, fetched from the Hub (or its cache) where `model` is no folder.

    Args:
        model (`str`): a folder, or a repository's name.
        revision (`str`, *optional*, defaults to `main`): of the repository; a folder has none.

    Raises:
        TuningError: there is neither, or the folder holds no model.
    """
    from huggingface_hub import snapshot_download

    directory = Path(model)
    if not directory.exists():
        model_id = f"{model}@{revision}" if revision else model
        try:
            with without_progress_bars():
                directory = Path(snapshot_download(model, revision=revision, ignore_patterns=_IGNORE_PATTERNS))
        except (OSError, ValueError) as error:
            raise TuningError(
                f"no model {model_id!r}: it is no folder here, and the Hub does not give it ({first_line(error)})"
            ) from error
    if not has_model(directory):
        raise TuningError(f"{model} is no model: a folder with {MODEL_CONFIG} or {ADAPTER_CONFIG} is needed")
    return directory


LOAD_ERRORS: Final = (OSError, ValueError, KeyError, RuntimeError, ImportError)
"""What transformers raises for a model that lacks something, or holds what it does not know."""


def load_config(model: str | Path, *, revision: str | None = None) -> Any:
    """Return a whole model's configuration, a `PreTrainedConfig`; raises one of `LOAD_ERRORS`."""
    from transformers import AutoConfig

    read_family(model, revision=revision)
    return AutoConfig.from_pretrained(model, revision=revision)


def load_processor(model: str | Path, *, revision: str | None = None) -> Any:
    """Return a model's or an adapter's processor; raises one of `LOAD_ERRORS`.

    An adapter's directory does not say its family: load the base first, or its configuration.
    """
    from transformers import AutoProcessor

    get_family(read_model_type(Path(model)))
    with without_progress_bars():
        return AutoProcessor.from_pretrained(model, revision=revision)


def read_model_type(directory: Path) -> str:
    """Return the name of a whole model's family; empty where its directory is not here or does not say it."""
    try:
        config = json.loads((directory / MODEL_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with it, `from_pretrained` says
        return ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def load_network(model: str | Path, *, revision: str | None = None, **options: Any) -> Any:
    """Return a whole model with its weights; raises one of `LOAD_ERRORS`.

    Args:
        model (`str | Path`): a directory or a repository.
        revision (`str`, *optional*): of the repository.
        **options: of transformers' `from_pretrained`, such as `dtype`, which is the stored one where it is not given.
    """
    from transformers import AutoModelForImageTextToText

    read_family(model, revision=revision)
    with without_progress_bars():
        return AutoModelForImageTextToText.from_pretrained(model, revision=revision, **{"dtype": "auto"} | options)


def build_network(config: Any, *, dtype: Any = None) -> Any:
    """Return a model of a configuration, with the weights that it starts from, on the default device."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config, **{"dtype": dtype} if dtype else {})


def has_model(directory: Path) -> bool:
    """Return whether a folder holds a whole model or an adapter."""
    return is_adapter(directory) or (directory / MODEL_CONFIG).is_file()


def is_adapter(directory: Path) -> bool:
    """Return whether what a folder holds needs another model to be put on."""
    return (directory / ADAPTER_CONFIG).is_file()


def hash_model(directory: Path) -> str:
    """Return a hash of a model's files, so that a model trained anew in the same place counts as another."""
    hashes = []
    for path in sorted({path for pattern in _FILE_PATTERNS for path in directory.glob(pattern)}):
        with path.open("rb") as file:
            hashes.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return digest(hashes)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: transformers' go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
