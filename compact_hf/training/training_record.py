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

from compact_hf.dataset.card import header_of
from compact_hf.errors import TuningError
from compact_hf.models.adapter import Adapter, adapter_at
from compact_hf.models.loading import is_adapter
from compact_hf.records import from_json

FACTS: Final = "training.json"
_LIBRARIES: Final = ("trl", "transformers", "peft", "torch")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a training run; the fields are the keys of training.json.

    Attributes:
        base (`str`, *optional*): the model that it started from, a folder or a repository's name.
        base_revision (`str`, *optional*): of that repository.
        dataset (`str | tuple[str, ...]`): what was trained on, folders or repositories' names.
        dataset_config (`str`, *optional*): such as `with_images`.
        dataset_revision (`str`, *optional*): a tag or a commit.
        dataset_version (`str`, *optional*): X.Y.Z, where it is a release, in a folder or on the Hub.
        settings (`Mapping[str, Any]`): the recipe's, with what replaced them.
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
    base_revision: str | None = None
    dataset: str | tuple[str, ...] = ()
    dataset_config: str | None = None
    dataset_revision: str | None = None
    dataset_version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
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


def facts_of(folder: Path, *, settings: Mapping[str, Any] | None = None) -> Facts:
    """Return what is known of how the model in a folder was trained.

    Args:
        folder (`Path`): a model's or an adapter's.
        settings (`Mapping[str, Any]`, *optional*): what `trl sft` was called with just now, by this very Python: used
            where `compact tune` has written nothing down.

    Raises:
        TuningError: what is written down there cannot be read.
    """
    written = folder / FACTS
    if written.is_file():
        try:
            return from_json(Facts, written.read_bytes())
        except (OSError, ValueError) as error:
            told = " ".join(str(error).split())
            raise TuningError(f"{written} cannot be read ({told}); compact tune writes it, train again") from error
    facts = _of_settings(settings) if settings is not None else _of_card(folder)
    steps, loss = _curve(folder)
    facts = replace(facts, steps=steps, loss=loss)
    if not is_adapter(folder) or settings is not None:
        return facts
    adapter = adapter_at(folder)
    return replace(facts, base=adapter.base, base_revision=adapter.base_revision)


def adapter_of(folder: Path) -> Adapter:
    """Return an adapter with its base's revision, which PEFT does not write down and `compact tune` does.

    Raises:
        TuningError: what it says of itself cannot be read, or names no base.
    """
    adapter = adapter_at(folder)
    if adapter.base_revision is None:
        facts = facts_of(folder)
        if facts.base == adapter.base:
            return replace(adapter, base_revision=facts.base_revision)
    return adapter


def _of_settings(settings: Mapping[str, Any]) -> Facts:
    """Return what TRL's settings say: it takes one `dataset_name`, or a mixture as `datasets`, which wins."""
    mixture = settings.get("datasets") or [{"path": settings["dataset_name"]}]
    return Facts(
        base=str(settings["model_name_or_path"]),
        base_revision=settings.get("model_revision"),
        dataset=tuple(str(one["path"]) for one in mixture),
        dataset_config=settings.get("dataset_config"),
        settings=settings,
        versions={name: version(name) for name in _LIBRARIES},
    )


def _of_card(folder: Path) -> Facts:
    """Return what the card that lies there says; TRL's names the base."""
    try:
        header = header_of(folder)
    except (OSError, ValueError) as error:
        raise TuningError(f"the card in {folder} cannot be read ({error}); mend its header, or remove it") from error
    base, datasets = header.get("base_model"), header.get("datasets") or []
    return Facts(base=base if isinstance(base, str) else None, dataset=tuple(str(name) for name in datasets))


def _curve(folder: Path) -> tuple[int | None, tuple[tuple[int, float], ...]]:
    """Return steps and loss as the newest checkpoint has them."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        return None, ()
    try:
        state = json.loads(states[-1].read_text(encoding="utf-8"))
        logged = tuple((entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry)
        return state["global_step"], logged
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TuningError(f"{states[-1]} cannot be read ({error}); remove that checkpoint") from error
