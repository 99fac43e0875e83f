"""What the Hub's double keeps: repositories with commits, references and pull requests, all in memory.

Requests change it, and get commits and their files, or a `RequestError` with the status and the code
that the Hub's client knows. Nothing here knows HTTP; the routes are in routes.py and pull_requests.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

MAIN: Final = "refs/heads/main"
_POINTER: Final = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


class RequestError(Exception):
    """A request that the Hub answers with an error.

    Attributes:
        status (`int`): HTTP status.
        code (`str`): X-Error-Code, empty for none.
        commit (`str`): X-Repo-Commit, the commit that lacks a file; empty for none.
    """

    def __init__(self, status: int, message: str, *, code: str = "", commit: str = "") -> None:
        self.status = status
        self.code = code
        self.commit = commit
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class File:
    """One version of a file.

    Attributes:
        data (`bytes`): its content.
        lfs (`bool`): whether git holds a pointer to it only.
        sha256 (`str`): of the content.
        oid (`str`): git's hash, of the pointer where `lfs`.
        xet_hash (`str`): hash of the content in the Xet storage, empty if it is not there.
    """

    data: bytes = field(repr=False)
    lfs: bool
    sha256: str
    oid: str
    xet_hash: str = ""

    @classmethod
    def from_bytes(cls, data: bytes, *, lfs: bool, xet_hash: str = "", git_hash: str = "sha1") -> File:
        sha256 = hashlib.sha256(data).hexdigest()
        blob = _POINTER.format(oid=sha256, size=len(data)).encode() if lfs else data
        return cls(data, lfs, sha256, hashlib.new(git_hash, b"blob %d\0" % len(blob) + blob).hexdigest(), xet_hash)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True, slots=True)
class Commit:
    """A state of all files. `parent` is the sha of the commit before, empty for the first."""

    sha: str
    parent: str
    title: str
    message: str
    author: str
    created: str
    files: Mapping[str, File] = field(repr=False)


@dataclass(slots=True)
class PullRequest:
    """A pull request; its commits stand under `refs/pr/{number}`.

    Attributes:
        status (`str`): `draft`, `open`, `closed` or `merged`.
        base (`str`): the commit of main that it was opened on.
        merge_commit (`str`): the commit of main that it became, empty before.
    """

    number: int
    title: str
    description: str
    author: str
    status: str
    base: str
    created: str
    merge_commit: str = ""

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"


class Repository:
    """One repository; it starts with a commit that holds `.gitattributes`, as on the Hub.

    Attributes:
        kind (`str`): `model`, `dataset` or `space`.
        name (`str`): `namespace/name`.
        private (`bool`): whether only those with a token see it.
        discussions_disabled (`bool`): whether its settings switch discussions and pull requests off.
        git_hash (`str`): what git hashes with: `sha1`, or `sha256`, whose commits and files have 64 digits.
        refs (`dict[str, str]`): full reference (`refs/heads/main`, `refs/tags/v1`, `refs/pr/1`) -> commit.
    """

    def __init__(self, kind: str, name: str, *, private: bool, author: str, git_hash: str = "sha1") -> None:
        self.kind = kind
        self.git_hash = git_hash
        self.name = name
        self.private = private
        self.discussions_disabled = False
        self.created = _now()
        self.refs: dict[str, str] = {}
        self.pull_requests: list[PullRequest] = []
        self._commits: dict[str, Commit] = {}
        attributes = File.from_bytes(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", lfs=False, git_hash=git_hash)
        self.add_commit(MAIN, {".gitattributes": attributes}, title="initial commit", message="", author=author)

    def get_commit(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag, a full reference or a hash."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self._commits[self.refs[ref]]
        if revision in self._commits:
            return self._commits[revision]
        raise RequestError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def history(self, revision: str) -> Iterator[Commit]:
        """Yield the commit of a revision and those before it, newest first."""
        commit = self.get_commit(revision)
        yield commit
        while commit.parent:
            commit = self._commits[commit.parent]
            yield commit

    def add_commit(self, ref: str, files: Mapping[str, File], *, title: str, message: str, author: str) -> Commit:
        """Put a commit with these files on top of a reference."""
        parent = self.refs.get(ref, "")
        content_key = repr((self.kind, self.name, len(self._commits), parent, title, sorted(files)))
        sha = hashlib.new(self.git_hash, content_key.encode()).hexdigest()
        self._commits[sha] = Commit(sha, parent, title, message, author, _now(), dict(files))
        self.refs[ref] = sha
        return self._commits[sha]

    def add_branch(self, name: str, revision: str) -> None:
        if f"refs/heads/{name}" in self.refs:
            raise RequestError(409, f"Reference already exists: {name}")
        self.refs[f"refs/heads/{name}"] = self.get_commit(revision).sha

    def delete_branch(self, name: str) -> None:
        if name == "main":
            raise RequestError(403, "The main branch cannot be deleted")
        if self.refs.pop(f"refs/heads/{name}", None) is None:
            raise RequestError(404, f"Branch {name} does not exist", code="RevisionNotFound")

    def add_tag(self, name: str, revision: str) -> None:
        if f"refs/tags/{name}" in self.refs:
            raise RequestError(409, f"Tag {name} already exists")
        self.refs[f"refs/tags/{name}"] = self.get_commit(revision).sha

    def delete_tag(self, name: str) -> None:
        if self.refs.pop(f"refs/tags/{name}", None) is None:
            raise RequestError(404, f"Tag {name} does not exist", code="RevisionNotFound")

    def open_pull_request(self, title: str, description: str, *, author: str, draft: bool) -> PullRequest:
        """Open a pull request on main as it is now; what a client opens without a commit is a draft."""
        base = self.refs[MAIN]
        status = "draft" if draft else "open"
        pull = PullRequest(len(self.pull_requests) + 1, title, description, author, status, base, _now())
        self.pull_requests.append(pull)
        self.refs[pull.ref] = base
        return pull

    def get_pull_request(self, number: int) -> PullRequest:
        if not 0 < number <= len(self.pull_requests):
            raise RequestError(404, f"There is no discussion {number}")
        return self.pull_requests[number - 1]

    def merge(self, number: int, *, author: str) -> Commit:
        """Bring what a pull request changed onto main, as one commit.

        Raises:
            RequestError: it is not open, or main changed the same files since.
        """
        pull = self.get_pull_request(number)
        if pull.status != "open":
            raise RequestError(400, f"Cannot merge a pull request whose status is {pull.status}")
        base, theirs, current = (self.get_commit(revision).files for revision in (pull.base, pull.ref, MAIN))
        merged = dict(current)
        for path in base.keys() | theirs.keys():
            if theirs.get(path) == base.get(path):
                continue
            if current.get(path) not in (base.get(path), theirs.get(path)):
                raise RequestError(409, f"This pull request conflicts with main in {path}")
            if path in theirs:
                merged[path] = theirs[path]
            else:
                merged.pop(path, None)
        commit = self.add_commit(
            MAIN, merged, title=f"{pull.title} (#{number})", message=pull.description, author=author
        )
        pull.status, pull.merge_commit = "merged", commit.sha
        return commit


class Store:
    """All repositories, and the contents that were uploaded for files with LFS.

    Attributes:
        objects (`dict[str, bytes]`): sha256 -> content.
        git_hash (`str`): that of new repositories.
    """

    def __init__(self, *, git_hash: str = "sha1") -> None:
        self.objects: dict[str, bytes] = {}
        self.git_hash = git_hash
        self._repositories: dict[tuple[str, str], Repository] = {}

    def create(self, kind: str, name: str, *, private: bool, author: str) -> Repository:
        repository = Repository(kind, name, private=private, author=author, git_hash=self.git_hash)
        return self._repositories.setdefault((kind, name), repository)

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in self._repositories

    def delete(self, kind: str, name: str) -> None:
        self.repository(kind, name)
        del self._repositories[kind, name]

    def repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self._repositories:
            raise RequestError(404, "Repository not found", code="RepoNotFound")
        return self._repositories[kind, name]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
