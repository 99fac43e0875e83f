"""Downloads repositories of any type from the Hub, at one commit, and reads parts of their files.

Files are stored in the cache of the Hub's client, which `load_dataset` and `from_pretrained` use too: cached files are
not downloaded again, and an interrupted download is resumed. With HF_HUB_OFFLINE=1 everything is taken from the cache,
at the commit that a branch or tag had the last time.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from compact_hf.hub.cache import resolve_commit
from compact_hf.hub.errors import check_repo_id, translate_read_errors
from compact_hf.hub.files import get_repo_files

if TYPE_CHECKING:
    from compact_hf.hub.staging import RepoType


@dataclass(frozen=True, slots=True)
class RepoListing:
    """The files of a revision of a repository.

    Attributes:
        commit (`str`): hash of the commit to which the revision currently points.
        files (`dict[str, int]`): size of each file in bytes, by path.
    """

    commit: str
    files: dict[str, int]


def get_repo_listing(repo_id: str, *, repo_type: RepoType, revision: str | None = None) -> RepoListing:
    """List the files of a repository without downloading them.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`, *optional*, defaults to `main`): a branch, tag or commit, or `refs/pr/N`.

    Returns:
        The commit and its files.

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached, or keeps failing.
        HubError: the repository or revision was not found, or the token has no access to it.
    """
    from huggingface_hub import HfApi

    with translate_read_errors(check_repo_id(repo_id), revision):
        commit = resolve_commit(repo_id, repo_type=repo_type, revision=revision)
        files = get_repo_files(HfApi(), repo_id, repo_type=repo_type, revision=commit)
    return RepoListing(commit, {path: file.size for path, file in files.items()})


def download_snapshot(
    repo_id: str, *, repo_type: RepoType, revision: str | None = None, files: Collection[str] | None = None
) -> Path:
    """Download files of a repository to the cache, and return the directory that contains them (as links).

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`, *optional*, defaults to `main`): a branch, tag or commit, or `refs/pr/N`; the commit to which
            it currently points is downloaded.
        files (`Collection[str]`, *optional*): paths of the files to download; by default all.

    Returns:
        The directory.

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached, or keeps failing; the same call resumes.
        HubError: the repository or revision was not found, the token has no access to it, or the files cannot be
            written to the cache.
    """
    from huggingface_hub import HfApi, ResolvedRevision, constants, snapshot_download

    with translate_read_errors(check_repo_id(repo_id), revision):
        # Resolved first: without a connection, the client would silently use the last known commit of a branch.
        commit = resolve_commit(repo_id, repo_type=repo_type, revision=revision)
        if constants.is_offline_mode():
            # Raises if the list is not in the cache: then the client would return whatever files are.
            get_repo_files(HfApi(), repo_id, repo_type=repo_type, revision=commit)
        resolved = ResolvedRevision(resolved=commit, initial=commit)  # the client takes 64 digits for a branch
        patterns = None if files is None else sorted(files)
        return Path(snapshot_download(repo_id, repo_type=repo_type, revision=resolved, allow_patterns=patterns))


def count_missing_bytes(repo_id: str, listing: RepoListing, files: Collection[str], *, repo_type: RepoType) -> int:
    """Return the number of bytes that have to be downloaded because the cache does not have them yet.

    Args:
        repo_id (`str`): `namespace/name`.
        listing (`RepoListing`): the files of the revision.
        files (`Collection[str]`): paths of the files that are needed.
        repo_type (`str`): `dataset`, `model` or `space`.
    """
    from huggingface_hub import try_to_load_from_cache

    return sum(
        listing.files[name]
        for name in files
        # A path if the file is cached; None, or a marker for a file that the Hub does not have, if not.
        if not isinstance(try_to_load_from_cache(repo_id, name, revision=listing.commit, repo_type=repo_type), str)
    )


def open_hub_file(path: str) -> BinaryIO:
    """Open a file on the Hub for reading parts of it.

    There is no read-ahead: between the columns of a Parquet file that are read are the images, which are a hundred
    times larger.

    Args:
        path (`str`): `datasets/NAMESPACE/NAME@COMMIT/PATH`, with or without `hf://`.

    Raises:
        OSError: the file does not exist. Reads raise it too if the server sends more than the requested part.
    """
    from huggingface_hub import HfFileSystem, get_session

    hooks = get_session().event_hooks["response"]
    if _check_range not in hooks:
        hooks.append(_check_range)
    return cast(BinaryIO, HfFileSystem().open(path, "rb", cache_type="none"))


def _check_range(response: Any) -> None:
    """Refuse a response that is larger than the requested range, before its body is read; a hook of the Hub's client.

    The client reads it into memory, even if a proxy ignores the range and sends gigabytes.
    """
    requested = re.fullmatch(r"bytes=(\d+)-(\d+)", response.request.headers.get("range", ""))
    # Redirects have another body, and errors a short one.
    if requested is None or response.status_code not in (200, 206):
        return
    expected = int(requested[2]) - int(requested[1]) + 1
    size = int(response.headers.get("content-length", expected))
    if (
        response.status_code == 200
        or size > expected
        or response.headers.get("content-encoding", "identity") != "identity"
    ):
        raise OSError(
            f"{response.url.host} sends {size:,} bytes instead of the {expected:,} requested ones: check the proxy and "
            "HF_ENDPOINT, which must support range requests"
        )
