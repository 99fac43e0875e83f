"""Finds models, in a directory or on the Hub, and loads them without progress bars.

Teachers, training and evaluation use `load_config`, `load_processor` and `load_network`, which first register the
classes of the model's family. They raise the errors of transformers (`LOAD_ERRORS`), which callers turn into messages.
No code of a model's repository is run, and weights are read from safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError, UsageError
from compact_hf.models.chat_template import check_chat_templates
from compact_hf.models.finite import check_weights
from compact_hf.models.registry import get_family, read_family
from compact_hf.parsing import read_json
from compact_hf.records import digest
from compact_hf.regular_files import check_regular_files, get_stamp, hash_regular
from compact_hf.storage import translate_disk_errors


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers and datasets inside the block, and restore them afterwards."""
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
PROCESSOR_CONFIG: Final = "processor_config.json"

_FILE_PATTERNS: Final = ("*.json", "*.jinja", "*.safetensors", "*.bin", "*.model")
# Files that may be in a model's repository and are not needed to load it; pickles and code are never loaded.
_IGNORE_PATTERNS: Final = ["checkpoint-*", "runs/*", "original/*", "*.gguf", "*.bin", "*.pt", "*.pth", "*.pkl", "*.py"]
_SAFE_WEIGHTS: Final = "*.safetensors"


def resolve_model(model: str, *, revision: str | None = None) -> Path:
    """Return the directory with a model's files; a model on the Hub is downloaded, or taken from the cache.

    Args:
        model (`str`): a directory or a repository's name.
        revision (`str`, *optional*, defaults to `main`): revision of the repository; ignored for a directory.

    Raises:
        UsageError: if there is no such directory and no repository can have this name, or the directory holds no model.
        TuningError: if the repository cannot be downloaded, or the directory has other than regular files.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    directory = Path(model)
    if not directory.exists():
        model_id = f"{model}@{revision}" if revision else model
        try:
            with without_progress_bars():
                directory = Path(snapshot_download(model, revision=revision, ignore_patterns=_IGNORE_PATTERNS))
        except HFValidationError as error:
            raise UsageError(
                f"model {model_id!r} was not found: there is no such directory, and it is not the name of a repository"
            ) from error
        except (OSError, ValueError) as error:
            raise TuningError(
                f"model {model_id!r} was not found: it is not a local directory, and cannot be downloaded from the Hub "
                f"({first_line(error)})"
            ) from error
    with translate_disk_errors(TuningError, directory, "remove that file", is_reading=True):
        check_regular_files(directory)
    if not has_model(directory):
        raise UsageError(f"{model} is not a model: give a directory with {MODEL_CONFIG} or {ADAPTER_CONFIG}")
    return directory


LOAD_ERRORS: Final = (OSError, ValueError, KeyError, RuntimeError, ImportError)
"""Errors of transformers for models that are incomplete or of an unknown kind."""


_NO_SAFE_WEIGHTS: Final = (
    "it has no safetensors weights, and pickles such as pytorch_model.bin are not loaded because they can run code; "
    "save it with save_pretrained, which writes safetensors"
)


_MISSING_FILES: Final = {
    "load image processor": "image processor (processor_config.json or preprocessor_config.json)",
    "instantiate the backend tokenizer": "tokenizer (tokenizer.json or tokenizer.model)",
}
"""Part of a message of transformers -> what is missing, and the files that would have it."""


@contextmanager
def translate_load_errors() -> Iterator[None]:
    """Replace errors that the loading of a hostile or damaged model can raise by `LOAD_ERRORS` with a one-line message.

    Errors of transformers that advise to run code or to load pickles get other advice.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import __version__ as version

    try:
        yield
    except RecursionError as error:
        raise ValueError("one of its files is nested too deeply") from error
    except (SafetensorError, StrictDataclassError, AttributeError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"its files are not those of a model ({first_line(error)})") from error
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                "it needs code of its own repository, and such code is never run; use a model of an architecture that "
                f"transformers {version} contains"
            ) from error
        if "use_safetensors" in str(error):
            raise OSError(_NO_SAFE_WEIGHTS) from error
        for message, missing in _MISSING_FILES.items():
            if message in str(error):
                raise OSError(f"it has no {missing}; copy the file from the model that it was made from") from error
        raise
    except Exception as error:
        # tokenizers raises this class itself for files that it cannot read.
        if type(error) is not Exception:
            raise
        raise ValueError(first_line(error)) from error


def load_config(model: str | Path, *, revision: str | None = None) -> Any:
    """Return the configuration of a whole model, a `PreTrainedConfig`; raises one of `LOAD_ERRORS`.

    Args:
        model (`str | Path`): a directory or a repository.
        revision (`str`, *optional*, defaults to `main`): revision of the repository.
    """
    from transformers import AutoConfig

    with translate_load_errors():
        # Registers the family's own classes, which transformers' auto classes have to know first.
        read_family(model, revision=revision)
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)


def load_processor(model: str | Path, config: Any = None, *, revision: str | None = None) -> Any:
    """Return the processor of a model or an adapter; raises one of `LOAD_ERRORS`.

    What its files lack is completed: by the model's family, and a padding token. Saving the processor saves this, too.

    The directory of an adapter does not contain its model type. If its family registers classes of its own, load the
    base or its configuration first.

    Args:
        model (`str | Path`): a directory or a repository.
        config (`PreTrainedConfig`, *optional*): configuration of the model, or of an adapter's base; if None, the
            processor is returned as its files are.
        revision (`str`, *optional*, defaults to `main`): revision of the repository.
    """
    from transformers import AutoProcessor

    check_regular_files(model)
    get_family(read_model_type(Path(model)))
    with without_progress_bars(), translate_load_errors():
        processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=False)
        if config is not None:
            _complete_padding(getattr(processor, "tokenizer", processor))
            saved = read_processor_config(model, revision=revision)
            get_family(config.model_type).complete_processor(processor, config, saved)
    check_chat_templates(processor)
    return processor


