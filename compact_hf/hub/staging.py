"""Uploads a directory to where readers do not see it, compares it there, and brings it to main in one step.

The upload goes to a pull request, which is then merged. On a Hub or in a repository without pull requests it goes to a
branch, and one commit on main follows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compact_hf.errors import HubError
from compact_hf.hub.errors import missing_pull_requests
from compact_hf.hub.files import HUB_MANAGED_FILE, get_repo_files, iter_differences

if TYPE_CHECKING:
    from huggingface_hub import Discussion, HfApi

RepoType = Literal["dataset", "model", "space"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A directory and the repository to which it is published.

    Attributes:
        api (`HfApi`): the client.
        directory (`Path`): the directory.
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        message (`str`): commit message of one line, and title of the pull request.
        tag (`str`, *optional*): the tag that is set at the end.
        check (`Callable[[str], None]`): called with the commit of the upload; raises to prevent the change of main.
        on_progress (`Callable[[str], None]`): called with a message at each step.
    """

    api: HfApi
    directory: Path
    repo_id: str
    repo_type: RepoType
    message: str
    tag: str | None
    check: Callable[[str], None]
    on_progress: Callable[[str], None]

    @property
    def repo_args(self) -> dict[str, Any]:
        """The arguments that name the repository in every call."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @property
    def branch(self) -> str:
        """The branch for the upload if there are no pull requests. Only interrupted uploads leave it behind."""
        return f"compact-publish-{self.tag or 'main'}"

    def get_commit(self, revision: str) -> str:
        """Return the hash of a revision's commit."""
        return str(self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision).sha)

    def list_tags(self) -> set[str]:
        """Return the names of all tags."""
        return {tag.name for tag in self.api.list_repo_refs(**self.repo_args).tags}

    def find_difference(self, revision: str) -> str:
        """Return the first difference between a revision and the directory, or an empty string if they are equal."""
        return next(iter_differences(get_repo_files(self.api, **self.repo_args, revision=revision), self.directory), "")

    def get_blob_ids(self, revision: str) -> dict[str, str]:
        """Return the git hash of each file of a revision, by path, without the file that the Hub manages."""
        files = get_repo_files(self.api, **self.repo_args, revision=revision)
        return {path: file.blob_id for path, file in files.items() if path != HUB_MANAGED_FILE}


def find_or_create_pull_request(upload: Upload, author: str, main_commit: str) -> Discussion:
    """Return the author's open pull request of this title, or a new one; close those that are based on an older main.

    Args:
        upload (`Upload`): what is published.
        author (`str`): name of the user whose pull requests are looked at.
        main_commit (`str`): the current commit of main.
    """
    api = upload.api
    for pull in _list_pull_requests(upload, author):
        if pull.title != upload.message or pull.status not in ("draft", "open"):
            continue
        history = api.list_repo_commits(**upload.repo_args, revision=f"refs/pr/{pull.num}")
        if main_commit in (commit.commit_id for commit in history):
            return pull
        # A merge would mix the directory with later changes on main. The Hub keeps the uploaded files for the next one.
        api.change_discussion_status(
            **upload.repo_args, discussion_num=pull.num, new_status="closed", comment="main has changed since"
        )
    return api.create_pull_request(**upload.repo_args, title=upload.message)


def push_via_pull_request(upload: Upload, pull: Discussion, main_commit: str) -> str:
    """Upload to a pull request, compare it with the directory, merge it, and return the new commit of main.

    Args:
        upload (`Upload`): what is published.
        pull (`Discussion`): the pull request.
        main_commit (`str`): the current commit of main.
    """
    api, name = upload.api, f"pull request {pull.num}"
    upload.on_progress(f"uploading into {name}: {pull.url}")
    head = _upload_and_check(upload, f"refs/pr/{pull.num}", name, main_commit)
    upload.on_progress(f"merging {name}")
    if pull.status == "draft":  # the Hub does not merge drafts
        api.change_discussion_status(**upload.repo_args, discussion_num=pull.num, new_status="open")
    api.merge_pull_request(**upload.repo_args, discussion_num=pull.num)
    return _confirm_main(upload, upload.get_blob_ids(head))


