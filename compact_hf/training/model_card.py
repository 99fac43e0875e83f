"""Writes a tuned model's card: README.md, with figures of the training loss and of accuracy by k.

The card is written last and replaces the one that TRL or PEFT leaves, which calls a LLaVA adapter a text generator. Its
facts come from the training record (training_record.py), from evaluation results, or from the card of the base. The
template is in model_card/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from markupsafe import Markup

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import TuningError
from compact_hf.hub.card import CARD, mark_card
from compact_hf.hub.card_rules import read_license_fields
from compact_hf.hub.ref import RepoRef, other_endpoint, page_url
from compact_hf.models.loading import ADAPTER_CONFIG, is_adapter
from compact_hf.parsing import read_card_header, read_json
from compact_hf.reports.markdown import escape_markdown, make_environment
from compact_hf.reports.score_charts import plot_loss
from compact_hf.training.card_results import CardResults
from compact_hf.training.training_record import TrainingRecord, find_family, read_training_record

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot

CURVE_FILE: Final = "training_curve.png"
ACCURACY_FILE: Final = "accuracy_by_k.png"

ModelKind = Literal["adapter", "merge", "finetune"]

# TRL's `env` sets environment variables, which may hold keys and tokens.
_SECRET_KEYS: Final = {"hub_token", "env"}
# Settings with local paths, which the card cuts to their last component.
_PATH_KEYS: Final = {"model_name_or_path", "dataset_name", "output_dir", "chat_template_path", "path"}


def write_card(
    directory: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    results: CardResults | None = None,
) -> Path:
    """Write README.md into a tuned model's directory, with its training curve and scores if they are known.

    Args:
        directory (`Path`): directory of the model or adapter.
        settings (`Mapping[str, Any]`, *optional*): the settings of the `trl sft` call that just ended; see
            `read_training_record`.
        results (`CardResults`, *optional*): the model's evaluation results.

    Returns:
        `Path`: the path of the card.

    Raises:
        TuningError: if the directory does not exist, its training record cannot be read, or the card cannot be
            written.
    """
    record = read_training_record(directory, settings=settings)
    try:
        return write_card_files(
            directory, record, name=directory.name, results=results, license=read_base_license(record)
        )
    except OSError as error:
        raise TuningError(
            f"the card {directory / CARD} cannot be written ({error.strerror or error}): make its directory "
            "writable, or free disk space"
        ) from error


def write_card_files(
    directory: Path,
    record: TrainingRecord,
    *,
    name: str,
    results: CardResults | None = None,
    license: Mapping[str, str],
) -> Path:
    """Write README.md and the figures of training loss and accuracy by k from a given record.

    Args:
        directory (`Path`): directory of the model.
        record (`TrainingRecord`): how the model was trained.
        name (`str`): the name to load the model by: a repository's, or its directory's.
        results (`CardResults`, *optional*): the model's evaluation results.
        license (`Mapping[str, str]`): license fields of the card's header: `license`, and if that is `other` also
            `license_name` and `license_link`; empty if the license is unknown.

    Returns:
        `Path`: the path of the card.

    Raises:
        TuningError: if the record does not name the base.
        OSError: if the directory cannot be written.
    """
    if record.base is None:
        raise TuningError(
            f"{name} has no record of its training: write its card yourself, as README.md in its directory"
        )
    curve = plot_loss(record.loss) if record.loss else None
    if curve:
        (directory / CURVE_FILE).write_bytes(curve.png())
    if results:
        (directory / ACCURACY_FILE).write_bytes(results.plot().png())
    else:
        (directory / ACCURACY_FILE).unlink(missing_ok=True)  # left by an earlier model in this directory
    path = directory / CARD
    path.write_text(mark_card(_render_card(directory, record, name, results, license, curve)), encoding="utf-8")
    return path


def read_base_license(record: TrainingRecord) -> dict[str, Any]:
    """Return the license fields of the base's card, if the card is local or in the Hub's cache; else nothing.

    Args:
        record (`TrainingRecord`): names the base.

    Raises:
        TuningError: if the card's header cannot be parsed.
    """
    from huggingface_hub import try_to_load_from_cache

    if not record.base:
        return {}
    base = record.base
    # A local base has its card beside its weights. For one on the Hub, only the cache is read, so that this works
    # offline.
    path: Any = Path(base) / CARD
    if is_repository(base):
        path = try_to_load_from_cache(base, CARD, revision=record.base_revision)
    # The cache returns None for an unknown file, and a marker object for one that does not exist in the repository.
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        header = read_card_header(Path(path))
    except (OSError, ValueError) as error:
        raise TuningError(
            f"the header of the base's card {path} is not valid YAML ({error}): fix it and retry"
        ) from error
    page = f"{page_url(base)}/blob/{record.base_revision or 'main'}" if is_repository(base) else ""
    return read_license_fields(header, page=page)


def is_repository(name: str) -> bool:
    """Return whether a name is that of a repository on the Hub, and not a local directory.

    Args:
        name (`str`): a name without a revision, or a path.
    """
    # A path such as `runs/base` also has the form of a repository's name.
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
    """Return the text of the card from the template in model_card/."""
    # A merged model has a record of the adapter; without it, all weights were trained.
    kind: ModelKind = "adapter" if is_adapter(directory) else "merge" if record.adapter else "finetune"
    environment = make_environment(number="{:,}".format, duration=_format_duration, repository=_format_link)
    return environment.from_string(_read_template()).render(
        metadata=_build_metadata(record, kind, name, results, license),
        name=name,
        kind=kind,
        facts=record,
        base=_public_name(str(record.base)),
        datasets=Markup(", ").join(_format_link(dataset, "datasets") for dataset in record.datasets)
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
        endpoint=other_endpoint(),
    )


def _describe_curve(curve: Sequence[tuple[int, float]]) -> str:
    """Return the figure's alternative text: first and last loss."""
    (first_step, first_loss), (last_step, last_loss) = curve[0], curve[-1]
    return f"Training loss by step: {first_loss:.2f} at step {first_step}, {last_loss:.2f} at step {last_step}"


