"""A repository at one revision as a folder on this machine: in goes its name, out comes where its files lie.

They lie in the cache of the Hub's client, where `load_dataset` and `from_pretrained` look too: what is there is not
fetched again, and a download that broke off goes on. It knows no data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.errors import HubError, HubUnavailableError, UsageError
from compact_hf.hub.words import valid_name

if TYPE_CHECKING:
    from compact_hf.hub.push import RepoType


def snapshot(repo_id: str, *, repo_type: RepoType, revision: str | None = None) -> Path:
    """Return a folder with all files of a repository, links into the cache.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `dataset`, `model` or `space`.
        revision (`str`, *optional*, defaults to `main`): a branch, a tag, a commit, or `refs/pr/N`; taken at the commit
            that it stands for now.

    Raises:
        UsageError: `repo_id` is not `namespace/name`.
        HubUnavailableError: the Hub cannot be reached or keeps failing; the same call goes on.
        HubError: there is no such repository or revision for this token, or its files cannot be kept here.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    told = f"{valid_name(repo_id)}{f'@{revision}' if revision else ''}"
    try:
        # Asked for first: without the Hub the cache would answer for a branch with the commit that it saw last.
        commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        return Path(snapshot_download(repo_id, repo_type=repo_type, revision=commit))
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not a repository's name: {_line(error)}") from error
    except errors.OfflineModeIsEnabled:
        raise HubError(f"{told} lies on the Hub, and HF_HUB_OFFLINE is set; unset it, or give a folder") from None
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
