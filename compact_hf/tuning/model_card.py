"""A tuned model's card: its folder, the settings it was trained with and its scores in, README.md out.

It is written last, over the one that TRL leaves, which calls a LLaVA adapter a text generator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import TuningError

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")
_LIBRARIES: Final = ("trl", "transformers", "peft", "torch")
_SECRET: Final = {"hub_token", "env"}
# Where things lay on one machine is nobody else's business.
_PATHS: Final = {"model_name_or_path", "dataset_name", "output_dir", "chat_template_path"}


def write_card(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    license_id: str | None = None,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tuned model's README.md.

    Args:
        folder (`Path`): the model's or the adapter's; an adapter is known by its `adapter_config.json`.
        settings (`Mapping[str, Any]`): the recipe's, with what replaced them.
        license_id (`str`, *optional*): such as `llama2`; without one the card names none.
        results (`Mapping[str, Any]`, *optional*): the content of a `results.json`.

    Returns:
        `Path`: the card.

    Raises:
        TuningError: there is no such folder, or the card cannot be written.
    """
    path = folder / "README.md"
    text = card(folder, settings=settings, license_id=license_id, results=results)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TuningError(f"the card {path} cannot be written: {error.strerror or error}") from error
    return path


def card(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    license_id: str | None = None,
    results: Mapping[str, Any] | None = None,
) -> str:
    """Return the card's text; arguments as for `write_card`."""
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, StrictUndefined

    adapter = (folder / "adapter_config.json").is_file()
    base, datasets = str(settings["model_name_or_path"]), _datasets(settings)
    metadata = ModelCardData(
        base_model=base if _is_repository(base) else None,
        base_model_relation=("adapter" if adapter else "finetune") if _is_repository(base) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="image-text-to-text",
        datasets=[name for name in datasets if _is_repository(name)] or None,
        license=license_id,
        language="en",
        tags=["compact", "trl", "sft"],
        ignore_metadata_errors=False,
    )
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    return environment.from_string(_template()).render(
        metadata=metadata.to_yaml(),
        name=folder.name,
        adapter=adapter,
        base=_public(base),
        dataset=", ".join(map(_public, datasets)),
        request=SHORT_ANSWER_INSTRUCTION,
        versions=", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        recipe=_recipe(settings),
        results=results,
        scores=_scores(results) if results else (),
    )


def _datasets(settings: Mapping[str, Any]) -> list[str]:
    """Return what was trained on: TRL takes one `dataset_name`, or a mixture as `datasets`, which wins."""
    mixture = settings.get("datasets") or [{"path": settings["dataset_name"]}]
    return [str(one["path"]) for one in mixture]


def _recipe(settings: Mapping[str, Any]) -> str:
    import yaml

    shown: dict[str, Any] = {key: value for key, value in settings.items() if key not in _SECRET}
    for key in _PATHS & shown.keys():
        shown[key] = _public(str(shown[key]))
    if "datasets" in shown:
        shown["datasets"] = [{**one, "path": _public(str(one["path"]))} for one in shown["datasets"]]
    return yaml.safe_dump(shown, sort_keys=False).strip()


def _scores(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    by_k = [(f"k = {k}", score) for k, score in results["by_k"].items()]
    by_capability = list(results["by_capability"].items())
    return [("all", results["overall"]), *by_k, *by_capability]


def _is_repository(name: str) -> bool:
    return bool(_REPOSITORY.fullmatch(name)) and not Path(name).exists()


def _public(name: str) -> str:
    """Return a repository's name as it is, and of a path its last part."""
    return name if _is_repository(name) else Path(name).name


def _template() -> str:
    """Return the template from the installed wheel, or from the checkout that this runs in."""
    package = Path(str(files("compact_hf")))
    for folder in (package / "_model_card", package.parent / "model_card"):
        path = folder / "README.md.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise TuningError(f"the model card's template is missing from {package}; install compact_hf again")