def _read_lora_config(directory: Path) -> Mapping[str, Any] | None:
    """Return an adapter's config, None if it is not a LoRA."""
    try:
        config = read_json(directory / ADAPTER_CONFIG)
    except (OSError, ValueError) as error:
        raise TuningError(f"{directory / ADAPTER_CONFIG} cannot be read ({error}): save the adapter again") from error
    return config if isinstance(config, dict) and config.get("peft_type") == "LORA" else None


def _build_metadata(
    record: TrainingRecord, kind: ModelKind, name: str, results: CardResults | None, license: Mapping[str, str]
) -> str:
    """Return the card's header as YAML."""
    from huggingface_hub import ModelCardData

    # A merged model has two parents: the base and the adapter.
    base_models = [model for model in (record.base, record.adapter) if model and is_repository(model)]
    return ModelCardData(
        base_model=(base_models if len(base_models) > 1 else base_models[0]) if base_models else None,
        base_model_relation=kind if base_models else None,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag="image-text-to-text",
        datasets=[dataset for dataset in record.datasets if is_repository(dataset)] or None,
        language="en",
        tags=["compact", "trl", "sft", *(["lora"] if kind == "adapter" else [])],
        metrics=[results.metric_identifier] if results else None,
        model_name=name if results else None,
        eval_results=results.eval_results() if results else None,
        ignore_metadata_errors=False,
        **license,
    ).to_yaml()


def _format_recipe(settings: Mapping[str, Any]) -> str:
    """Return the recipe as YAML, without secrets and local paths."""
    import yaml

    public_settings = _strip_paths({key: value for key, value in settings.items() if key not in _SECRET_KEYS})
    return yaml.safe_dump(public_settings, sort_keys=False).strip() if public_settings else ""


def _strip_paths(value: Any, key: str = "") -> Any:
    """Return settings with every path cut to its last component."""
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
    """Return a repository's name unchanged, or the last component of a path."""
    return name if is_repository(name) else Path(name).name


def _format_link(name: str, kind: str = "") -> Markup:
    """Return a Markdown link to a repository, or the last component of a path."""
    if not is_repository(name):
        return escape_markdown(_public_name(name))
    # The name of a repository has no special characters.
    return Markup(f"[{name}]({page_url(name, kind=kind)})")


def _format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _read_template() -> str:
    """Return the card's template, from the installed wheel or from a source checkout."""
    package = Path(str(files("compact_hf")))
    for directory in (package / "_model_card", package.parent / "model_card"):
        path = directory / "README.md.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise TuningError(f"the model card's template is missing from {package}: reinstall compact_hf")
