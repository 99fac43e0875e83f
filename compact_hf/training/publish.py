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

from compact_hf.dataset.diff import highest_version, parse_version
from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.files import get_repo_files, list_files
from compact_hf.hub.push import PushResult, get_remote_state, push
from compact_hf.hub.ref import RepoRef
from compact_hf.models.adapter import check_adapter_base
from compact_hf.models.loading import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    first_line,
    has_model,
    is_adapter,
    load_processor,
)
from compact_hf.training.card_results import read_card_results
from compact_hf.training.model_card import (
    ACCURACY_FILE,
    CARD_FILE,
    CURVE_FILE,
    is_generated,
    is_repository,
    read_base_license,
    write_card_files,
)
from compact_hf.training.training_record import TrainingRecord, find_family, read_training_record

_PUBLISHED_PATTERNS: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    *("adapter_config.json", "config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"),
    *("LICENSE*", "NOTICE*", "*.png", "assembly.json"),
)
_CARD_FILES: Final = (CARD_FILE, CURVE_FILE, ACCURACY_FILE)
_HUB_DEFAULT_FILES: Final = {".gitattributes", CARD_FILE}  # what a repository made on the Hub's page holds
_LOCAL_PATH_KEYS: Final = ("_name_or_path", "name_or_path")  # older versions wrote down where something was loaded from


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What was published, or would be.

    Attributes:
        tag (`str`, *optional*): `vX.Y.Z`.
        files (`dict[str, int]`): path -> bytes.
        base (`str`, *optional*): what the card names, a repository's name or a folder's.
        base_revision (`str`, *optional*): of that repository.
        pushed (`PushResult`, *optional*): where it stands; None after a dry run.
    """

    tag: str | None
    files: dict[str, int]
    base: str | None
    base_revision: str | None
    pushed: PushResult | None


def publish_model(
    directory: str | Path,
    repo_id: str,
    *,
    version: str | None = None,
    base: str | None = None,
    results: str | Path | None = None,
    license: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PublishedModel:
    """Publish a tuned model or an adapter in a repository of its own, in one piece.

    The same call goes on after an interruption; until it is done, readers see what was there before.

    Args:
        directory (`str | Path`): a model's or an adapter's; only what loading it needs is published.
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
    directory = Path(directory)
    _check_loadable(directory)
    has_user_card = _has_user_card(directory)
    if has_user_card and (results or license):
        raise UsageError(
            f"{directory / CARD_FILE} is your own; write scores and licence there yourself, or remove it to "
            "have one written"
        )
    tag = _choose_tag(directory, repo_id, version)
    record = _resolve_public_base(directory, read_training_record(directory), base)
    scores = read_card_results(directory, Path(results)) if results else None
    license_fields = {"license": license} if license else read_base_license(record)
    with TemporaryDirectory(prefix="compact-publish-") as temp_directory:
        staging = Path(temp_directory)
        _stage_files(directory, staging, record, on_progress)
        if has_user_card:
            on_progress(f"{directory / CARD_FILE} is your own and is published as it is")
        else:
            write_card_files(staging, record, name=repo_id, results=scores, license=license_fields)
        files = list_files(staging)
        pushed = None
        if not dry_run:
            message = f"Release {tag}" if tag else "Publish the model"
            pushed = push(
                staging, repo_id, repo_type="model", message=message, tag=tag, private=private, on_progress=on_progress
            )
    return PublishedModel(tag, files, record.base, record.base_revision, pushed)


def _check_loadable(directory: Path) -> None:
    """Raise where a folder is no model that loads: weights whole and as safetensors, processor, chat template."""
    from safetensors import SafetensorError, safe_open

    if not has_model(directory):
        raise UsageError(
            f"{directory} holds no {MODEL_CONFIG} and no {ADAPTER_CONFIG}; give a model's or adapter's folder"
        )
    weights = set(directory.glob("*.safetensors"))
    for index in directory.glob("*.safetensors.index.json"):
        weights |= {directory / name for name in json.loads(index.read_bytes())["weight_map"].values()}
    if not weights:
        raise TuningError(f"{directory} holds no safetensors; save its weights so, nothing else is published")
    for path in sorted(weights):
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise TuningError(f"{path} cannot be read ({first_line(error)}); save it again") from error
    try:
        find_family(directory, read_training_record(directory))
        processor = load_processor(directory)
    except (OSError, ValueError, KeyError) as error:
        raise TuningError(
            f"{directory} has no processor ({first_line(error)}); save the one of its base there"
        ) from error
    if not hasattr(processor, "image_processor") or not processor.chat_template:
        raise TuningError(
            f"the processor in {directory} takes no pictures or has no chat template; save the right one there"
        )


