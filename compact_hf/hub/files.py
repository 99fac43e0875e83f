"""What a folder holds, and how a revision of a repository differs from it, by size and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.errors import UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

_CHUNK: Final = 1 << 20
_HUBS_OWN: Final = ".gitattributes"  # the Hub puts it into every repository


def files_of(folder: str | Path) -> dict[str, int]:
    """Return what of a folder is published: path inside it -> bytes, sorted.

    Raises:
        UsageError: it is no folder.
    """
    # What `upload_folder` leaves out; both are public, and only not listed in `__all__`.
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        DEFAULT_IGNORE_PATTERNS,
        filter_repo_objects,
    )

    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder that shall be published")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    chosen = filter_repo_objects(names, ignore_patterns=DEFAULT_IGNORE_PATTERNS)
    return {name: (folder / name).stat().st_size for name in chosen}


def tree(api: HfApi, repo_id: str, *, repo_type: str, revision: str) -> dict[str, RepoFile]:
    """Return the files of a revision by path."""
    from huggingface_hub import RepoFile

    listed = api.list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True)
    return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}


def differences(there: Mapping[str, RepoFile], folder: Path) -> Iterator[str]:
    """Yield what differs between the files of a revision and a folder, cheap things first."""
    here = files_of(folder)
    for name in there.keys() - here.keys() - {_HUBS_OWN}:
        yield f"{name} is no part of the folder"
    for name in here.keys() - there.keys():
        yield f"{name} is missing"
    for name in here.keys() & there.keys():
        if there[name].size != here[name]:
            yield f"{name} has {there[name].size} bytes, should have {here[name]}"
    for name in here.keys() & there.keys():  # hashes last: they have to read the files
        lfs = there[name].lfs
        expected = lfs.sha256 if lfs else there[name].blob_id
        if _hash(folder / name, of_git=not lfs) != expected:
            yield f"{name} has another content"


def _hash(path: Path, *, of_git: bool) -> str:
    """Return git's hash of a file as it stands, or its sha256, by which LFS knows it."""
    with path.open("rb") as file:
        if not of_git:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
