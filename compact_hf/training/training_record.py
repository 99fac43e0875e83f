"""How a model came to be: its folder in, what is known of its training out.

`compact tune` writes it down (training.json). Of a folder that plain `trl sft` made, it is what TRL and PEFT leave
there: the base in the adapter's config or in the card, the loss in the last checkpoint. What is not known is None or
empty, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.card import read_header
from compact_hf.errors import TuningError
from compact_hf.models.adapter import AdapterInfo, read_adapter_config
from compact_hf.models.family import ModelFamily
from compact_hf.models.loading import is_adapter, read_model_type
from compact_hf.models.registry import get_family
from compact_hf.records import from_json

RECORD_FILE: Final = "training.json"
_LIBRARIES: Final = ("trl", "transformers", "peft", "torch")


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What is known of a training run; the fields are the keys of training.json.

    Attributes:
        base (`str`, *optional*): the model that it started from, a folder or a repository's name.
        model_type (`str`, *optional*): the name of its family.
        base_revision (`str`, *optional*): of that repository.
        dataset (`str | tuple[str, ...]`): what was trained on, folders or repositories' names.
        dataset_config (`str`, *optional*): such as `with_images`.
        dataset_revision (`str`, *optional*): a tag or a commit.
        dataset_version (`str`, *optional*): X.Y.Z, where it is a release, in a folder or on the Hub.
        settings (`Mapping[str, Any]`): the recipe's, with what replaced them.
        train (`str`, *optional*): what `--train` said was trained.
        projector_learning_rate (`float`, *optional*): where it was another than the rest's.
        rows (`int`, *optional*): trained on in an epoch.
        dropped (`Mapping[str, int]`): reason -> rows that were left out.
        loss (`tuple[tuple[int, float], ...]`): (step, loss in nats per answer token).
        steps (`int`, *optional*): optimizer steps.
        seconds (`float`, *optional*): wall time.
        hardware (`str`, *optional*): in words.
        versions (`Mapping[str, str]`): library -> version.
        adapter (`str`, *optional*): the adapter, where this is its base with the adapter merged in.
    """

    base: str | None = None
    model_type: str | None = None
    base_revision: str | None = None
    dataset: str | tuple[str, ...] = ()
    dataset_config: str | None = None
    dataset_revision: str | None = None
    dataset_version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    train: str | None = None
    projector_learning_rate: float | None = None
    rows: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    loss: tuple[tuple[int, float], ...] = ()
    steps: int | None = None
    seconds: float | None = None
    hardware: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    adapter: str | None = None

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,) if isinstance(self.dataset, str) else self.dataset


def read_training_record(directory: Path, *, settings: Mapping[str, Any] | None = None) -> TrainingRecord:
    """Return what is known of how the model in a folder was trained.

    Args:
        directory (`Path`): a model's or an adapter's.
        settings (`Mapping[str, Any]`, *optional*): what `trl sft` was called with just now, by this very Python: used
            where `compact tune` has written nothing down.

    Raises:
        TuningError: what is written down there cannot be read.
    """
    path = directory / RECORD_FILE
    if path.is_file():
        try:
            return from_json(TrainingRecord, path.read_bytes())
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TuningError(f"{path} cannot be read ({reason}); compact tune writes it, train again") from error
    record = _record_from_settings(settings) if settings is not None else _record_from_card(directory)
    steps, loss = _read_curve(directory)
    record = replace(record, steps=steps, loss=loss)
    if not is_adapter(directory) or settings is not None:
        return record
    adapter = read_adapter_config(directory)
    return replace(record, base=adapter.base, base_revision=adapter.base_revision)


def find_family(directory: Path, record: TrainingRecord) -> ModelFamily:
    """Return the family of the model in a directory, as far as its record, its config or its base here say it.

    Raises:
        UsageError: the family's package cannot be imported.
    """
    base = Path(record.base) if record.base else directory
    return get_family(record.model_type or read_model_type(directory) or read_model_type(base))


def read_adapter_info(directory: Path) -> AdapterInfo:
    """Return an adapter with its base's revision, which PEFT does not write down and `compact tune` does.

    Raises:
        TuningError: what it says of itself cannot be read, or names no base.
    """
    adapter = read_adapter_config(directory)
    if adapter.base_revision is None:
        record = read_training_record(directory)
        if record.base == adapter.base:
            return replace(adapter, base_revision=record.base_revision)
    return adapter


def _record_from_settings(settings: Mapping[str, Any]) -> TrainingRecord:
    """Return what TRL's settings say: it takes one `dataset_name`, or a mixture as `datasets`, which wins."""
    mixture = settings.get("datasets") or [{"path": settings["dataset_name"]}]
    return TrainingRecord(
        base=str(settings["model_name_or_path"]),
        base_revision=settings.get("model_revision"),
        dataset=tuple(str(dataset["path"]) for dataset in mixture),
        dataset_config=settings.get("dataset_config"),
        settings=settings,
        versions={name: version(name) for name in _LIBRARIES},
    )


def _record_from_card(directory: Path) -> TrainingRecord:
    """Return what the card that lies there says; TRL's names the base."""
    try:
        header = read_header(directory)
    except (OSError, ValueError) as error:
        raise TuningError(f"the card in {directory} cannot be read ({error}); mend its header, or remove it") from error
    base, datasets = header.get("base_model"), header.get("datasets") or []
    return TrainingRecord(base=base if isinstance(base, str) else None, dataset=tuple(str(name) for name in datasets))


def _read_curve(directory: Path) -> tuple[int | None, tuple[tuple[int, float], ...]]:
    """Return steps and loss as the newest checkpoint has them."""
    states = sorted(directory.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        return None, ()
    try:
        state = json.loads(states[-1].read_text(encoding="utf-8"))
        losses = tuple((entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry)
        return state["global_step"], losses
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TuningError(f"{states[-1]} cannot be read ({error}); remove that checkpoint") from error
