"""A repository at one revision as a folder on this machine: in goes its name, out comes where its files lie.

They lie in the cache of the Hub's client, where `load_dataset` and `from_pretrained` look too: what is there is not
fetched again, and a download that broke off goes on. It knows no dataset.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.hub.errors import check_repo_id, translate_read_errors
from compact_hf.hub.files import get_repo_files

if TYPE_CHECKING:
    from compact_hf.hub.push import RepoType


@dataclass(frozen=True, slots=True)
class RepoListing:
    """What a revision holds.

    Attributes:
        commit (`str`): that it stands for now.
        files (`dict[str, int]`): path -> bytes.
    """

    commit: str
    files: dict[str, int]


def get_repo_listing(repo_id: str, *, repo_type: RepoType, revision: str | None = None) -> RepoListing:
    """Return what a repository holds, without fetching it; arguments and errors as for `download_snapshot`."""
    from huggingface_hub import HfApi

    with translate_read_errors(check_repo_id(repo_id), revision):
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        files = get_repo_files(HfApi(), repo_id, repo_type=repo_type, revision=str(commit))
    return RepoListing(str(commit), {path: file.size for path, file in files.items()})


def download_snapshot(
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

    with translate_read_errors(check_repo_id(repo_id), revision):
        # Asked for first: without the Hub the cache would answer for a branch with the commit that it saw last.
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        patterns = None if files is None else sorted(files)
        return Path(snapshot_download(repo_id, repo_type=repo_type, revision=commit, allow_patterns=patterns))


def count_missing_bytes(repo_id: str, listing: RepoListing, files: Collection[str], *, repo_type: RepoType) -> int:
    """Return how many bytes of a revision's files are not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        listing.files[name]
        for name in files
        if not isinstance(try_to_load_from_cache(repo_id, name, revision=listing.commit, repo_type=repo_type), str)
    )
