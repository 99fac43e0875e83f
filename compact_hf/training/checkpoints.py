"""Resume training: whose the output directory is, its last whole checkpoint and record, and the dataset's revision.

    OUTPUT/.compact-tune         the settings that it was started with
    OUTPUT/checkpoint-N/whole    written last, when every process has written its part: {"seconds": trained so far}
    OUTPUT/training.json         written when training is finished

A dataset is `org/name`, `org/name@v1.0.0` or a directory; one on the Hub is pinned to its commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TuningError
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.ref import RepoRef
from compact_hf.output_directory import OutputDirectory
from compact_hf.storage import write_atomically

_COMMIT_HASH: Final = re.compile(r"[0-9a-f]{40}")


def pin_revision(dataset: str, revision: str | None) -> tuple[str, str | None]:
    """Return a dataset's name and the commit that its revision stands for now.

    Args:
        dataset (`str`): a folder or a repository, with its revision behind an @ or without.
        revision (`str`, *optional*): a branch, a tag or a commit.

    Returns:
        `tuple[str, str | None]`: without the @; no commit for a folder, nor offline where no revision was asked for:
        then the cache of `datasets` decides.

    Raises:
        TuningError: a revision of a folder, or two revisions.
        HubError: there is no such repository or revision, or the Hub cannot be reached.
    """
    ref = RepoRef.parse(dataset)
    if ref is None or Path(dataset).exists():
        if revision:
            raise TuningError(
                f"{dataset} is no repository on the Hub, and only there are revisions; leave --revision out"
            )
        return dataset, None
    if revision and ref.revision and revision != ref.revision:
        raise TuningError(f"{dataset} and --revision {revision} are two revisions; leave one out")
    return ref.repo_id, _resolve_commit(ref.repo_id, revision or ref.revision)


def _resolve_commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi, constants

    if revision and _COMMIT_HASH.fullmatch(revision):
        return revision
    if constants.is_offline_mode():
        if revision:
            raise TuningError(
                f"HF_HUB_OFFLINE is set, so that nobody can say which commit of {name} is {revision}; "
                "give the commit itself"
            )
        return None
    with translate_read_errors(name, revision):
        return HfApi().dataset_info(name, revision=revision).sha


MARKER_FILE: Final = ".compact-tune"
COMPLETE_FILE: Final = "whole"
RECORD_FILE: Final = "training.json"
# What may change on the way without changing what comes out.
_CHANGEABLE_KEYS: Final = re.compile(
    r"output_dir|env|hub_.*|push_to_hub|report_to|run_name|project|logging_.*|log_level.*|disable_tqdm|save_.*"
    r"|dataloader_.*|ddp_timeout|resume_from_checkpoint|machine_rank|main_process_.*|rdzv_.*|gpu_ids|same_network"
)


def init_output_dir(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Take a folder for a training run, or come back to it.

    Args:
        output_dir (`Path`): new, empty, or an earlier call's with the same settings.
        settings (`Mapping[str, Any]`): all of them; what does not change the outcome may differ.

    Raises:
        SettingsMismatchError: the directory holds a run with other settings.
        UsageError: it holds something else, or cannot be written.
    """
    current = {
        key: str(value) for key, value in settings.items() if value is not None and not _CHANGEABLE_KEYS.fullmatch(key)
    }
    directory = OutputDirectory(output_dir, "a training run", MARKER_FILE, option="output_dir")
    directory.claim()
    directory.bind(current)


def find_last_checkpoint(output_dir: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end and can be gone on from, None where there is none."""
    checkpoints = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in output_dir.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and (path / COMPLETE_FILE).is_file()
    ]
    return max(checkpoints)[1] if checkpoints else None


def read_train_seconds(checkpoint: Path | None) -> float:
    """Return how long training had taken up to a checkpoint, in seconds."""
    return float(json.loads((checkpoint / COMPLETE_FILE).read_text())["seconds"]) if checkpoint else 0.0


def read_finished_record(output_dir: Path) -> dict[str, Any] | None:
    """Return the record of a finished training run, None where it is not finished.

    Raises:
        TuningError: what stands there cannot be read.
    """
    path = output_dir / RECORD_FILE
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TuningError(f"{path} cannot be read ({error}); remove it to train the last steps again") from error
    return record


def write_record(output_dir: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a finished training run, whole or not at all."""
    write_atomically(output_dir / RECORD_FILE, json.dumps(record, indent=1, ensure_ascii=False, default=str))