def _choose_tag(directory: Path, repo_id: str, version: str | None) -> str | None:
    """Return the tag to set; raise where the repository holds something else, or a version that is not below."""
    remote = get_remote_state(repo_id, repo_type="model")
    config_file = ADAPTER_CONFIG if is_adapter(directory) else MODEL_CONFIG
    if set(remote.files) - _HUB_DEFAULT_FILES and config_file not in remote.files:
        raise TuningError(
            f"{repo_id} holds something else (no {config_file}), which would be replaced; choose another repository"
        )
    if version is None:
        return None
    requested, last = parse_version(version), highest_version(remote.tags)
    if requested is None:
        raise UsageError(f"{version!r} is not a version; give three numbers such as 1.0.0")
    if last is not None and requested <= last:
        raise TuningError(f"{repo_id} is at {last.tag}, and a version is never replaced; give one above it")
    return requested.tag


def _resolve_public_base(directory: Path, record: TrainingRecord, base: str | None) -> TrainingRecord:
    """Return the facts with a base that others can load, at a commit where one is known."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    ref = RepoRef.parse(base or record.base or "")
    if ref is None or Path(ref.repo_id).exists():
        if base:
            raise UsageError(f"--base {base} is no repository; give the base as others find it, namespace/name")
        if is_adapter(directory):
            raise UsageError(
                f"{directory} was tuned on {record.base}, a folder that nobody else has; publish that with "
                "compact publish "
                "and give its repository as --base namespace/name"
            )
        return record
    name, commit = ref.repo_id, ref.revision or (None if base else record.base_revision)
    with translate_read_errors(name, ref.revision):
        if base:
            commit = HfApi().model_info(name, revision=commit).sha
        with suppress(EntryNotFoundError):
            hf_hub_download(name, CARD_FILE, revision=commit)  # into the cache, where its licence is looked up
    if base and record.base and Path(record.base).is_dir():
        _check_same_weights(Path(record.base), name, str(commit))
    if is_adapter(directory):
        check_adapter_base(directory, name, revision=commit)
    return replace(record, base=name, base_revision=commit)


def _check_same_weights(base_directory: Path, base: str, commit: str) -> None:
    """Raise where a repository is not the folder that an adapter was tuned on: their shapes may well be the same."""
    from huggingface_hub import HfApi

    with translate_read_errors(base):
        files = get_repo_files(HfApi(), base, repo_type="model", revision=commit)
    remote_hashes = {file.lfs.sha256 for path, file in files.items() if path.endswith(".safetensors") and file.lfs}
    for path in sorted(base_directory.glob("*.safetensors")):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() not in remote_hashes:
                raise TuningError(
                    f"{base} is not the base {base_directory} that this was tuned on: it has no {path.name} with that "
                    f"content; publish that folder as it is, and give its repository"
                )


def _stage_files(directory: Path, staging: Path, record: TrainingRecord, on_progress: Callable[[str], None]) -> None:
    """Link what is published into `staging`, configs without the places where something lay here."""
    published = {
        path
        for pattern in _PUBLISHED_PATTERNS
        for path in directory.glob(pattern)
        if path.is_file() and path.name not in _CARD_FILES
    }
    for path in sorted(published):
        config = _public_config(path, record)
        if config is None:
            (staging / path.name).symlink_to(path.resolve())
        else:
            (staging / path.name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if _has_user_card(directory):
        for name in _CARD_FILES:
            if (directory / name).is_file():
                (staging / name).symlink_to((directory / name).resolve())
    unpublished = sorted(
        path.name for path in directory.iterdir() if path not in published and path.name not in _CARD_FILES
    )
    if unpublished:
        on_progress(f"not published: {', '.join(unpublished)}")


def _public_config(path: Path, record: TrainingRecord) -> Mapping[str, Any] | None:
    """Return a config as it is published, None where that is as it stands."""
    if not path.name.endswith("config.json"):
        return None
    config: dict[str, Any] = json.loads(path.read_bytes())
    public = {key: value for key, value in config.items() if key not in _LOCAL_PATH_KEYS or is_repository(str(value))}
    if path.name == ADAPTER_CONFIG:
        public |= {"base_model_name_or_path": record.base, "revision": record.base_revision}
    return public if public != config else None


def _has_user_card(directory: Path) -> bool:
    """Return whether a person wrote or changed the card."""
    path = directory / CARD_FILE
    return path.is_file() and not is_generated(path.read_text(encoding="utf-8"))
