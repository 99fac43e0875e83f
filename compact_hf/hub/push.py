"""Publishes a directory to a repository of any type, so that main (and a tag) has exactly the files of the directory.

Files are uploaded to a pull request or to a branch (staging.py) and compared there with the directory, by size and
hash. Only then main is changed in one step and tagged, so a reader of main or of a tag never sees an incomplete upload.
Every step first checks what exists already. After an interruption, the same call therefore resumes in the pull request
or the branch of the first one.

The token is taken from HF_TOKEN or `hf auth login`. HF_HUB_DISABLE_PROGRESS_BARS disables the progress bars of the
client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import HubError, HubUnavailableError, UsageError
from compact_hf.hub.card_rules import check_card
from compact_hf.hub.errors import check_repo_id, translate_write_errors
from compact_hf.hub.files import list_files
from compact_hf.hub.staging import (
    RepoType,
    Upload,
    delete_branch,
    find_or_create_pull_request,
    push_via_branch,
    push_via_pull_request,
)

_RETRY_DELAYS_S: Final = (
    1.0,
    2.0,
    4.0,
    8.0,
)  # waits before further attempts, in addition to the retries of the client itself
# The longest wait that the Hub may ask for: its rate limits apply to windows of five minutes. The error of a longer one
# says when the command can be run again.
_MAX_RETRY_DELAY_S: Final = 330.0


@contextmanager
def _say_what_resumes() -> Iterator[None]:
    """Add to the message of a Hub that cannot be reached what to do."""
    try:
        yield
    except HubUnavailableError as error:
        raise HubUnavailableError(
            f"{error}: run the same command to resume",
            retry_after_s=error.retry_after_s,
            was_retried=error.was_retried,
        ) from error


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


@_say_what_resumes()
def push(
    directory: str | Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    message: str,
    tag: str | None = None,
    private: bool = False,
    public_because: str = "",
    pull_request: bool = True,
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
        public_because (`str`, *optional*, defaults to none): why the repository must be public; a private one is then
            refused, and a new one that is private by the default of its owner is deleted.
        pull_request (`bool`, *optional*, defaults to True): upload to a pull request and merge it; if False, upload to
            a branch and make one commit on main, for a Hub or a repository without pull requests.
        check (`Callable[[str], None]`, *optional*): called with the commit of the upload before main is changed; raises
            to prevent that.
        on_progress (`Callable[[str], None]`, *optional*): called with a message at each step.

    Returns:
        The commit, tag and URL.

    Raises:
        UsageError: `directory` is not a directory or has no files, or `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached, or keeps failing; the same call resumes.
        HubError: the Hub rejects a request. Main and all tags are unchanged, unless the message says otherwise.
    """
    from huggingface_hub import HfApi

    upload = Upload(HfApi(), Path(directory), check_repo_id(repo_id), repo_type, message, tag, check, on_progress)
    if not list_files(upload.directory):
        raise UsageError(f"{directory} contains no files: give the directory to publish")
    # Each attempt starts from what exists on the Hub, so a repetition resumes. Other errors than HubUnavailableError
    # are permanent.
    delays = iter(_RETRY_DELAYS_S)
    while True:
        try:
            with translate_write_errors(upload.repo_id, upload.directory):
                return _push(upload, private=private, public_because=public_because, pull_request=pull_request)
        except HubUnavailableError as error:
            wait_s = next(delays, None)
            if wait_s is None or error.was_retried or error.retry_after_s > _MAX_RETRY_DELAY_S:
                raise
            wait_s = max(wait_s, error.retry_after_s)
            on_progress(f"{error}; retrying in {wait_s:.0f} s")
            time.sleep(wait_s)


@_say_what_resumes()
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


def _push(upload: Upload, *, private: bool, public_because: str, pull_request: bool) -> PushResult:
    """Make one attempt to publish; every step is skipped if its result exists already."""
    api = upload.api
    author = api.whoami(cache=True)["name"]  # cached: the Hub limits these calls strictly, and attempts repeat
    # Before the repository is created, so that a rejected card leaves no empty one.
    check_card(upload.directory, repo_type=upload.repo_type)
    is_new = not api.repo_exists(**upload.repo_args)
    if is_new:
        sdk = "gradio" if upload.repo_type == "space" else None
        # None instead of False: a new repository then has the default visibility of its organization.
        api.create_repo(**upload.repo_args, private=private or None, space_sdk=sdk)
    if private and not api.repo_info(**upload.repo_args).private:
        raise HubError(
            f"{upload.repo_id} is public, not private: make it private on the Hub, or choose another repository"
        )
    if public_because and api.repo_info(**upload.repo_args).private:
        state, fix = ("would be", "create it as public on the Hub") if is_new else ("is", "make it public on the Hub")
        with _delete_if_refused(upload, is_new=is_new):
            raise HubError(f"{upload.repo_id} {state} private, and {public_because}: {fix}")
    tag = upload.tag
    # The tag exists: an earlier call was completed, or the name is taken by other files.
    if tag is not None and tag in upload.list_tags():
        if diff := upload.find_difference(tag):
            raise HubError(f"{upload.repo_id} already has a tag {tag} with other files ({diff}): choose another tag")
        commit = upload.get_commit(tag)
        upload.on_progress(f"{upload.repo_id} has {tag} already, with exactly these files")
    else:
        # If main has the files already, an earlier call was interrupted between merge and tag: only the tag is missing.
        commit = upload.get_commit("main")
        if upload.find_difference(commit):
            if pull_request:
                with _delete_if_refused(upload, is_new=is_new):
                    pull = find_or_create_pull_request(upload, author, commit)
                commit = push_via_pull_request(upload, pull, commit)
            else:
                commit = push_via_branch(upload, commit)
        if not pull_request:
            delete_branch(upload)  # before the tag, after which a release is not published again
        if tag is not None:
            upload.on_progress(f"tagging {tag}")
            api.create_tag(**upload.repo_args, tag=tag, revision=commit)
    prefix = "" if upload.repo_type == "model" else f"{upload.repo_type}s/"
    return PushResult(commit, tag, f"{api.endpoint}/{prefix}{upload.repo_id}/tree/{tag or 'main'}")


@contextmanager
def _delete_if_refused(upload: Upload, *, is_new: bool) -> Iterator[None]:
    """Delete the empty repository that this attempt has created if the Hub refuses a pull request in it."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with translate_write_errors(upload.repo_id):
            yield
    except HubUnavailableError:
        raise
    except HubError as error:
        if not is_new:
            raise
        try:
            upload.api.delete_repo(**upload.repo_args)
        except HfHubHTTPError:
            raise HubError(f"{error}. The new repository is empty and could not be deleted") from error
        raise
