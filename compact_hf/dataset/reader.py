"""Reads releases piece by piece, from a directory or from a dataset repository at a revision.

A `DatasetReader` lists the files of a release with their hashes, and opens them so that a read fetches only the bytes
that it needs. On the Hub these are range requests, all at the same commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from compact_hf.dataset.schema import parse_data_path
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.cache import resolve_commit
from compact_hf.hub.download import open_hub_file
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.files import get_repo_files
from compact_hf.hub.ranges import StoredRanges
from compact_hf.hub.ref import RepoRef
from compact_hf.regular_files import open_regular, read_regular_text
from compact_hf.storage import atomic_file

T = TypeVar("T")


class DatasetReader(Protocol):
    """A release that can be read.

    Attributes:
        name (`str`): path or repository, as given.
        file_hashes (`dict[str, str]`): SHA-256 of each Parquet file by path, sorted by path; empty if it is not known
            without reading the file.
    """

    @property
    def name(self) -> str: ...

    @property
    def file_hashes(self) -> dict[str, str]: ...

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a file of the release for reading and seeking.

        Args:
            path (`str`): path inside the release.

        Raises:
            OSError: the file cannot be opened.
        """
        ...

    def read_text(self, path: str) -> str:
        """Return the content of a text file, or an empty string if it does not exist.

        Args:
            path (`str`): path inside the release.
        """
        ...


@dataclass(frozen=True, slots=True)
class DirectoryReader:
    """A release in a directory.

    Attributes:
        name (`str`): path of the directory.
        file_hashes (`dict[str, str]`): see `DatasetReader`.
    """

    name: str
    file_hashes: dict[str, str] = field(repr=False)

    @classmethod
    def from_path(cls, path: Path, *, compute_hashes: bool = True) -> DirectoryReader:
        """List the data files of a directory.

        Args:
            path (`Path`): the directory.
            compute_hashes (`bool`, *optional*, defaults to True): read all files to compute their hashes.

        Raises:
            ReleaseError: a file cannot be read.
        """
        names = sorted(file.relative_to(path).as_posix() for file in path.glob("data/*/*.parquet"))
        with _translate_read_errors():
            return cls(
                str(path),
                {name: _sha256(path / name) if compute_hashes else "" for name in names if parse_data_path(name)},
            )

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        return open_regular(Path(self.name) / path)

    def read_text(self, path: str) -> str:
        file = Path(self.name) / path
        with _translate_read_errors():
            # Undecodable bytes are replaced: a damaged card must not prevent a comparison of the rows.
            return read_regular_text(file, errors="replace") if file.is_file() else ""


@dataclass(frozen=True, slots=True)
class HubReader:
    """A release in a repository on the Hub, at one commit.

    Attributes:
        name (`str`): repository and revision.
        file_hashes (`dict[str, str]`): see `DatasetReader`; only files in git LFS have a hash.
        repo_id (`str`): `namespace/name`.
        commit (`str`): hash of the commit.
        sizes (`dict[str, int]`): size in bytes of each file of the commit, by path.
    """

    name: str
    file_hashes: dict[str, str] = field(repr=False)
    repo_id: str
    commit: str
    sizes: dict[str, int] = field(repr=False)

    @classmethod
    def from_repo(cls, repo_id: str, revision: str) -> HubReader:
        """List the files of a repository at the commit to which the revision currently points; offline, as last time.

        Args:
            repo_id (`str`): `namespace/name`.
            revision (`str`): a branch, tag or commit.

        Raises:
            HubError: the Hub cannot be reached or rejects the request.
        """
        with translate_read_errors(repo_id, revision):
            # Resolved once: all reads are at this commit, also if the branch moves in the meantime.
            commit = resolve_commit(repo_id, repo_type="dataset", revision=revision)
            listing = _list_files(repo_id, commit)
        file_hashes = {path: listing[path][1] for path in sorted(listing) if parse_data_path(path)}
        sizes = {path: size for path, (size, _) in listing.items()}
        return cls(f"{repo_id}@{revision}", file_hashes, repo_id, commit, sizes)

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo_id, path, repo_type="dataset", revision=self.commit)
        if isinstance(cached, str):
            return open_regular(cached)
        open_remote = partial(open_hub_file, f"datasets/{self.repo_id}@{self.commit}/{path}")
        file: Any = StoredRanges(
            open_remote, _range_directory(self.repo_id, self.commit) / f"{path}.ranges", self.sizes[path]
        )
        return file  # type: ignore[no-any-return]

    def read_text(self, path: str) -> str:
        if path not in self.sizes:
            return ""
        with translate_read_errors(self.name), self.open(path) as file:
            return file.read().decode("utf-8", errors="replace")


