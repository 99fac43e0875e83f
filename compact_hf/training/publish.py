"""Publishes a tuned model or adapter on the Hub.

    compact publish student org/student --base org/llava-base

The upload is assembled in a temporary directory; the model's directory is not changed. It contains the weights as
safetensors, the processor with its chat template, an adapter's config with a base that others can load, and the card
with the repository's name. Optimizer states, checkpoints, logs and pickles are not uploaded. hub/push.py makes the
upload atomic: the repository shows all new files or none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from compact_hf.dataset.diff import highest_version, parse_version
from compact_hf.errors import TuningError, UsageError
from compact_hf.hub.card import CARD, check_remote_card, is_edited, read_card
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.files import check_publishable, get_repo_files, is_at_revision, list_files
from compact_hf.hub.push import PushResult, RemoteState, get_remote_state, push
from compact_hf.hub.ref import RepoRef
from compact_hf.models.adapter import check_adapter_base
from compact_hf.models.finite import check_weight_files
from compact_hf.models.loading import (
    ADAPTER_CONFIG,
    LOAD_ERRORS,
    MODEL_CONFIG,
    first_line,
    has_model,
    is_adapter,
    load_config,
    load_processor,
    read_processor_config,
)
from compact_hf.models.registry import get_family
from compact_hf.parsing import read_json
from compact_hf.regular_files import check_regular, hash_regular, read_regular
from compact_hf.training.card_results import read_card_results
from compact_hf.training.model_card import (
    ACCURACY_FILE,
    CURVE_FILE,
    is_repository,
    read_base_license,
    write_card_files,
)
from compact_hf.training.training_record import TrainingRecord, find_family, read_training_record

# The only files that are published. Everything else in the directory may be private, or unsafe to load.
_PUBLISHED_PATTERNS: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    *("adapter_config.json", "config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"),
    *("LICENSE*", "NOTICE*", "*.png", "assembly.json"),
)
_CARD_FILES: Final = (CARD, CURVE_FILE, ACCURACY_FILE)
_HUB_DEFAULT_FILES: Final = {".gitattributes", CARD}  # the files of a repository created on the Hub's website
_LOCAL_PATH_KEYS: Final = ("_name_or_path", "name_or_path")  # older transformers wrote the path of loading to configs


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published model, or one that a dry run has checked.

    Attributes:
        tag (`str`, *optional*): `vX.Y.Z`.
        files (`dict[str, int]`): path -> size in bytes.
        base (`str`, *optional*): the base in the card, a repository or a directory.
        base_revision (`str`, *optional*): revision of the base's repository.
        pushed (`PushResult`, *optional*): the resulting commit on the Hub; None after a dry run.
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
    pull_request: bool = True,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PublishedModel:
    """Publish a tuned model or an adapter in a model repository, atomically.

    The same call resumes an interrupted upload; until it is complete, readers see the previous state.

    Args:
        directory (`str | Path`): directory of a model or an adapter; only files needed to load it are published.
        repo_id (`str`): `namespace/name`; the repository is created if it does not exist.
        version (`str`, *optional*): X.Y.Z, higher than the last version; tagged as `vX.Y.Z`. Without it, only `main` is
            updated.
        base (`str`, *optional*): the base as others load it, `namespace/name` or `namespace/name@revision`; recorded
            with its current commit. Required for an adapter that was tuned on a local directory.
        results (`str | Path`, *optional*): output directory of an `evaluate` call on this model; its scores are added
            to the card.
        license (`str`, *optional*, defaults to the base's): the Hub's identifier of the license.
        private (`bool`, *optional*, defaults to False): create a private repository, and refuse to publish to a
            public one.
        pull_request (`bool`, *optional*, defaults to True): upload to a pull request and merge it; if False, upload to
            a branch and make one commit on main, for a Hub or a repository without pull requests.
        dry_run (`bool`, *optional*, defaults to False): only check and list the files.
        on_progress (`Callable[[str], None]`, *optional*): called with a message at each step.

    Returns:
        `PublishedModel`: what was published.

    Raises:
        UsageError: if a name or the version is invalid, a file is a link out of the directory, an adapter's base is a
            directory and `base` is not given, or `results` or `license` is given for a card that was written by hand.
        TuningError: if the directory lacks files, weights are not finite, the adapter was made for another base, the
            results are of another model, or the repository contains something else.
        HubError: if the Hub cannot be reached or refuses the upload.
    """
    directory = Path(directory)
    check_publishable(directory, [path.name for path in _list_published(directory)])
    _check_loadable(directory)
    has_user_card = is_edited(read_card(directory))
    if has_user_card and (results or license):
        raise UsageError(
            f"{directory / CARD} was written by hand: add scores and license there yourself, or remove it to "
            "have a card generated"
        )
    if license == "other":
        raise UsageError(
            "--license other does not name the license: write README.md yourself, with license_name and license_link"
        )
    # All checks, here and on the Hub, come before the upload is assembled.
    remote = get_remote_state(repo_id, repo_type="model")
    _check_repository(directory, repo_id, remote)
    tag = _choose_tag(repo_id, version, remote)
    record = _resolve_public_base(directory, read_training_record(directory), base)
    scores = read_card_results(directory, Path(results)) if results else None
    license_fields = {"license": license} if license else read_base_license(record)
    with TemporaryDirectory(prefix="compact-publish-") as temp_directory:
        staging = Path(temp_directory)
        _stage_files(directory, staging, record, on_progress)
        _stage_processor(directory, staging, record, on_progress)
        if has_user_card:
            on_progress(f"{directory / CARD} was written by hand and is published unchanged")
        else:
            write_card_files(staging, record, name=repo_id, results=scores, license=license_fields)
        if tag in remote.tags and not is_at_revision(staging, repo_id, repo_type="model", revision=tag):
            raise TuningError(_describe_taken_version(repo_id, remote))
        check_remote_card(
            repo_id, repo_type="model", remote_files=remote.files, card=read_card(staging), directory=directory
        )
        files = list_files(staging)
        pushed = None
        if not dry_run:
            message = f"Release {tag}" if tag else "Publish the model"
            pushed = push(
                staging,
                repo_id,
                repo_type="model",
                message=message,
                tag=tag,
                private=private,
                pull_request=pull_request,
                on_progress=on_progress,
            )
    return PublishedModel(tag, files, record.base, record.base_revision, pushed)


def _check_loadable(directory: Path) -> None:
    """Raise if a directory lacks what loading needs: complete and finite weights, a processor, a chat template."""
    from safetensors import SafetensorError, safe_open

    if not has_model(directory):
        raise UsageError(
            f"{directory} has neither {MODEL_CONFIG} nor {ADAPTER_CONFIG}: give the directory of a model or adapter"
        )
    weights = set(directory.glob("*.safetensors"))
    # The index names all shards, so that a missing one is noticed.
    for index in directory.glob("*.safetensors.index.json"):
        weights |= _read_shards(index)
    if not weights:
        raise TuningError(
            f"{directory} has no safetensors weights: save them as safetensors, other formats are refused"
        )
    # Opening a file checks that it exists and that its header is valid.
    for path in sorted(weights):
        try:
            check_regular(path)
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise TuningError(f"{path} cannot be read ({first_line(error)}): save it again") from error
    check_weight_files(directory)
    try:
        # Registers the family's own classes, which the processor may be one of.
        find_family(directory, read_training_record(directory))
        processor = load_processor(directory)
    except (OSError, ValueError, KeyError) as error:
        raise TuningError(
            f"{directory} has no processor ({first_line(error)}): save the processor of its base there"
        ) from error
    if not hasattr(processor, "image_processor") or not processor.chat_template:
        raise TuningError(
            f"the processor in {directory} takes no images or has no chat template: save that of its base there"
        )


def _read_shards(index: Path) -> set[Path]:
    """Return the paths of the shards that an index names, which have to be next to it."""
    try:
        names = {str(name) for name in json.loads(read_regular(index))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TuningError(f"{index} cannot be read ({first_line(error)}): save the model again") from error
    if outside := sorted(name for name in names if Path(name).name != name):
        raise TuningError(f"{index} names {outside[0]!r}, which is not a file next to it: save the model again")
    return {index.parent / name for name in names}


def _check_repository(directory: Path, repo_id: str, remote: RemoteState) -> None:
    """Raise if the repository has files that are not those of a model of this kind."""
    config_file = ADAPTER_CONFIG if is_adapter(directory) else MODEL_CONFIG
    # Publishing replaces all files of the repository, so a repository of another kind is refused.
    if set(remote.files) - _HUB_DEFAULT_FILES and config_file not in remote.files:
        raise TuningError(
            f"{repo_id} holds other files (no {config_file}), which would be replaced: choose another repository"
        )


def _choose_tag(repo_id: str, version: str | None, remote: RemoteState) -> str | None:
    """Return the tag to set, or one that exists already; raise if the repository has a higher version."""
    if version is None:
        return None
    requested, last = parse_version(version), highest_version(remote.tags)
    if requested is None:
        raise UsageError(f"{version!r} is not a version: give three numbers such as 1.0.0")
    if last is not None and requested <= last and requested.tag not in remote.tags:
        raise TuningError(_describe_taken_version(repo_id, remote))
    return requested.tag


def _describe_taken_version(repo_id: str, remote: RemoteState) -> str:
    last = highest_version(remote.tags)
    return f"{repo_id} is at {last and last.tag}, and versions are never replaced: give a higher version"


def _resolve_public_base(directory: Path, record: TrainingRecord, base: str | None) -> TrainingRecord:
    """Return the record with a base that others can load, and its commit if known."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    ref = RepoRef.parse(base or record.base or "")
    # A local path such as `runs/base` looks like a repository's name, so existing paths are checked first.
    if ref is None or Path(ref.repo_id).exists():
        if base:
            raise UsageError(f"--base {base} is not a repository: give the base as others load it, namespace/name")
        if is_adapter(directory):
            raise UsageError(
                f"{directory} was tuned on {record.base}, a local directory that others cannot load: publish it with "
                "compact publish, then give its repository as --base namespace/name"
            )
        return record
    # A recorded revision is valid only for the recorded base.
    name, commit = ref.repo_id, ref.revision or (None if base else record.base_revision)
    with translate_read_errors(name, ref.revision):
        if base:
            commit = HfApi().model_info(name, revision=commit).sha
        with suppress(EntryNotFoundError):
            hf_hub_download(name, CARD, revision=commit)  # into the cache, where read_base_license looks for it
    if base and record.base and Path(record.base).is_dir():
        _check_same_weights(Path(record.base), name, str(commit))
    if is_adapter(directory):
        check_adapter_base(directory, name, revision=commit)
    return replace(record, base=name, base_revision=commit)


def _check_same_weights(base_directory: Path, base: str, commit: str) -> None:
    """Raise if a repository has other weights than the directory an adapter was tuned on, even of the same shapes."""
    from huggingface_hub import HfApi

    with translate_read_errors(base):
        files = get_repo_files(HfApi(), base, repo_type="model", revision=commit)
    # The Hub lists the SHA-256 of large files, so that nothing has to be downloaded.
    remote_hashes = {file.lfs.sha256 for path, file in files.items() if path.endswith(".safetensors") and file.lfs}
    for path in sorted(base_directory.glob("*.safetensors")):
        if hash_regular(path) not in remote_hashes:
            raise TuningError(
                f"{base} is not the base {base_directory} that this was tuned on (it has no {path.name} with the same "
                f"content): publish that directory unchanged, and give its repository"
            )


def _stage_files(directory: Path, staging: Path, record: TrainingRecord, on_progress: Callable[[str], None]) -> None:
    """Link the published files into `staging`; configs are copied without local paths."""
    published = [path for path in _list_published(directory) if path.name not in _CARD_FILES]
    for path in published:
        config = _public_config(path, record)
        if config is None:
            # A link, because copying weights would take time and disk space.
            (staging / path.name).symlink_to(path.resolve())
        else:
            (staging / path.name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if is_edited(read_card(directory)):
        for name in _CARD_FILES:
            if (directory / name).is_file():
                (staging / name).symlink_to((directory / name).resolve())
    unpublished = sorted(
        path.name for path in directory.iterdir() if path not in published and path.name not in _CARD_FILES
    )
    if unpublished:
        on_progress(f"not published: {', '.join(unpublished)}")


def _stage_processor(
    directory: Path, staging: Path, record: TrainingRecord, on_progress: Callable[[str], None]
) -> None:
    """Write the processor to `staging` as training completes it, if that in the directory lacks something."""
    base = str(record.base) if is_adapter(directory) else directory
    try:
        config = load_config(base, revision=record.base_revision if is_adapter(directory) else None)
        saved, processor = load_processor(directory), load_processor(directory, config)
        settings = read_processor_config(directory)
    except LOAD_ERRORS as error:
        raise TuningError(f"{directory} cannot be published: {first_line(error)}") from error
    names = get_family(config.model_type).processor_settings
    missing = [name for name in names if settings.get(name) is None and getattr(processor, name, None) is not None]
    missing += sorted(_get_tokens(processor) - _get_tokens(saved))
    if not missing:
        return
    with TemporaryDirectory(prefix="compact-publish-") as temp_directory:
        processor.save_pretrained(temp_directory)
        for path in Path(temp_directory).iterdir():
            (staging / path.name).unlink(missing_ok=True)  # a link into the directory
            shutil.move(path, staging)
    on_progress(f"the processor lacks {', '.join(missing)}; published with the values that training uses")


def _get_tokens(processor: Any) -> set[str]:
    """Return all tokens of a processor, and which of them is the padding token."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return {*tokenizer.get_vocab(), f"the padding token {tokenizer.pad_token}"}


def _list_published(directory: Path) -> list[Path]:
    """Return the paths of all files that may be published, sorted, and of links in their places."""
    entries = directory.iterdir() if directory.is_dir() else ()
    return sorted(
        path
        for path in entries
        if (path.is_symlink() or not path.is_dir())
        and any(fnmatchcase(path.name, pattern) for pattern in (*_PUBLISHED_PATTERNS, *_CARD_FILES))
    )


def _public_config(path: Path, record: TrainingRecord) -> Mapping[str, Any] | None:
    """Return a config with local paths removed and the public base set, None if nothing has to change."""
    if not path.name.endswith("config.json"):
        return None
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise TuningError(f"{path} cannot be read ({first_line(error)}): save the model again") from error
    public = {key: value for key, value in config.items() if key not in _LOCAL_PATH_KEYS or is_repository(str(value))}
    if path.name == ADAPTER_CONFIG:
        # PEFT recorded the name that training used, which may be a local path.
        public |= {"base_model_name_or_path": record.base, "revision": record.base_revision}
    return public if public != config else None
