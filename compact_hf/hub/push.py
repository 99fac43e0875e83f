"""A folder to the Hub in one piece: in goes a folder, out comes a commit of main (and a tag) that holds exactly it.

Files are uploaded into a pull request, compared there with the folder by size and hash, and only then merged and
tagged: a reader of main or of a tag never sees half of it. Every step looks first at what is there already, so the
same call goes on after an interruption, in the pull request that it had opened. It knows no dataset.

The token is HF_TOKEN's or that of `hf auth login`; the client's progress bars follow HF_HUB_DISABLE_PROGRESS_BARS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from compact_hf.errors import HubError, HubUnavailableError, UsageError
from compact_hf.hub.errors import check_repo_id, translate_write_errors
from compact_hf.hub.files import get_repo_files, iter_differences, list_files

if TYPE_CHECKING:
    from huggingface_hub import Discussion, HfApi

RepoType = Literal["dataset", "model", "space"]

_RETRY_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0)  # before each further attempt; the client has waited between its own
_MAX_RETRY_DELAY_S: Final = 60.0  # however long the Hub asks for


@dataclass(frozen=True, slots=True)
class PushResult:
    """Where the folder stands now.

    Attributes:
        commit (`str`): of main.
        tag (`str`, *optional*): as asked for.
        url (`str`): the page that shows it.
    """

    commit: str
    tag: str | None
    url: str


@dataclass(frozen=True, slots=True)
class RemoteState:
    """What a repository holds.

    Attributes:
        tags (`tuple[str, ...]`): as the Hub lists them.
        files (`tuple[str, ...]`): paths on main, sorted.
    """

    tags: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """What `push` was asked for, and the client to do it with."""

    api: HfApi
    directory: Path
    repo_id: str
    repo_type: RepoType
    message: str

    @property
    def repo_args(self) -> dict[str, Any]:
        """The arguments that name the repository in every call."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    def get_commit(self, revision: str) -> str:
        """Return the hash of a revision's commit."""
        return str(self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision).sha)

    def list_tags(self) -> set[str]:
        return {tag.name for tag in self.api.list_repo_refs(**self.repo_args).tags}

    def find_difference(self, revision: str) -> str:
        """Return how a revision differs from the folder, an empty string where it does not."""
        return next(iter_differences(get_repo_files(self.api, **self.repo_args, revision=revision), self.directory), "")

    def get_blob_ids(self, revision: str) -> dict[str, str]:
        """Return path -> git's hash."""
        return {
            path: file.blob_id for path, file in get_repo_files(self.api, **self.repo_args, revision=revision).items()
        }


