"""A tuned model's card: its folder and its scores in, README.md out, training curve and accuracy by k beside it.

It is written last, over the one that TRL or PEFT leaves, which calls a LLaVA adapter a text generator. Everything in it
was written down in training (training_record.py), measured, or stands in the base's own card; the text is that of
model_card/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import TuningError
from compact_hf.models.loading import ADAPTER_CONFIG, is_adapter
from compact_hf.reports.score_charts import loss
from compact_hf.training.card_results import Measured
from compact_hf.training.training_record import Facts, facts_of

if TYPE_CHECKING:
    from compact_hf.reports.figure import Plot

CARD: Final = "README.md"
CURVE: Final = "training_curve.png"
ACCURACY: Final = "accuracy_by_k.png"
MARK: Final = "<!-- compact_hf writes this card anew; take this line out, and it leaves your own words alone. -->"

Kind = Literal["adapter", "merge", "finetune"]

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")
_SECRET: Final = {"hub_token", "env"}
# Where things lay on one machine is nobody else's business.
_PATHS: Final = {"model_name_or_path", "dataset_name", "output_dir", "chat_template_path", "path"}


def write_card(
    folder: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    results: Measured | None = None,
) -> Path:
    """Write README.md into a tuned model's folder, and its training curve and scores where they are known.

    Args:
        folder (`Path`): the model's or the adapter's.
        settings (`Mapping[str, Any]`, *optional*): what `trl sft` was called with just now; see `facts_of`.
        results (`Measured`, *optional*): its scores.

    Returns:
        `Path`: the card.

    Raises:
        TuningError: there is no such folder, what it says of its training cannot be read, or the card cannot be
            written.
    """
    facts = facts_of(folder, settings=settings)
    try:
        return put_card(folder, facts, name=folder.name, results=results, license=license_of(facts))
    except OSError as error:
        raise TuningError(f"the card {folder / CARD} cannot be written: {error.strerror or error}") from error


def put_card(
    folder: Path,
    facts: Facts,
    *,
    name: str,
    results: Measured | None = None,
    license: Mapping[str, str],
) -> Path:
    """Write README.md, the training curve and accuracy by k from what is known already.

    Args:
        folder (`Path`): where the model lies.
        facts (`Facts`): how it was trained.
        name (`str`): by which it is loaded: a repository's, or the folder's.
        results (`Measured`, *optional*): its scores.
        license (`Mapping[str, str]`): as in a card's header: `license`, and with `other` also `license_name` and
            `license_link`; empty where none is known.

    Raises:
        TuningError: not even the base is known.
        OSError: the folder cannot be written.
    """
    if facts.base is None:
        raise TuningError(
            f"how {name} was trained is written down nowhere; write its card yourself, as README.md there"
        )
    curve = loss(facts.loss) if facts.loss else None
    if curve:
        (folder / CURVE).write_bytes(curve.png())
    if results:
        (folder / ACCURACY).write_bytes(results.plot().png())
    else:
        (folder / ACCURACY).unlink(missing_ok=True)  # another model's, as this one was before it was trained anew
    path = folder / CARD
    path.write_text(_card(folder, facts, name, results, license, curve), encoding="utf-8")
    return path


def license_of(facts: Facts) -> dict[str, str]:
    """Return the licence fields of the base's card, as far as it lies here or in the cache of the Hub's client."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    base = facts.base or ""
    path: Any = Path(base) / CARD
    if is_repository(base):
        path = try_to_load_from_cache(base, CARD, revision=facts.base_revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        header = ModelCard.load(path).data.to_dict()
    except ValueError as error:
        raise TuningError(f"the card of the base, {path}, has a header that is no YAML ({error}); mend it") from error
    return {key: str(header[key]) for key in ("license", "license_name", "license_link") if header.get(key)}


def is_ours(text: str) -> bool:
    """Return whether a card was written by a program, TRL's and PEFT's included, and may be written anew."""
    return MARK in text or "[More Information Needed]" in text or "- generated_from_trainer" in text


def is_repository(name: str) -> bool:
    """Return whether a name is one on the Hub, and no folder here."""
    return bool(_REPOSITORY.fullmatch(name)) and not Path(name).exists()


def _card(
    folder: Path,
    facts: Facts,
    name: str,
    results: Measured | None,
    license: Mapping[str, str],
    curve: Plot | None,
) -> str:
    from jinja2 import Environment, StrictUndefined

    kind: Kind = "adapter" if is_adapter(folder) else "merge" if facts.adapter else "finetune"
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "number": "{:,}".format,
        "duration": _duration,
        "repository": _linked,
    }
    return environment.from_string(_template()).render(
        metadata=_metadata(facts, kind, name, results, license),
        name=name,
        kind=kind,
        facts=facts,
        base=_public(str(facts.base)),
        datasets=", ".join(_linked(one, "datasets/") for one in facts.datasets) or "data that was not written down",
        lora=_lora(folder) if kind == "adapter" else None,
        request=SHORT_ANSWER_INSTRUCTION,
        curve=curve and _told(facts.loss),
        curve_file=CURVE,
        recipe=_recipe(facts.settings),
        results=results,
        accuracy=results and results.plot().alt,
        accuracy_file=ACCURACY,
        license=license.get("license_name") or license.get("license"),
        of_base=license == license_of(facts),
        mark=MARK,
    )