def _complete_padding(tokenizer: Any) -> None:
    """Let a tokenizer without a padding token pad with its end token, as TRL does: padding is masked anyway."""
    if getattr(tokenizer, "pad_token", "") is not None:
        return
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ValueError(
            "its tokenizer has no padding token, and no end token to use instead: set pad_token in "
            "tokenizer_config.json"
        )


def read_processor_config(model: str | Path, *, revision: str | None = None) -> Mapping[str, Any]:
    """Return the content of processor_config.json; empty if there is none, as in models saved by older versions.

    Args:
        model (`str | Path`): a directory, or a repository whose processor was loaded, so that its files are cached.
        revision (`str`, *optional*, defaults to `main`): the revision that it was loaded with.

    Raises:
        ValueError: if the file is not JSON.
    """
    from huggingface_hub import try_to_load_from_cache

    path: Any = Path(model) / PROCESSOR_CONFIG
    if not Path(model).exists():
        path = try_to_load_from_cache(str(model), PROCESSOR_CONFIG, revision=revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    content = read_json(Path(path))
    return content if isinstance(content, dict) else {}


def read_model_type(directory: Path) -> str:
    """Return the `model_type` of a whole model, or an empty string if it cannot be read from its directory.

    Args:
        directory (`Path`): directory of the model; it need not exist.
    """
    try:
        config = read_json(directory / MODEL_CONFIG)
    except (OSError, ValueError):  # loading the model will report the cause
        return ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def load_network(model: str | Path, *, revision: str | None = None, **options: Any) -> Any:
    """Return a whole model with its weights, all of them finite; raises one of `LOAD_ERRORS`.

    Args:
        model (`str | Path`): a directory or a repository.
        revision (`str`, *optional*, defaults to `main`): revision of the repository.
        **options: arguments of transformers' `from_pretrained`, such as `dtype`, which defaults to the stored dtype.
    """
    from transformers import AutoModelForImageTextToText

    if Path(model).is_dir() and not any(Path(model).glob(_SAFE_WEIGHTS)):
        raise OSError(_NO_SAFE_WEIGHTS)
    options = {"dtype": "auto"} | options | {"trust_remote_code": False, "use_safetensors": True}
    with without_progress_bars(), translate_load_errors():
        read_family(model, revision=revision)
        network = AutoModelForImageTextToText.from_pretrained(model, revision=revision, **options)
    check_weights(network)
    return network


def build_network(config: Any, *, dtype: Any = None) -> Any:
    """Return a model with initial weights from a configuration, on the default device.

    Args:
        config (`PreTrainedConfig`): configuration of the model.
        dtype (`torch.dtype`, *optional*): dtype of the weights; by default that of the configuration.
    """
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config, **{"dtype": dtype} if dtype else {})


def find_commit(model: str, *, revision: str | None = None) -> str | None:
    """Return the commit that a model's configuration was loaded from; None if the model is a directory.

    Args:
        model (`str`): a directory or a repository, whose configuration has been loaded.
        revision (`str`, *optional*, defaults to `main`): the revision that it was loaded with.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(model).exists():
        return None
    # .../snapshots/COMMIT/config.json; a marker or None if the Hub's client stores files in another way.
    path = try_to_load_from_cache(model, MODEL_CONFIG, revision=revision)
    return Path(path).parent.name if isinstance(path, str) else revision


def has_model(directory: Path) -> bool:
    """Return whether a directory contains a whole model or an adapter.

    Args:
        directory (`Path`): the directory to look in.
    """
    return is_adapter(directory) or (directory / MODEL_CONFIG).is_file()


def is_adapter(directory: Path) -> bool:
    """Return whether a directory contains an adapter, which needs a base to be loaded onto.

    Args:
        directory (`Path`): the directory to look in.
    """
    return (directory / ADAPTER_CONFIG).is_file()


def hash_model(directory: Path) -> str:
    """Return a hash of the content of a model's files, which changes if the model is trained again.

    Args:
        directory (`Path`): directory of a model or an adapter.
    """
    return digest([(path.name, _hash_file(path, get_stamp(path))) for path in list_model_files(directory)])


def _hash_file(path: Path, stamp: tuple[int, ...] | None) -> str:
    """Return the hash of a file, which is read once in this process as long as its stamp does not change."""
    return _hash_once(path.resolve(), stamp) if stamp else hash_regular(path)


@lru_cache(maxsize=1024)
def _hash_once(path: Path, stamp: tuple[int, ...]) -> str:  # noqa: ARG001  # a part of the key
    return hash_regular(path)


def list_model_files(directory: Path) -> list[Path]:
    """Return the files that can change what a model answers: configs, tokenizer, template and weights.

    Args:
        directory (`Path`): directory of a model or an adapter.
    """
    # Sorted, because `glob` has no fixed order.
    return sorted({path for pattern in _FILE_PATTERNS for path in directory.glob(pattern)})


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; those of transformers can be a page long.

    Args:
        error (`BaseException`): the error.
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
