"""What a model is, without fetching its weights: a folder's or a repository's name in, adapter or architecture out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from compact_hf.errors import EvaluationError, HubUnavailableError
from compact_hf.hub.errors import reading
from compact_hf.models.loading import ADAPTER_CONFIG, MODEL_CONFIG, holds_model, is_adapter


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model is.

    Attributes:
        name (`str`): what to call it: the last part of where it lies.
        adapter (`bool`): whether it needs another model to be put on.
        architecture (`str`, *optional*): a whole model's, as its config says; None for an adapter.
    """

    name: str
    adapter: bool
    architecture: str | None


def kind_of(model: str) -> Kind:
    """Return what a model is.

    Raises:
        EvaluationError: a folder holds no model, or the config cannot be read.
        HubError: there is no such folder, and no such repository, or the Hub cannot be asked.
    """
    folder = Path(model)
    if not folder.exists():
        return _on_hub(model)
    if not holds_model(folder):
        raise EvaluationError(f"{model} is no model: a folder with {MODEL_CONFIG} or {ADAPTER_CONFIG} is needed")
    name = folder.resolve().name
    return Kind(name, True, None) if is_adapter(folder) else Kind(name, False, _architecture(folder / MODEL_CONFIG))


def _on_hub(model: str) -> Kind:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = model.rpartition("/")[2]
    with reading(model):
        try:
            hf_hub_download(model, ADAPTER_CONFIG)
        except LocalEntryNotFoundError as error:  # neither here nor to be asked for; an EntryNotFoundError, too
            raise HubUnavailableError(
                f"{model} is no folder here, and the Hub cannot be asked for it; give a folder, or unset HF_HUB_OFFLINE"
            ) from error
        except EntryNotFoundError:
            return Kind(name, False, _architecture(Path(hf_hub_download(model, MODEL_CONFIG))))
    return Kind(name, True, None)


def _architecture(config: Path) -> str:
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{config} does not say what the model is ({error!r}); give another model") from error
