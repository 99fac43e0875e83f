"""Which version of a data set is trained on: `org/name`, `org/name@v1.0.0` or a folder in, its name and commit out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from compact_hf.errors import TuningError
from compact_hf.hub.errors import reading

_REPOSITORY: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def pinned(dataset: str, revision: str | None) -> tuple[str, str | None]:
    """Return a data set's name and the commit that its revision stands for now.

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
    named = _REPOSITORY.fullmatch(dataset)
    if named is None or Path(dataset).exists():
        if revision:
            raise TuningError(
                f"{dataset} is no repository on the Hub, and only there are revisions; leave --revision out"
            )
        return dataset, None
    if revision and named["revision"] and revision != named["revision"]:
        raise TuningError(f"{dataset} and --revision {revision} are two revisions; leave one out")
    return named["name"], _commit(named["name"], revision or named["revision"])


def _commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi, constants

    if revision and _COMMIT.fullmatch(revision):
        return revision
    if constants.is_offline_mode():
        if revision:
            raise TuningError(
                f"HF_HUB_OFFLINE is set, so that nobody can say which commit of {name} is {revision}; "
                "give the commit itself"
            )
        return None
    with reading(name, revision):
        return HfApi().dataset_info(name, revision=revision).sha
