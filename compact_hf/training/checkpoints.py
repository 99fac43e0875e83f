"""Manages the state that training resumes from: output directory, last complete checkpoint, and pinned revisions.

    OUTPUT/.compact-tune         settings of the run that the directory belongs to
    OUTPUT/checkpoint-N/whole    marks a complete checkpoint; written after all processes have saved their part:
                                 {"seconds": training time so far}
    OUTPUT/training.json         the training record, written when training is finished

A dataset is `org/name`, `org/name@v1.0.0` or a directory. Dataset and base are pinned to a commit if they are on the
Hub; inputs.py binds the run to the contents of local ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.hub.cache import resolve_commit
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.ref import COMMIT_HASH, RepoRef
from compact_hf.output_directory import OutputDirectory
from compact_hf.parsing import read_json
from compact_hf.storage import write_atomically


def pin_revision(dataset: str, revision: str | None) -> tuple[str, str | None]:
    """Return a dataset's name and the current commit of its revision.

    Args:
        dataset (`str`): a directory, or a repository with or without `@revision`.
        revision (`str`, *optional*): a branch, a tag or a commit.

    Returns:
        `tuple[str, str | None]`: the name without `@revision`, and the commit, which is None for a directory. Offline,
            it is the commit of the last time.

    Raises:
        TuningError: if a revision is given for a directory, or two different revisions are given.
        HubError: if the repository or revision was not found, or the Hub cannot be reached.
    """
    ref = RepoRef.parse(dataset)
    if ref is None or Path(dataset).exists():
        if revision:
            raise TuningError(
                f"{dataset} is not a repository on the Hub, and only repositories have revisions: leave out --revision"
            )
        return dataset, None
    if revision and ref.revision and revision != ref.revision:
        raise TuningError(f"{dataset} and --revision {revision} are two different revisions: leave out one of them")
    revision = revision or ref.revision
    with translate_read_errors(ref.repo_id, revision):
        return ref.repo_id, resolve_commit(ref.repo_id, repo_type="dataset", revision=revision)


def pin_base(base: str, revision: str | None) -> str | None:
    """Return the current commit of a base's revision, so that a run is bound to it.

    Args:
        base (`str`): a directory or a repository's name.
        revision (`str`, *optional*): a branch, a tag or a commit.

    Returns:
        `str`, *optional*: the commit; None for a directory. It is None too for a repository that was not found, or is
            not cached offline: the training script reports that.

    Raises:
        HubError: if the Hub cannot be reached.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    ref = RepoRef.parse(base)
    if ref is None or ref.revision or Path(base).exists():
        return None
    with (
        translate_read_errors(base, revision),
        suppress(OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError),
    ):
        return resolve_commit(base, repo_type="model", revision=revision)
    return None


MARKER_FILE: Final = ".compact-tune"
COMPLETE_FILE: Final = "whole"
RECORD_FILE: Final = "training.json"
# Settings that do not change the trained model, and so may differ when a run is resumed.
_CHANGEABLE_KEYS: Final = re.compile(
    r"output_dir|env|hub_.*|push_to_hub|report_to|run_name|project|logging_.*|log_level.*|disable_tqdm|save_.*"
    r"|dataloader_.*|ddp_timeout|resume_from_checkpoint|machine_rank|main_process_.*|rdzv_.*|gpu_ids|same_network"
)


def changes_model(key: str) -> bool:
    """Return whether a setting changes the trained model, so that it has to stay the same when a run is resumed.

    Args:
        key (`str`): the setting's key in a recipe.
    """
    return not _CHANGEABLE_KEYS.fullmatch(key)


def init_output_dir(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Claim a directory for a training run, or check that it belongs to this one.

    Args:
        output_dir (`Path`): a new or empty directory, or that of an earlier call with the same settings.
        settings (`Mapping[str, Any]`): all settings; those that do not change the trained model may differ.

    Raises:
        SettingsMismatchError: if the directory holds a run with other settings.
        UsageError: if the directory holds something else, or cannot be written.
    """
    # Values are compared as text: those from the command line are strings, those from the recipe have YAML types.
    current = {key: str(value) for key, value in settings.items() if value is not None and changes_model(key)}
    directory = OutputDirectory(output_dir, "a training run", MARKER_FILE, option="output_dir")
    directory.claim()
    stored = directory.read_settings()
    # Version 0.1.0 did not pin the base to a commit, which therefore cannot be compared.
    if stored is not None and not COMMIT_HASH.fullmatch(stored.get("model_revision", "")):
        current.pop("model_revision", None)
        current |= {key: value for key, value in stored.items() if key == "model_revision"}
    directory.bind(current)


def find_last_checkpoint(output_dir: Path) -> Path | None:
    """Return the newest complete checkpoint, None if there is none.

    Args:
        output_dir (`Path`): the run's output directory.
    """
    # A checkpoint without COMPLETE_FILE was being saved when the process was killed.
    checkpoints = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in output_dir.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and (path / COMPLETE_FILE).is_file()
    ]
    return max(checkpoints)[1] if checkpoints else None


def read_train_seconds(checkpoint: Path | None) -> float:
    """Return the training time up to a checkpoint, in seconds.

    Args:
        checkpoint (`Path`, *optional*): a complete checkpoint; without one, the time is 0.
    """
    return float(read_json(checkpoint / COMPLETE_FILE)["seconds"]) if checkpoint else 0.0


def read_finished_record(output_dir: Path) -> dict[str, Any] | None:
    """Return the record of a finished training run, None if training is not finished.

    Args:
        output_dir (`Path`): the run's output directory.

    Raises:
        TuningError: if the record cannot be read.
    """
    path = output_dir / RECORD_FILE
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise TuningError(
            f"{path} cannot be read ({error}): remove it to train again from the last checkpoint"
        ) from error
    return record


def write_record(output_dir: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a finished training run, atomically.

    Args:
        output_dir (`Path`): the run's output directory.
        record (`Mapping[str, Any]`): the content of training.json.
    """
    write_atomically(output_dir / RECORD_FILE, json.dumps(record, indent=1, ensure_ascii=False, default=str))