def open_dataset(path: str | Path, *, compute_hashes: bool = True) -> DatasetReader:
    """Open a release in a directory or in a repository; a repository is read at its current commit.

    Args:
        path (`str | Path`): a directory, or `org/name[@revision]` on the Hub.
        compute_hashes (`bool`, *optional*, defaults to True): compute the hashes of local files. If False, files are
            not read until they are opened.

    Returns:
        The reader.

    Raises:
        UsageError: `path` is neither a directory nor the name of a repository.
        ReleaseError: a file in the directory cannot be read.
        HubError: the Hub cannot be reached or rejects the request.
    """
    if Path(path).is_dir():
        return DirectoryReader.from_path(Path(path), compute_hashes=compute_hashes)
    ref = RepoRef.parse(str(path))
    if ref is None:
        raise UsageError(
            f"{str(path)!r} is neither a directory nor a repository: give the directory of a release, or "
            "namespace/name[@revision]"
        )
    return HubReader.from_repo(ref.repo_id, ref.revision or "main")


def read_parquet(reader: DatasetReader, path: str, read: Callable[[Any], T]) -> T:
    """Open a Parquet file of a release and return the result of `read`.

    Args:
        reader (`DatasetReader`): the release.
        path (`str`): path of the file inside the release.
        read (`Callable[[Any], T]`): called with the open `pyarrow.parquet.ParquetFile`.

    Raises:
        ReleaseError: the file is damaged, or cannot be read.
        HubError: the Hub cannot be reached or rejects the request.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    with translate_read_errors(reader.name):
        try:
            with reader.open(path) as raw, pq.ParquetFile(raw) as file:
                return read(file)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, HTTPError | ConnectionError):  # errors of the Hub; some of them are OSErrors too
                raise
            message = " ".join(str(error).split())
            raise ReleaseError(
                f"{path} of {reader.name} cannot be read ({message}): replace it with an intact copy"
            ) from error


def _list_files(repo_id: str, commit: str) -> dict[str, tuple[int, str]]:
    """Return the size of each file at a commit, and its SHA-256 if it is in git LFS; the list is stored."""
    from huggingface_hub import HfApi, constants

    listing_file = _range_directory(repo_id, commit) / "files.json"
    if listing_file.is_file():
        return {path: (size, sha256) for path, (size, sha256) in json.loads(listing_file.read_bytes()).items()}
    files = get_repo_files(HfApi(), repo_id, repo_type="dataset", revision=commit)
    listing = {path: (file.size, file.lfs.sha256 if file.lfs else "") for path, file in files.items()}
    if not constants.is_offline_mode():  # offline, the client does not know the hashes
        with atomic_file(listing_file, is_shared=True) as temp_file:
            temp_file.write_text(json.dumps(listing))
    return listing


def _range_directory(repo_id: str, commit: str) -> Path:
    """Return the directory with what was read of a repository at a commit."""
    from huggingface_hub import cached_assets_path

    return Path(cached_assets_path("compact_hf", namespace=repo_id, subfolder=commit))


@contextmanager
def _translate_read_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReleaseError(f"{error.filename} cannot be read ({error.strerror}): fix it and retry") from error


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
