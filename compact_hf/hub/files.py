"""What a folder holds, and how a revision of a repository differs from it, by size and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.errors import UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

_CHUNK_SIZE: Final = 1 << 20
_HUB_MANAGED_FILE: Final = ".gitattributes"  # the Hub puts it into every repository


def list_files(directory: str | Path) -> dict[str, int]:
    """Return what of a folder is published: path inside it -> bytes, sorted.

    Raises:
        UsageError: it is no folder.
    """
    # What `upload_folder` leaves out; both are public, and only not listed in `__all__`.
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        DEFAULT_IGNORE_PATTERNS,
        filter_repo_objects,
    )

    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a folder; give the folder that shall be published")
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    included = filter_repo_objects(names, ignore_patterns=DEFAULT_IGNORE_PATTERNS)
    return {name: (directory / name).stat().st_size for name in included}


def get_repo_files(api: HfApi, repo_id: str, *, repo_type: str, revision: str) -> dict[str, RepoFile]:
    """Return the files of a revision by path."""
    from huggingface_hub import RepoFile

    entries = api.list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def iter_differences(remote: Mapping[str, RepoFile], directory: Path) -> Iterator[str]:
    """Yield what differs between the files of a revision and a folder, cheap things first."""
    local = list_files(directory)
    for name in remote.keys() - local.keys() - {_HUB_MANAGED_FILE}:
        yield f"{name} is no part of the folder"
    for name in local.keys() - remote.keys():
        yield f"{name} is missing"
    for name in local.keys() & remote.keys():
        if remote[name].size != local[name]:
            yield f"{name} has {remote[name].size} bytes, should have {local[name]}"
    for name in local.keys() & remote.keys():  # hashes last: they have to read the files
        lfs = remote[name].lfs
        expected = lfs.sha256 if lfs else remote[name].blob_id
        if _hash_file(directory / name, is_git_blob=not lfs) != expected:
            yield f"{name} has another content"


def _hash_file(path: Path, *, is_git_blob: bool) -> str:
    """Return git's hash of a file as it stands, or its sha256, by which LFS knows it."""
    with path.open("rb") as file:
        if not is_git_blob:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        while chunk := file.read(_CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()
