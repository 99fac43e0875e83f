"""A repository at one revision as a folder on this machine: in goes its name, out comes where its files lie.

They lie in the cache of the Hub's client, where `load_dataset` and `from_pretrained` look too: what is there is not
fetched again, and a download that broke off goes on. It knows no data set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.errors import HubError, HubUnavailableError, UsageError
from compact_hf.hub.contents import tree
from compact_hf.hub.words import valid_name

if TYPE_CHECKING:
    from compact_hf.hub.push import RepoType


@dataclass(frozen=True, slots=True)
class Listing:
    """What a revision holds.

    Attributes:
        commit (`str`): that it stands for now.
        files (`dict[str, int]`): path -> bytes.
    """

    commit: str
    files: dict[str, int]


def listing(repo_id: str, *, repo_type: RepoType, revision: str | None = None) -> Listing:
    """Return what a repository holds, without fetching it; arguments and errors as for `snapshot`."""
    from huggingface_hub import HfApi

    with _in_words(repo_id, revision):
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        files = tree(HfApi(), repo_id, repo_type=repo_type, revision=str(commit))
    return Listing(str(commit), {path: file.size for path, file in files.items()})


def snapshot(
    repo_id: str, *, repo_type: RepoType, revision: str | None = None, files: Collection[str] | None = None
) -> Path:
    """Return a folder with the files of a repository, links into the cache.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`, *optional*, defaults to `main`): a branch, a tag, a commit, or `refs/pr/N`; taken at the commit
            that it stands for now.
        files (`Collection[str]`, *optional*, defaults to all): which of them.

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached or keeps failing; the same call goes on.
        HubError: there is no such repository or revision for this token, or its files cannot be kept here.
    """
    from huggingface_hub import HfApi, snapshot_download

    with _in_words(repo_id, revision):
        # Asked for first: without the Hub the cache would answer for a branch with the commit that it saw last.
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        chosen = None if files is None else sorted(files)
        return Path(snapshot_download(repo_id, repo_type=repo_type, revision=commit, allow_patterns=chosen))


def bytes_to_fetch(repo_id: str, there: Listing, files: Collection[str], *, repo_type: RepoType) -> int:
    """Return how many bytes of a revision's files are not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        there.files[name]
        for name in files
        if not isinstance(try_to_load_from_cache(repo_id, name, revision=there.commit, repo_type=repo_type), str)
    )


@contextmanager
def _in_words(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what the client raises while reading into one clear line."""
    from huggingface_hub import constants, errors

    told = f"{valid_name(repo_id)}{f'@{revision}' if revision else ''}"
    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not a repository's name: {_line(error)}") from error
    except errors.OfflineModeIsEnabled:
        raise HubError(f"{told} lies on the Hub, and HF_HUB_OFFLINE is set; unset it, or give a folder") from None
    except errors.GatedRepoError as error:
        raise HubError(
            f"{told} is gated; accept its terms at {constants.ENDPOINT}/{repo_id}, and set HF_TOKEN to a token of that "
            "account"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise HubUnavailableError(f"the Hub is busy or failing ({status}); run the same again") from error
        raise HubError(
            f"there is no {told} for this token on the Hub, nor a folder of this name here ({status}); "
            "check the name, the revision and HF_TOKEN"
        ) from error
    except (errors.HTTPError, ConnectionError) as error:  # type: ignore[attr-defined]  # httpx' or httpx2's
        raise HubUnavailableError(
            f"{told} lies on the Hub, which cannot be reached ({_line(error) or type(error).__name__}); "
            "run the same again, or give a folder"
        ) from error
    except OSError as error:
        raise HubError(f"{told} cannot be kept here ({_line(error)}); make room and run the same again") from error


def _line(error: object) -> str:
    return " ".join(str(error).split())
