"""A repository at one revision as a folder on this machine: in goes its name, out comes where its files lie.

They lie in the cache of the Hub's client, where `load_dataset` and `from_pretrained` look too: what is there is not
fetched again, and a download that broke off goes on. It knows no data set.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.hub.errors import reading, valid_name
from compact_hf.hub.files import tree

if TYPE_CHECKING:
    from compact_hf.hub.push import RepoType


@dataclass(frozen=True, slots=True)
class Listing:
    """What a revision holds.

    Attributes:
        commit (`str`): that it stands for now.
        files (`dict[str, int]`): path -> bytes.
    """

    commit: str
    files: dict[str, int]


def listing(repo_id: str, *, repo_type: RepoType, revision: str | None = None) -> Listing:
    """Return what a repository holds, without fetching it; arguments and errors as for `snapshot`."""
    from huggingface_hub import HfApi

    with reading(valid_name(repo_id), revision):
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        files = tree(HfApi(), repo_id, repo_type=repo_type, revision=str(commit))
    return Listing(str(commit), {path: file.size for path, file in files.items()})


def snapshot(
    repo_id: str, *, repo_type: RepoType, revision: str | None = None, files: Collection[str] | None = None
) -> Path:
    """Return a folder with the files of a repository, links into the cache.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`, *optional*, defaults to `main`): a branch, a tag, a commit, or `refs/pr/N`; taken at the commit
            that it stands for now.
        files (`Collection[str]`, *optional*, defaults to all): which of them.

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached or keeps failing; the same call goes on.
        HubError: there is no such repository or revision for this token, or its files cannot be kept here.
    """
    from huggingface_hub import HfApi, snapshot_download

    with reading(valid_name(repo_id), revision):
        # Asked for first: without the Hub the cache would answer for a branch with the commit that it saw last.
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        chosen = None if files is None else sorted(files)
        return Path(snapshot_download(repo_id, repo_type=repo_type, revision=commit, allow_patterns=chosen))


def bytes_to_fetch(repo_id: str, there: Listing, files: Collection[str], *, repo_type: RepoType) -> int:
    """Return how many bytes of a revision's files are not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        there.files[name]
        for name in files
        if not isinstance(try_to_load_from_cache(repo_id, name, revision=there.commit, repo_type=repo_type), str)
    )