def push(
    directory: str | Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    message: str,
    tag: str | None = None,
    private: bool = False,
    check: Callable[[str], None] = lambda commit: None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> PushResult:
    """Make main hold exactly the files of a folder, at once, and tag it.

    Args:
        directory (`str | Path`): what to publish; files that main has and the folder has not are deleted.
        repo_id (`str`): `namespace/name`; created where it is not there.
        repo_type (`str`): `dataset`, `model` or `space`.
        message (`str`): one line for the commit; also the title by which an interrupted pull request is found again.
        tag (`str`, *optional*): set at the end; one that exists is never moved: where it holds just these files,
            nothing is left to do.
        private (`bool`, *optional*, defaults to False): creates the repository private, and refuses a public one.
        check (`Callable[[str], None]`, *optional*): is given the pull request's commit before it is merged, and
            raises where that must not happen.
        on_progress (`Callable[[str], None]`, *optional*): is told each step in words.

    Raises:
        UsageError: `directory` is no folder or empty, or `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached or keeps failing; the same call goes on.
        HubError: the Hub refuses. Main and all tags are as they were, unless the message says otherwise.
    """
    from huggingface_hub import HfApi

    target = _Target(HfApi(), Path(directory), check_repo_id(repo_id), repo_type, message)
    if not list_files(target.directory):
        raise UsageError(f"{directory} holds no files; give the folder that shall be published")
    delays = iter(_RETRY_DELAYS_S)
    while True:
        try:
            with translate_write_errors(target.repo_id, target.directory):
                return _push(target, tag=tag, private=private, check=check, on_progress=on_progress)
        except HubUnavailableError as error:
            if (wait_s := next(delays, None)) is None:
                raise
            wait_s = min(_MAX_RETRY_DELAY_S, max(wait_s, error.retry_after_s))
            on_progress(f"{error}; trying again in {wait_s:.0f} s")
            time.sleep(wait_s)


def get_remote_state(repo_id: str, *, repo_type: RepoType) -> RemoteState:
    """Return what a repository holds, nothing where it is not there (or not to be seen).

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubError: the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    repo_args: dict[str, Any] = {"repo_id": check_repo_id(repo_id), "repo_type": repo_type}
    with translate_write_errors(repo_id):
        try:
            tags = tuple(tag.name for tag in HfApi().list_repo_refs(**repo_args).tags)
            files = tuple(sorted(HfApi().list_repo_files(**repo_args, revision="main")))
        except RepositoryNotFoundError:
            return RemoteState((), ())
    return RemoteState(tags, files)


def _push(
    target: _Target,
    *,
    tag: str | None,
    private: bool,
    check: Callable[[str], None],
    on_progress: Callable[[str], None],
) -> PushResult:
    api = target.api
    author = api.whoami(cache=True)["name"]  # the Hub counts these strictly, and we may come again
    sdk = "gradio" if target.repo_type == "space" else None
    api.create_repo(**target.repo_args, private=private or None, exist_ok=True, space_sdk=sdk)
    if private and not api.repo_info(**target.repo_args).private:
        raise HubError(f"{target.repo_id} is public, not private; make it private on the Hub, or choose another one")
    if tag is not None and tag in target.list_tags():
        if diff := target.find_difference(tag):
            raise HubError(f"{target.repo_id} has the tag {tag} for something else ({diff}); choose another one")
        commit = target.get_commit(tag)
    else:
        commit = target.get_commit("main")
        if target.find_difference(commit):
            commit = _push_via_pull_request(target, author, commit, check, on_progress)
        if tag is not None:
            on_progress(f"tagging {tag}")
            api.create_tag(**target.repo_args, tag=tag, revision=commit)
    prefix = "" if target.repo_type == "model" else f"{target.repo_type}s/"
    return PushResult(commit, tag, f"{api.endpoint}/{prefix}{target.repo_id}/tree/{tag or 'main'}")


def _push_via_pull_request(
    target: _Target, author: str, main_commit: str, check: Callable[[str], None], on_progress: Callable[[str], None]
) -> str:
    """Upload, compare, merge; return the commit that follows the commit `main_commit` on main."""
    api = target.api
    pull = _find_or_create_pull_request(target, author, main_commit)
    ref = f"refs/pr/{pull.num}"
    on_progress(f"uploading into pull request {pull.num}: {pull.url}")
    api.upload_folder(
        **target.repo_args,
        folder_path=target.directory,
        commit_message=target.message,
        revision=ref,
        parent_commit=target.get_commit(ref),  # two of us must not mix their files
        delete_patterns="*",  # of what the folder has not
    )
    on_progress(f"checking pull request {pull.num}")
    head = target.get_commit(ref)
    if diff := target.find_difference(head):
        raise HubError(f"pull request {pull.num} of {target.repo_id} is not the folder ({diff}); run the same again")
    check(head)
    if target.get_commit("main") != main_commit:
        raise HubError(f"main of {target.repo_id} was changed in the meantime; nothing was merged, run the same again")
    on_progress(f"merging pull request {pull.num}")
    if pull.status == "draft":  # the Hub merges none
        api.change_discussion_status(**target.repo_args, discussion_num=pull.num, new_status="open")
    api.merge_pull_request(**target.repo_args, discussion_num=pull.num)
    commit = target.get_commit("main")
    if target.get_blob_ids(commit) != target.get_blob_ids(head):
        raise HubError(f"main of {target.repo_id} was changed while merging; no tag was set, run the same again")
    return commit


def _find_or_create_pull_request(target: _Target, author: str, main_commit: str) -> Discussion:
    """Return our open pull request of this title, or a new one; an old one on another main is closed."""
    api = target.api
    for pull in api.get_repo_discussions(**target.repo_args, author=author, discussion_type="pull_request"):
        if pull.title != target.message or pull.status not in ("draft", "open"):
            continue
        history = api.list_repo_commits(**target.repo_args, revision=f"refs/pr/{pull.num}")
        if main_commit in (commit.commit_id for commit in history):
            return pull
        # Merging it would mix the folder with what main has become. What it uploaded is kept by the Hub.
        api.change_discussion_status(
            **target.repo_args, discussion_num=pull.num, new_status="closed", comment="main has changed since"
        )
    return api.create_pull_request(**target.repo_args, title=target.message)
