"""Publishes a directory to a repository of any type, so that main (and a tag) has exactly the files of the directory.

Files are uploaded to a pull request and compared there with the directory, by size and hash. Only then the pull request
is merged and tagged, so a reader of main or of a tag never sees an incomplete upload. Every step first checks what
exists already. After an interruption, the same call therefore resumes in the pull request that it had opened.

The token is taken from HF_TOKEN or `hf auth login`. HF_HUB_DISABLE_PROGRESS_BARS disables the progress bars of the
client.
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

_RETRY_DELAYS_S: Final = (
    1.0,
    2.0,
    4.0,
    8.0,
)  # waits before further attempts, in addition to the retries of the client itself
_MAX_RETRY_DELAY_S: Final = 60.0  # upper bound of a wait that the Hub asks for by Retry-After


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of a push.

    Attributes:
        commit (`str`): hash of the published commit.
        tag (`str`, *optional*): the tag, if one was requested.
        url (`str`): page of the repository at the tag, or at main.
    """

    commit: str
    tag: str | None
    url: str


@dataclass(frozen=True, slots=True)
class RemoteState:
    """The tags and files of a repository.

    Attributes:
        tags (`tuple[str, ...]`): all tags, in the order of the Hub.
        files (`tuple[str, ...]`): sorted paths of the files on main.
    """

    tags: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """The arguments of `push`, and the client that carries them out."""

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
        """Return the first difference between a revision and the directory, or an empty string if they are equal."""
        return next(iter_differences(get_repo_files(self.api, **self.repo_args, revision=revision), self.directory), "")

    def get_blob_ids(self, revision: str) -> dict[str, str]:
        """Return the git hash of each file of a revision, by path."""
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
    """Publish a directory: replace the files on main by its files in one step, and tag the commit.

    Args:
        directory (`str | Path`): the directory to publish. Files on main that it does not contain are deleted.
        repo_id (`str`): `namespace/name`; the repository is created if it does not exist.
        repo_type (`str`): `dataset`, `model` or `space`.
        message (`str`): commit message of one line. It is also the title of the pull request, by which an interrupted
            push is found again.
        tag (`str`, *optional*): tag to create at the end. An existing tag is never moved; if it already has exactly
            these files, nothing is left to do.
        private (`bool`, *optional*, defaults to False): create a private repository, and refuse to publish to a public
            one.
        check (`Callable[[str], None]`, *optional*): called with the commit of the pull request before the merge;
            raises to prevent the merge.
        on_progress (`Callable[[str], None]`, *optional*): called with a message at each step.

    Returns:
        The commit, tag and URL.

    Raises:
        UsageError: `directory` is not a directory or has no files, or `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached, or keeps failing; the same call resumes.
        HubError: the Hub rejects a request. Main and all tags are unchanged, unless the message says otherwise.
    """
    from huggingface_hub import HfApi

    target = _Target(HfApi(), Path(directory), check_repo_id(repo_id), repo_type, message)
    if not list_files(target.directory):
        raise UsageError(f"{directory} contains no files: give the directory to publish")
    # Each attempt starts from what exists on the Hub, so a repetition resumes. Other errors than HubUnavailableError
    # are permanent.
    delays = iter(_RETRY_DELAYS_S)
    while True:
        try:
            with translate_write_errors(target.repo_id, target.directory):
                return _push(target, tag=tag, private=private, check=check, on_progress=on_progress)
        except HubUnavailableError as error:
            if (wait_s := next(delays, None)) is None:
                raise
            wait_s = min(_MAX_RETRY_DELAY_S, max(wait_s, error.retry_after_s))
            on_progress(f"{error}; retrying in {wait_s:.0f} s")
            time.sleep(wait_s)


def get_remote_state(repo_id: str, *, repo_type: RepoType) -> RemoteState:
    """Return the tags and files of a repository; none if it does not exist or the token has no access to it.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubError: the Hub cannot be reached or rejects the request.
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
    """Make one attempt to publish; every step is skipped if its result exists already."""
    api = target.api
    author = api.whoami(cache=True)["name"]  # cached: the Hub limits these calls strictly, and attempts repeat
    sdk = "gradio" if target.repo_type == "space" else None
    # None instead of False: a new repository then has the default visibility of its organization.
    api.create_repo(**target.repo_args, private=private or None, exist_ok=True, space_sdk=sdk)
    if private and not api.repo_info(**target.repo_args).private:
        raise HubError(
            f"{target.repo_id} is public, not private: make it private on the Hub, or choose another repository"
        )
    # The tag exists: an earlier call was completed, or the name is taken by other files.
    if tag is not None and tag in target.list_tags():
        if diff := target.find_difference(tag):
            raise HubError(f"{target.repo_id} already has a tag {tag} with other files ({diff}): choose another tag")
        commit = target.get_commit(tag)
    else:
        # If main has the files already, an earlier call was interrupted between merge and tag: only the tag is missing.
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
    """Upload to a pull request, compare it with the directory, merge it, and return the new commit of main."""
    api = target.api
    pull = _find_or_create_pull_request(target, author, main_commit)
    ref = f"refs/pr/{pull.num}"
    on_progress(f"uploading into pull request {pull.num}: {pull.url}")
    api.upload_folder(
        **target.repo_args,
        folder_path=target.directory,
        commit_message=target.message,
        revision=ref,
        parent_commit=target.get_commit(ref),  # fails if a concurrent push has added a commit
        delete_patterns="*",  # delete files that the directory does not have
    )
    on_progress(f"checking pull request {pull.num}")
    head = target.get_commit(ref)
    if diff := target.find_difference(head):
        raise HubError(
            f"pull request {pull.num} of {target.repo_id} differs from the directory ({diff}): run the command again"
        )
    check(head)
    # Checked late, directly before the merge; what happens in between is found by the comparison after it.
    if target.get_commit("main") != main_commit:
        raise HubError(
            f"main of {target.repo_id} was changed in the meantime and nothing was merged: run the command again"
        )
    on_progress(f"merging pull request {pull.num}")
    if pull.status == "draft":  # the Hub does not merge drafts
        api.change_discussion_status(**target.repo_args, discussion_num=pull.num, new_status="open")
    api.merge_pull_request(**target.repo_args, discussion_num=pull.num)
    commit = target.get_commit("main")
    if target.get_blob_ids(commit) != target.get_blob_ids(head):
        raise HubError(
            f"main of {target.repo_id} was changed during the merge and no tag was set: run the command again"
        )
    return commit


def _find_or_create_pull_request(target: _Target, author: str, main_commit: str) -> Discussion:
    """Return our open pull request of this title, or a new one; close those that are based on an older main."""
    api = target.api
    for pull in api.get_repo_discussions(**target.repo_args, author=author, discussion_type="pull_request"):
        if pull.title != target.message or pull.status not in ("draft", "open"):
            continue
        history = api.list_repo_commits(**target.repo_args, revision=f"refs/pr/{pull.num}")
        if main_commit in (commit.commit_id for commit in history):
            return pull
        # A merge would mix the directory with later changes on main. The Hub keeps the uploaded files for the next one.
        api.change_discussion_status(
            **target.repo_args, discussion_num=pull.num, new_status="closed", comment="main has changed since"
        )
    return api.create_pull_request(**target.repo_args, title=target.message)