def push_via_branch(upload: Upload, main_commit: str) -> str:
    """Upload to a branch, compare it with the directory, make one commit on main, and return it.

    Args:
        upload (`Upload`): what is published.
        main_commit (`str`): the current commit of main.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    name = f"branch {upload.branch}"
    upload.on_progress(f"uploading to {name}")
    # A branch of an interrupted upload is used again, on whatever commit of main it is based: the upload gives it
    # exactly the files of the directory.
    upload.api.create_branch(**upload.repo_args, branch=upload.branch, exist_ok=True)
    blob_ids = upload.get_blob_ids(_upload_and_check(upload, upload.branch, name, main_commit))
    upload.on_progress("committing to main")
    main_blob_ids = upload.get_blob_ids(main_commit)
    changed = [path for path, blob_id in blob_ids.items() if main_blob_ids.get(path) != blob_id]
    upload.api.create_commit(
        **upload.repo_args,
        # The contents are on the Hub already, so that only the commit itself is sent.
        operations=[
            *(CommitOperationAdd(path, upload.directory / path) for path in changed),
            *(CommitOperationDelete(path) for path in main_blob_ids.keys() - blob_ids.keys()),
        ],
        commit_message=upload.message,
        parent_commit=main_commit[:40],  # fails if main was changed; the client takes at most 40 digits
    )
    return _confirm_main(upload, blob_ids)


def delete_branch(upload: Upload) -> None:
    """Delete the branch to which the directory was uploaded, if it exists.

    Args:
        upload (`Upload`): what is published.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if upload.branch not in (branch.name for branch in upload.api.list_repo_refs(**upload.repo_args).branches):
        return
    try:
        upload.api.delete_branch(**upload.repo_args, branch=upload.branch)
    except HfHubHTTPError as error:
        upload.on_progress(
            f"branch {upload.branch} of {upload.repo_id} could not be deleted ({error.response.status_code}): it is no "
            "longer needed, delete it on the Hub"
        )


def _list_pull_requests(upload: Upload, author: str) -> list[Discussion]:
    try:
        return list(upload.api.get_repo_discussions(**upload.repo_args, author=author, discussion_type="pull_request"))
    # Some servers answer every address that they do not know with a page, or with JSON of another form.
    except (json.JSONDecodeError, KeyError) as error:
        raise missing_pull_requests(upload.repo_id, "the reply is no list of pull requests") from error


def _upload_and_check(upload: Upload, revision: str, name: str, main_commit: str) -> str:
    """Upload the directory to a revision, compare and check it there, and return its commit."""
    upload.api.upload_folder(
        **upload.repo_args,
        folder_path=upload.directory,
        commit_message=upload.message,
        revision=revision,
        parent_commit=upload.get_commit(revision)[:40],  # fails if a concurrent push has added a commit
        delete_patterns="*",  # delete files that the directory does not have
    )
    upload.on_progress(f"checking {name}")
    head = upload.get_commit(revision)
    if diff := upload.find_difference(head):
        raise HubError(f"{name} of {upload.repo_id} differs from the directory ({diff}): run the command again")
    upload.check(head)
    # Checked late, directly before the change of main; what happens in between is found by the comparison after it.
    if upload.get_commit("main") != main_commit:
        raise HubError(
            f"main of {upload.repo_id} was changed in the meantime and nothing was merged: run the command again"
        )
    return head


def _confirm_main(upload: Upload, blob_ids: dict[str, str]) -> str:
    """Return the commit of main; raise HubError unless it has exactly the files that were checked."""
    commit = upload.get_commit("main")
    if differences := sorted(path for path, _ in upload.get_blob_ids(commit).items() ^ blob_ids.items()):
        raise HubError(
            f"main of {upload.repo_id} was changed during the merge and no tag was set ({differences[0]} is not what "
            "was uploaded): run the command again"
        )
    return commit
