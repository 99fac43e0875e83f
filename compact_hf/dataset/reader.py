"""Where a release is held, a folder or a data set repository at a revision, and reading it there piece by piece.

In: a path or `org/name[@revision]`. Out: its files, their hashes, and files opened so that a read takes no more bytes
than it asked for; from the Hub these are requests for ranges, all of one commit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

from compact_hf.dataset.schema import place_of
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.errors import reading
from compact_hf.hub.files import tree

T = TypeVar("T")

_REPOSITORY: Final = re.compile(r"(?P<repo_id>[^/@\s]+/[^/@\s]+)(@(?P<revision>\S+))?")


class Held(Protocol):
    """A release that can be read.

    Attributes:
        name (`str`): as it was given.
        data (`dict[str, str]`): path of each Parquet file -> SHA-256 of its bytes, empty where only reading it would
            tell; sorted by path.
    """

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> dict[str, str]: ...

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Return a file to read and seek in; OSError where that fails."""
        ...

    def text(self, path: str) -> str:
        """Return a text file, an empty string where it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A release in a folder."""

    name: str
    data: dict[str, str] = field(repr=False)

    @classmethod
    def at(cls, path: Path, *, hashed: bool = True) -> Folder:
        names = sorted(file.relative_to(path).as_posix() for file in path.glob("data/*/*.parquet"))
        with _readable():
            return cls(str(path), {name: _sha256(path / name) if hashed else "" for name in names if place_of(name)})

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        return (Path(self.name) / path).open("rb")

    def text(self, path: str) -> str:
        file = Path(self.name) / path
        with _readable():
            return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


@dataclass(frozen=True, slots=True)
class Repository:
    """A release in a repository, at one commit."""

    name: str
    data: dict[str, str] = field(repr=False)
    root: str
    texts: frozenset[str] = field(repr=False)

    @classmethod
    def at(cls, repo_id: str, revision: str) -> Repository:
        from huggingface_hub import HfApi

        with reading(repo_id, revision):
            commit = HfApi().repo_info(repo_id, repo_type="dataset", revision=revision).sha
            files = tree(HfApi(), repo_id, repo_type="dataset", revision=str(commit))
        lfs = {path: files[path].lfs for path in sorted(files) if place_of(path)}
        data = {path: stored.sha256 if stored else "" for path, stored in lfs.items()}
        return cls(f"{repo_id}@{revision}", data, f"datasets/{repo_id}@{commit}", frozenset(files))

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        from huggingface_hub import HfFileSystem

        # No reading ahead: between the columns that are wanted lie the pictures, which are a hundred times larger.
        opened: Any = HfFileSystem().open(f"{self.root}/{path}", "rb", cache_type="none")
        return opened  # type: ignore[no-any-return]

    def text(self, path: str) -> str:
        if path not in self.texts:
            return ""
        with reading(self.name), self.open(path) as file:
            return file.read().decode("utf-8", errors="replace")


def held(where: str | Path, *, hashed: bool = True) -> Held:
    """Return the release in a folder, or in a repository (`org/name`, `org/name@v1.0.0`) as it is at this moment.

    Args:
        where (`str | Path`): which of them.
        hashed (`bool`, *optional*, defaults to True): False leaves a folder's files unread until they are opened.

    Raises:
        UsageError: `where` is neither.
        ReleaseError: a file of the folder cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    if Path(where).is_dir():
        return Folder.at(Path(where), hashed=hashed)
    if not (named := _REPOSITORY.fullmatch(str(where))):
        raise UsageError(
            f"{str(where)!r} is neither a folder nor a repository; give the folder of a release, or namespace/name "
            "with @revision where it is not main"
        )
    return Repository.at(named["repo_id"], named["revision"] or "main")


def of_file(release: Held, path: str, use: Callable[[Any], T]) -> T:
    """Return what `use` makes of a Parquet file that is open for it.

    Raises:
        ReleaseError: it is damaged, or cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    with reading(release.name):
        try:
            with release.open(path) as raw, pq.ParquetFile(raw) as file:
                return use(file)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, HTTPError | ConnectionError):  # the Hub's, some of which are OSErrors too
                raise
            told = " ".join(str(error).split())
            raise ReleaseError(f"{path} of {release.name} cannot be read ({told}); put a whole one there") from error


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReleaseError(f"{error.filename} cannot be read ({error.strerror}); mend it and run it again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
