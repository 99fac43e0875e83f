"""`compact publish` for what was tuned: in goes a model's or adapter's folder, out comes a repository, whole or not.

    compact publish student org/student --base org/llava-base

What is uploaded is put together beside the folder, which stays as it is: weights as safetensors, the processor with its
chat template, an adapter's config with a base that others can load, and the card, written last with the repository's
name in it. Optimizer, checkpoints, logs and pickles stay at home. How it gets there in one piece is hub/push.py's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from compact_hf.dataset.diff import highest, version_of
from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.errors import reading
from compact_hf.hub.files import files_of, tree
from compact_hf.hub.push import Pushed, push, standing
from compact_hf.models.adapter import refuse_other_base
from compact_hf.models.loading import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    first_line,
    holds_model,
    is_adapter,
)
from compact_hf.training.card_results import measured
from compact_hf.training.model_card import ACCURACY, CARD, CURVE, is_ours, is_repository, license_of, put_card
from compact_hf.training.training_record import Facts, facts_of

_PUBLISHED: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    *("adapter_config.json", "config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"),
    *("LICENSE*", "NOTICE*", "*.png", "assembly.json"),
)
_CARDS: Final = (CARD, CURVE, ACCURACY)
_HUBS_OWN: Final = {".gitattributes", CARD}  # what a repository made on the Hub's page holds
_NAMES: Final = ("_name_or_path", "name_or_path")  # older versions wrote down where something was loaded from


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What was published, or would be.

    Attributes:
        tag (`str`, *optional*): `vX.Y.Z`.
        files (`dict[str, int]`): path -> bytes.
        base (`str`, *optional*): what the card names, a repository's name or a folder's.
        base_revision (`str`, *optional*): of that repository.
        pushed (`Pushed`, *optional*): where it stands; None after a dry run.
    """

    tag: str | None
    files: dict[str, int]
    base: str | None
    base_revision: str | None
    pushed: Pushed | None


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    version: str | None = None,
    base: str | None = None,
    results: str | Path | None = None,
    license: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda told: None,
) -> PublishedModel:
    """Publish a tuned model or an adapter in a repository of its own, in one piece.

    The same call goes on after an interruption; until it is done, readers see what was there before.

    Args:
        folder (`str | Path`): a model's or an adapter's; only what loading it needs is published.
        repo_id (`str`): `namespace/name`; created where it is not there.
        version (`str`, *optional*): X.Y.Z, tagged as `vX.Y.Z`; above the last one. Without one, main alone is set.
        base (`str`, *optional*): the base as others find it, `namespace/name` or `namespace/name@revision`; taken at
            the commit that this is now. An adapter that was tuned on a folder needs it.
        results (`str | Path`, *optional*): a folder that `evaluate` made of this very model: its scores go into the
            card.
        license (`str`, *optional*): as the Hub spells it; by default the base's.
        private (`bool`, *optional*, defaults to False): creates it private, and refuses to publish into a public one.
        dry_run (`bool`, *optional*, defaults to False): only checks and lists.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Raises:
        UsageError: a name or the version is none, an adapter's base is a folder and `base` is not given, or scores or a
            licence shall go into a card that a person wrote.
        TuningError: the folder lacks something, the adapter was made for another base, the results are another
            model's, or the repository holds something else.
        HubError: the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    _refuse_incomplete(folder)
    is_own_card = _is_own_card(folder)
    if is_own_card and (results or license):
        raise UsageError(
            f"{folder / CARD} is your own; write scores and licence there yourself, or remove it to have one written"
        )
    tag = _tag(folder, repo_id, version)
    facts = _with_public_base(folder, facts_of(folder), base)
    scores = measured(folder, Path(results)) if results else None
    terms = {"license": license} if license else license_of(facts)
    with TemporaryDirectory(prefix="compact-publish-") as place:
        staged = Path(place)
        _stage(folder, staged, facts, on_progress)
        if is_own_card:
            on_progress(f"{folder / CARD} is your own and is published as it is")
        else:
            put_card(staged, facts, name=repo_id, results=scores, license=terms)
        files = files_of(staged)
        pushed = None
        if not dry_run:
            message = f"Release {tag}" if tag else "Publish the model"
            pushed = push(
                staged, repo_id, repo_type="model", message=message, tag=tag, private=private, on_progress=on_progress
            )
    return PublishedModel(tag, files, facts.base, facts.base_revision, pushed)


def _refuse_incomplete(folder: Path) -> None:
    """Raise where a folder is no model that loads: weights whole and as safetensors, processor, chat template."""
    from safetensors import SafetensorError, safe_open
    from transformers import AutoProcessor

    if not holds_model(folder):
        raise UsageError(
            f"{folder} holds no {MODEL_CONFIG} and no {ADAPTER_CONFIG}; give a model's or adapter's folder"
        )
    weights = set(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        weights |= {folder / name for name in json.loads(index.read_bytes())["weight_map"].values()}
    if not weights:
        raise TuningError(f"{folder} holds no safetensors; save its weights so, nothing else is published")
    for path in sorted(weights):
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise TuningError(f"{path} cannot be read ({first_line(error)}); save it again") from error
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise TuningError(f"{folder} has no processor ({first_line(error)}); save the one of its base there") from error
    if not hasattr(processor, "image_processor") or not processor.chat_template:
        raise TuningError(
            f"the processor in {folder} takes no pictures or has no chat template; save the right one there"
        )


def _tag(folder: Path, repo_id: str, version: str | None) -> str | None:
    """Return the tag to set; raise where the repository holds something else, or a version that is not below."""
    there = standing(repo_id, repo_type="model")
    needed = ADAPTER_CONFIG if is_adapter(folder) else MODEL_CONFIG
    if set(there.files) - _HUBS_OWN and needed not in there.files:
        raise TuningError(
            f"{repo_id} holds something else (no {needed}), which would be replaced; choose another repository"
        )
    if version is None:
        return None
    wanted, last = version_of(version), highest(there.tags)
    if wanted is None:
        raise UsageError(f"{version!r} is not a version; give three numbers such as 1.0.0")
    if last is not None and wanted <= last:
        raise TuningError(f"{repo_id} is at {last.tag}, and a version is never replaced; give one above it")
    return wanted.tag


def _with_public_base(folder: Path, facts: Facts, given: str | None) -> Facts:
    """Return the facts with a base that others can load, at a commit where one is known."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    name, _, revision = (given or facts.base or "").partition("@")
    if not is_repository(name):
        if given:
            raise UsageError(f"--base {given} is no repository; give the base as others find it, namespace/name")
        if is_adapter(folder):
            raise UsageError(
                f"{folder} was tuned on {facts.base}, a folder that nobody else has; publish that with compact publish "
                "and give its repository as --base namespace/name"
            )
        return facts
    commit: str | None = revision or (None if given else facts.base_revision)
    with reading(name, revision or None):
        if given:
            commit = HfApi().model_info(name, revision=commit).sha
        with suppress(EntryNotFoundError):
            hf_hub_download(name, CARD, revision=commit)  # into the cache, where its licence is looked up
    if given and facts.base and Path(facts.base).is_dir():
        _refuse_other_weights(Path(facts.base), name, str(commit))
    if is_adapter(folder):
        refuse_other_base(folder, name, revision=commit)
    return replace(facts, base=name, base_revision=commit)


