"""A tuned model's card: its folder and its scores in, README.md out, training curve and accuracy by k beside it.

It is written last, over the one that TRL or PEFT leaves, which calls a LLaVA adapter a text generator. Everything in it
was written down in training (training_record.py), measured, or stands in the base's own card; the text is that of
model_card/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import TuningError
from compact_hf.hub.ref import RepoRef
from compact_hf.models.loading import ADAPTER_CONFIG, is_adapter
from compact_hf.reports.score_charts import plot_loss
from compact_hf.training.card_results import CardResults
from compact_hf.training.training_record import TrainingRecord, find_family, read_training_record

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot

CARD_FILE: Final = "README.md"
CURVE_FILE: Final = "training_curve.png"
ACCURACY_FILE: Final = "accuracy_by_k.png"
GENERATED_MARKER: Final = (
    "<!-- compact_hf writes this card anew; take this line out, and it leaves your own words alone. -->"
)

ModelKind = Literal["adapter", "merge", "finetune"]

_SECRET_KEYS: Final = {"hub_token", "env"}
# Where things lay on one machine is nobody else's business.
_PATH_KEYS: Final = {"model_name_or_path", "dataset_name", "output_dir", "chat_template_path", "path"}


def write_card(
    directory: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    results: CardResults | None = None,
) -> Path:
    """Write README.md into a tuned model's folder, and its training curve and scores where they are known.

    Args:
        directory (`Path`): the model's or the adapter's.
        settings (`Mapping[str, Any]`, *optional*): what `trl sft` was called with just now; see `read_training_record`.
        results (`CardResults`, *optional*): its scores.

    Returns:
        `Path`: the card.

    Raises:
        TuningError: there is no such folder, what it says of its training cannot be read, or the card cannot be
            written.
    """
    record = read_training_record(directory, settings=settings)
    try:
        return write_card_files(
            directory, record, name=directory.name, results=results, license=read_base_license(record)
        )
    except OSError as error:
        raise TuningError(f"the card {directory / CARD_FILE} cannot be written: {error.strerror or error}") from error


def write_card_files(
    directory: Path,
    record: TrainingRecord,
    *,
    name: str,
    results: CardResults | None = None,
    license: Mapping[str, str],
) -> Path:
    """Write README.md, the training curve and accuracy by k from what is known already.

    Args:
        directory (`Path`): where the model lies.
        record (`TrainingRecord`): how it was trained.
        name (`str`): by which it is loaded: a repository's, or the folder's.
        results (`CardResults`, *optional*): its scores.
        license (`Mapping[str, str]`): as in a card's header: `license`, and with `other` also `license_name` and
            `license_link`; empty where none is known.

    Raises:
        TuningError: not even the base is known.
        OSError: the folder cannot be written.
    """
    if record.base is None:
        raise TuningError(
            f"how {name} was trained is written down nowhere; write its card yourself, as README.md there"
        )
    curve = plot_loss(record.loss) if record.loss else None
    if curve:
        (directory / CURVE_FILE).write_bytes(curve.png())
    if results:
        (directory / ACCURACY_FILE).write_bytes(results.plot().png())
    else:
        (directory / ACCURACY_FILE).unlink(
            missing_ok=True
        )  # another model's, as this one was before it was trained anew
    path = directory / CARD_FILE
    path.write_text(_render_card(directory, record, name, results, license, curve), encoding="utf-8")
    return path


def read_base_license(record: TrainingRecord) -> dict[str, str]:
    """Return the licence fields of the base's card, as far as it lies here or in the cache of the Hub's client."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    base = record.base or ""
    path: Any = Path(base) / CARD_FILE
    if is_repository(base):
        path = try_to_load_from_cache(base, CARD_FILE, revision=record.base_revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        header = ModelCard.load(path).data.to_dict()
    except ValueError as error:
        raise TuningError(f"the card of the base, {path}, has a header that is no YAML ({error}); mend it") from error
    return {key: str(header[key]) for key in ("license", "license_name", "license_link") if header.get(key)}


def is_generated(text: str) -> bool:
    """Return whether a card was written by a program, TRL's and PEFT's included, and may be written anew."""
    return GENERATED_MARKER in text or "[More Information Needed]" in text or "- generated_from_trainer" in text


def is_repository(name: str) -> bool:
    """Return whether a name is one on the Hub, and no folder here."""
    ref = RepoRef.parse(name)
    return ref is not None and ref.revision is None and not Path(name).exists()


def _render_card(
    directory: Path,
    record: TrainingRecord,
    name: str,
    results: CardResults | None,
    license: Mapping[str, str],
    curve: Plot | None,
) -> str:
    from jinja2 import Environment, StrictUndefined

    kind: ModelKind = "adapter" if is_adapter(directory) else "merge" if record.adapter else "finetune"
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "number": "{:,}".format,
        "duration": _format_duration,
        "repository": _format_link,
    }
    return environment.from_string(_read_template()).render(
        metadata=_build_metadata(record, kind, name, results, license),
        name=name,
        kind=kind,
        facts=record,
        base=_public_name(str(record.base)),
        datasets=", ".join(_format_link(dataset, "datasets/") for dataset in record.datasets)
        or "data that was not written down",
        lora=_read_lora_config(directory) if kind == "adapter" else None,
        request=SHORT_ANSWER_INSTRUCTION,
        family_text=find_family(directory, record).card_text,
        curve=curve and _describe_curve(record.loss),
        curve_file=CURVE_FILE,
        recipe=_format_recipe(record.settings),
        results=results,
        accuracy=results and results.plot().alt,
        accuracy_file=ACCURACY_FILE,
        license=license.get("license_name") or license.get("license"),
        of_base=license == read_base_license(record),
        mark=GENERATED_MARKER,
    )


