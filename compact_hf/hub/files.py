"""Lists the files of a directory, and compares them with a revision of a repository by size and hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.errors import UsageError
from compact_hf.hub.errors import translate_read_errors
from compact_hf.regular_files import describe_kind, open_regular

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

_CHUNK_SIZE: Final = 1 << 20
HUB_MANAGED_FILE: Final = ".gitattributes"
"""The file that the Hub adds to every repository and changes by itself."""


def list_files(directory: str | Path) -> dict[str, int]:
    """Return the size in bytes of each file that would be published from a directory, by sorted relative path.

    Args:
        directory (`str | Path`): the directory.

    Raises:
        UsageError: `directory` is not a directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory: give the directory to publish")
    names = list_names(directory)
    return {name: (directory / name).stat().st_size for name in names if (directory / name).is_file()}


def list_names(directory: Path) -> list[str]:
    """Return the sorted relative paths of all entries that `upload_folder` does not ignore: files, links, pipes.

    Args:
        directory (`Path`): the directory.
    """
    # Both are public, although not listed in `__all__`.
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        DEFAULT_IGNORE_PATTERNS,
        filter_repo_objects,
    )

    # `rglob` does not follow links to directories.
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    names = sorted(path.relative_to(directory).as_posix() for path in paths)
    return list(filter_repo_objects(names, ignore_patterns=DEFAULT_IGNORE_PATTERNS))


def check_publishable(directory: Path, names: Iterable[str]) -> None:
    """Check that entries of a directory are regular files in it, or links to such files.

    A link could publish any file of this machine, for example in a repository of someone else that was cloned by git.

    Args:
        directory (`Path`): the directory to publish.
        names (`Iterable[str]`): relative paths of the entries.

    Raises:
        UsageError: an entry is a link out of the directory, to another directory or to nothing, or is not a file.
    """
    root = os.path.realpath(directory)
    for name in names:
        path = directory / name
        target = os.path.realpath(path)
        if (kind := describe_kind(path)) != "regular file":
            subject = f"links to a {kind}" if kind == "directory" else f"is a {kind}"
            raise UsageError(f"{path} {subject}, and only regular files are published: remove it")
        if not Path(target).is_relative_to(root):
            raise UsageError(
                f"{path} is a link out of the directory, to {target}: replace it by a copy if that file should be "
                "public, or remove it"
            )


def get_repo_files(api: HfApi, repo_id: str, *, repo_type: str, revision: str) -> dict[str, RepoFile]:
    """Return the files of a revision by path; offline, of a commit that was downloaded before, without LFS hashes.

    Args:
        api (`HfApi`): the client.
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`): a branch, tag or commit; offline, a commit.

    Raises:
        huggingface_hub.errors.OfflineModeIsEnabled: HF_HUB_OFFLINE is set, and the cache has no list of the files.
    """
    from huggingface_hub import RepoFile, ResolvedRevision, constants, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, OfflineModeIsEnabled

    if constants.is_offline_mode():
        commit = ResolvedRevision(resolved=revision, initial=revision)
        try:
            files = get_cached_repo_tree(repo_id, repo_type=repo_type, revision=commit)
        except CachedRepoTreeNotFoundError as error:
            raise OfflineModeIsEnabled(f"the list of files of {revision} is not in the cache") from error
        return {file.path: file for file in files}
    entries = api.list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def is_at_revision(directory: Path, repo_id: str, *, repo_type: str, revision: str) -> bool:
    """Return whether a revision of a repository has exactly the files of a directory.

    Args:
        directory (`Path`): the local directory.
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`): a branch, tag or commit.

    Raises:
        HubError: the Hub cannot be reached or rejects the request.
    """
    from huggingface_hub import HfApi

    with translate_read_errors(repo_id, revision):
        remote = get_repo_files(HfApi(), repo_id, repo_type=repo_type, revision=revision)
    return next(iter_differences(remote, directory), None) is None


def iter_differences(remote: Mapping[str, RepoFile], directory: Path) -> Iterator[str]:
    """Yield the differences between the files of a revision and a directory, cheap comparisons first.

    Args:
        remote (`Mapping[str, RepoFile]`): the files of the revision, by path.
        directory (`Path`): the local directory.
    """
    local = list_files(directory)
    for name in remote.keys() - local.keys() - {HUB_MANAGED_FILE}:
        yield f"{name} is not in the directory"
    for name in local.keys() - remote.keys():
        yield f"{name} is missing"
    for name in local.keys() & remote.keys():
        if remote[name].size != local[name]:
            yield f"{name} has {remote[name].size} bytes instead of {local[name]}"
    for name in local.keys() & remote.keys():  # last, because hashing reads the files
        lfs = remote[name].lfs
        expected = lfs.sha256 if lfs else remote[name].blob_id
        if _hash_file(directory / name, expected, is_git_blob=not lfs) != expected:
            yield f"{name} has different content"


def _hash_file(path: Path, expected: str, *, is_git_blob: bool) -> str:
    """Return the git blob hash of a file, in the algorithm of the expected one, or the SHA-256 that git LFS uses."""
    with open_regular(path) as file:
        if not is_git_blob:
            return hashlib.file_digest(file, "sha256").hexdigest()
        algorithm = hashlib.sha256 if len(expected) == 64 else hashlib.sha1
        digest = algorithm(b"blob %d\0" % path.stat().st_size)
        while chunk := file.read(_CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()