def _refuse_other_weights(trained_on: Path, base: str, commit: str) -> None:
    """Raise where a repository is not the folder that an adapter was tuned on: their shapes may well be the same."""
    from huggingface_hub import HfApi

    with reading(base):
        files = tree(HfApi(), base, repo_type="model", revision=commit)
    there = {file.lfs.sha256 for path, file in files.items() if path.endswith(".safetensors") and file.lfs}
    for path in sorted(trained_on.glob("*.safetensors")):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() not in there:
                raise TuningError(
                    f"{base} is not the base {trained_on} that this was tuned on: it has no {path.name} with that "
                    f"content; publish that folder as it is, and give its repository"
                )


def _stage(folder: Path, staged: Path, facts: Facts, on_progress: Callable[[str], None]) -> None:
    """Link what is published into `staged`, configs without the places where something lay here."""
    kept = {
        path for pattern in _PUBLISHED for path in folder.glob(pattern) if path.is_file() and path.name not in _CARDS
    }
    for path in sorted(kept):
        changed = _public_config(path, facts)
        if changed is None:
            (staged / path.name).symlink_to(path.resolve())
        else:
            (staged / path.name).write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")
    if _is_own_card(folder):
        for name in _CARDS:
            if (folder / name).is_file():
                (staged / name).symlink_to((folder / name).resolve())
    left = sorted(path.name for path in folder.iterdir() if path not in kept and path.name not in _CARDS)
    if left:
        on_progress(f"not published: {', '.join(left)}")


def _public_config(path: Path, facts: Facts) -> Mapping[str, Any] | None:
    """Return a config as it is published, None where that is as it stands."""
    if not path.name.endswith("config.json"):
        return None
    config: dict[str, Any] = json.loads(path.read_bytes())
    public = {key: value for key, value in config.items() if key not in _NAMES or is_repository(str(value))}
    if path.name == ADAPTER_CONFIG:
        public |= {"base_model_name_or_path": facts.base, "revision": facts.base_revision}
    return public if public != config else None


def _is_own_card(folder: Path) -> bool:
    """Return whether a person wrote or changed the card."""
    path = folder / CARD
    return path.is_file() and not is_ours(path.read_text(encoding="utf-8"))
