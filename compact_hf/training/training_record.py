"""Reads how a model was trained from its directory.

`compact tune` records it in training.json. For a directory that plain `trl sft` wrote, it is read from what TRL and
PEFT leave there: the base from the adapter's config or the card, the loss from the last checkpoint. Unknown facts are
None or empty, never guessed.
"""

from __future__ import annotations

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
from compact_hf.parsing import read_json
from compact_hf.records import from_json
from compact_hf.regular_files import read_regular

RECORD_FILE: Final = "training.json"
_LIBRARIES: Final = ("trl", "transformers", "peft", "torch")


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """Facts about a training run, as far as they are known; the fields are the keys of training.json.

    Attributes:
        base (`str`, *optional*): the model that training started from, a directory or a repository's name.
        model_type (`str`, *optional*): the name of the model's family.
        base_revision (`str`, *optional*): commit of the base's repository; after plain `trl sft` the revision that the
            recipe names.
        dataset (`str | tuple[str, ...]`): directories or repositories of the training data.
        dataset_config (`str`, *optional*): the dataset's config, such as `with_images`.
        dataset_revision (`str`, *optional*): a tag or a commit.
        dataset_version (`str`, *optional*): X.Y.Z, if the dataset is a release.
        settings (`Mapping[str, Any]`): the recipe's settings, with the overrides applied.
        train (`str`, *optional*): the value of `--train`.
        projector_learning_rate (`float`, *optional*): the projector's learning rate, if it had its own.
        rows (`int`, *optional*): rows per epoch.
        dropped (`Mapping[str, int]`): reason -> number of dropped rows.
        loss (`tuple[tuple[int, float], ...]`): (step, loss in nats per answer token).
        steps (`int`, *optional*): optimizer steps.
        seconds (`float`, *optional*): wall time of training.
        hardware (`str`, *optional*): description of the devices.
        versions (`Mapping[str, str]`): library -> version.
        adapter (`str`, *optional*): the adapter that was merged into the base, if this model is a merge.
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
    """Return the training record of the model in a directory.

    Args:
        directory (`Path`): directory of a model or an adapter.
        settings (`Mapping[str, Any]`, *optional*): the settings of a `trl sft` call that just ended in this Python
            environment; used if there is no training.json.

    Returns:
        `TrainingRecord`: the facts that are known.

    Raises:
        TuningError: if the record, the card or the last checkpoint cannot be read.
    """
    path = directory / RECORD_FILE
    if path.is_file():
        try:
            return from_json(TrainingRecord, read_regular(path))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TuningError(
                f"{path} cannot be read ({reason}): train again, compact tune writes this file"
            ) from error
    # After plain `trl sft`: from its settings if it has just ended, else from what it left in the directory.
    record = _record_from_settings(settings) if settings is not None else _record_from_card(directory)
    steps, loss = _read_curve(directory)
    record = replace(record, steps=steps, loss=loss)
    if not is_adapter(directory) or settings is not None:
        return record
    # For an adapter, take base and revision from PEFT's config.
    adapter = read_adapter_config(directory)
    return replace(record, base=adapter.base, base_revision=adapter.base_revision)


def find_family(directory: Path, record: TrainingRecord) -> ModelFamily:
    """Return the family of a model from its record, its config or the config of its local base.

    Args:
        directory (`Path`): directory of a model or an adapter.
        record (`TrainingRecord`): its training record.

    Returns:
        `ModelFamily`: the family; `ModelFamily` itself if it is unknown.

    Raises:
        UsageError: if the family's package cannot be imported.
    """
    base = Path(record.base) if record.base else directory
    # In order of precedence; an adapter has no config of its own, but its base may be local.
    return get_family(record.model_type or read_model_type(directory) or read_model_type(base))


def read_adapter_info(directory: Path) -> AdapterInfo:
    """Return an adapter's base with its revision, which `compact tune` records and PEFT does not.

    Args:
        directory (`Path`): directory of the adapter.

    Raises:
        TuningError: if the adapter's config or record cannot be read, or names no base.
    """
    adapter = read_adapter_config(directory)
    if adapter.base_revision is None:
        record = read_training_record(directory)
        # The recorded revision is only valid for the recorded base: a config may have been edited since.
        if record.base == adapter.base:
            return replace(adapter, base_revision=record.base_revision)
    return adapter


def _record_from_settings(settings: Mapping[str, Any]) -> TrainingRecord:
    """Return a record from TRL's settings: `dataset_name`, or a mixture as `datasets`, which takes precedence."""
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
    """Return a record from the card in a directory; TRL's card names the base."""
    try:
        header = read_header(directory)
    except (OSError, ValueError) as error:
        raise TuningError(f"the card in {directory} cannot be read ({error}): fix its header or remove it") from error
    # A list of bases does not say which of them training started from.
    base, datasets = header.get("base_model"), header.get("datasets") or []
    return TrainingRecord(base=base if isinstance(base, str) else None, dataset=tuple(str(name) for name in datasets))


def _read_curve(directory: Path) -> tuple[int | None, tuple[tuple[int, float], ...]]:
    """Return the number of steps and the logged losses of the newest checkpoint."""
    # By time and not by step: an earlier run in the same directory may have got further.
    states = sorted(directory.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        return None, ()
    try:
        state = read_json(states[-1])
        losses = tuple((entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry)
        return state["global_step"], losses
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TuningError(f"{states[-1]} cannot be read ({error}): remove that checkpoint") from error
