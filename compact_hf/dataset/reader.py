"""Where a release is held, a folder or a dataset repository at a revision, and reading it there piece by piece.

In: a path or `org/name[@revision]`. Out: its files, their hashes, and files opened so that a read takes no more bytes
than it asked for; from the Hub these are requests for ranges, all of one commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from compact_hf.dataset.schema import parse_data_path
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.errors import translate_read_errors
from compact_hf.hub.files import get_repo_files
from compact_hf.hub.ref import RepoRef

T = TypeVar("T")


class DatasetReader(Protocol):
    """A release that can be read.

    Attributes:
        name (`str`): as it was given.
        file_hashes (`dict[str, str]`): path of each Parquet file -> SHA-256 of its bytes, empty where only reading it
            would tell; sorted by path.
    """

    @property
    def name(self) -> str: ...

    @property
    def file_hashes(self) -> dict[str, str]: ...

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Return a file to read and seek in; OSError where that fails."""
        ...

    def read_text(self, path: str) -> str:
        """Return a text file, an empty string where it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class DirectoryReader:
    """A release in a folder."""

    name: str
    file_hashes: dict[str, str] = field(repr=False)

    @classmethod
    def from_path(cls, path: Path, *, compute_hashes: bool = True) -> DirectoryReader:
        names = sorted(file.relative_to(path).as_posix() for file in path.glob("data/*/*.parquet"))
        with _translate_read_errors():
            return cls(
                str(path),
                {name: _sha256(path / name) if compute_hashes else "" for name in names if parse_data_path(name)},
            )

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        return (Path(self.name) / path).open("rb")

    def read_text(self, path: str) -> str:
        file = Path(self.name) / path
        with _translate_read_errors():
            return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


@dataclass(frozen=True, slots=True)
class HubReader:
    """A release in a repository, at one commit."""

    name: str
    file_hashes: dict[str, str] = field(repr=False)
    root: str
    paths: frozenset[str] = field(repr=False)

    @classmethod
    def from_repo(cls, repo_id: str, revision: str) -> HubReader:
        from huggingface_hub import HfApi

        with translate_read_errors(repo_id, revision):
            commit = HfApi().repo_info(repo_id, repo_type="dataset", revision=revision).sha
            files = get_repo_files(HfApi(), repo_id, repo_type="dataset", revision=str(commit))
        lfs = {path: files[path].lfs for path in sorted(files) if parse_data_path(path)}
        file_hashes = {path: lfs_info.sha256 if lfs_info else "" for path, lfs_info in lfs.items()}
        return cls(f"{repo_id}@{revision}", file_hashes, f"datasets/{repo_id}@{commit}", frozenset(files))

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        from huggingface_hub import HfFileSystem

        # No reading ahead: between the columns that are wanted lie the images, which are a hundred times larger.
        file: Any = HfFileSystem().open(f"{self.root}/{path}", "rb", cache_type="none")
        return file  # type: ignore[no-any-return]

    def read_text(self, path: str) -> str:
        if path not in self.paths:
            return ""
        with translate_read_errors(self.name), self.open(path) as file:
            return file.read().decode("utf-8", errors="replace")


def open_dataset(path: str | Path, *, compute_hashes: bool = True) -> DatasetReader:
    """Return the release in a folder, or in a repository (`org/name`, `org/name@v1.0.0`) as it is at this moment.

    Args:
        path (`str | Path`): which of them.
        compute_hashes (`bool`, *optional*, defaults to True): False leaves a folder's files unread until they are
            opened.

    Raises:
        UsageError: `path` is neither.
        ReleaseError: a file of the folder cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    if Path(path).is_dir():
        return DirectoryReader.from_path(Path(path), compute_hashes=compute_hashes)
    ref = RepoRef.parse(str(path))
    if ref is None:
        raise UsageError(
            f"{str(path)!r} is neither a folder nor a repository; give the folder of a release, or namespace/name "
            "with @revision where it is not main"
        )
    return HubReader.from_repo(ref.repo_id, ref.revision or "main")


def read_parquet(reader: DatasetReader, path: str, read: Callable[[Any], T]) -> T:
    """Return what `read` makes of a Parquet file that is open for it.

    Raises:
        ReleaseError: it is damaged, or cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    with translate_read_errors(reader.name):
        try:
            with reader.open(path) as raw, pq.ParquetFile(raw) as file:
                return read(file)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, HTTPError | ConnectionError):  # the Hub's, some of which are OSErrors too
                raise
            message = " ".join(str(error).split())
            raise ReleaseError(f"{path} of {reader.name} cannot be read ({message}); put a whole one there") from error


@contextmanager
def _translate_read_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReleaseError(f"{error.filename} cannot be read ({error.strerror}); mend it and run it again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