def _describe_curve(curve: Sequence[tuple[int, float]]) -> str:
    (first_step, first_loss), (last_step, last_loss) = curve[0], curve[-1]
    return f"Training loss by step: {first_loss:.2f} at step {first_step}, {last_loss:.2f} at step {last_step}"


def _read_lora_config(directory: Path) -> Mapping[str, Any] | None:
    """Return an adapter's config, None for one of another kind than LoRA."""
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return config if config.get("peft_type") == "LORA" else None


def _build_metadata(
    record: TrainingRecord, kind: ModelKind, name: str, results: CardResults | None, license: Mapping[str, str]
) -> str:
    from huggingface_hub import ModelCardData

    base_models = [model for model in (record.base, record.adapter) if model and is_repository(model)]
    return ModelCardData(
        base_model=(base_models if len(base_models) > 1 else base_models[0]) if base_models else None,
        base_model_relation=kind if base_models else None,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag="image-text-to-text",
        datasets=[dataset for dataset in record.datasets if is_repository(dataset)] or None,
        language="en",
        tags=["compact", "trl", "sft", *(["lora"] if kind == "adapter" else [])],
        metrics=[results.metric.lower()] if results else None,
        model_name=name if results else None,
        eval_results=results.eval_results() if results else None,
        ignore_metadata_errors=False,
        **license,
    ).to_yaml()


def _format_recipe(settings: Mapping[str, Any]) -> str:
    import yaml

    public_settings = _strip_paths({key: value for key, value in settings.items() if key not in _SECRET_KEYS})
    return yaml.safe_dump(public_settings, sort_keys=False).strip() if public_settings else ""


def _strip_paths(value: Any, key: str = "") -> Any:
    """Return settings with every path cut to its last part."""
    match value:
        case Mapping():
            return {name: _strip_paths(item, name) for name, item in value.items()}
        case list() | tuple():
            return [_strip_paths(item, key) for item in value]
        case str() if key in _PATH_KEYS or Path(value).is_absolute():
            return _public_name(value)
        case _:
            return value


def _public_name(name: str) -> str:
    """Return a repository's name as it is, and of a path its last part."""
    return name if is_repository(name) else Path(name).name


def _format_link(name: str, kind: str = "") -> str:
    """Return a repository's name with a link to it, and of a path its last part."""
    return f"[{name}](https://huggingface.co/{kind}{name})" if is_repository(name) else _public_name(name)


def _format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _read_template() -> str:
    """Return the template from the installed wheel, or from the checkout that this runs in."""
    package = Path(str(files("compact_hf")))
    for directory in (package / "_model_card", package.parent / "model_card"):
        path = directory / "README.md.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise TuningError(f"the model card's template is missing from {package}; install compact_hf again")