def _told(curve: Sequence[tuple[int, float]]) -> str:
    (first, high), (last, low) = curve[0], curve[-1]
    return f"Training loss by step: {high:.2f} at step {first}, {low:.2f} at step {last}"


def _lora(folder: Path) -> Mapping[str, Any] | None:
    """Return an adapter's config, None for one of another kind than LoRA."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return config if config.get("peft_type") == "LORA" else None


def _metadata(facts: Facts, kind: Kind, name: str, results: Measured | None, license: Mapping[str, str]) -> str:
    from huggingface_hub import ModelCardData

    parts = [part for part in (facts.base, facts.adapter) if part and is_repository(part)]
    return ModelCardData(
        base_model=(parts if len(parts) > 1 else parts[0]) if parts else None,
        base_model_relation=kind if parts else None,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag="image-text-to-text",
        datasets=[one for one in facts.datasets if is_repository(one)] or None,
        language="en",
        tags=["compact", "trl", "sft", *(["lora"] if kind == "adapter" else [])],
        metrics=["accuracy"] if results else None,
        model_name=name if results else None,
        eval_results=results.index() if results else None,
        ignore_metadata_errors=False,
        **license,
    ).to_yaml()


def _recipe(settings: Mapping[str, Any]) -> str:
    import yaml

    shown = _without_places({key: value for key, value in settings.items() if key not in _SECRET})
    return yaml.safe_dump(shown, sort_keys=False).strip() if shown else ""


def _without_places(value: Any, key: str = "") -> Any:
    """Return settings with every path cut to its last part."""
    match value:
        case Mapping():
            return {name: _without_places(one, name) for name, one in value.items()}
        case list() | tuple():
            return [_without_places(one, key) for one in value]
        case str() if key in _PATHS or Path(value).is_absolute():
            return _public(value)
        case _:
            return value


def _public(name: str) -> str:
    """Return a repository's name as it is, and of a path its last part."""
    return name if is_repository(name) else Path(name).name


def _linked(name: str, kind: str = "") -> str:
    """Return a repository's name with a link to it, and of a path its last part."""
    return f"[{name}](https://huggingface.co/{kind}{name})" if is_repository(name) else _public(name)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _template() -> str:
    """Return the template from the installed wheel, or from the checkout that this runs in."""
    package = Path(str(files("compact_hf")))
    for folder in (package / "_model_card", package.parent / "model_card"):
        path = folder / "README.md.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise TuningError(f"the model card's template is missing from {package}; install compact_hf again")
