"""Translates the exceptions of the Hub's client into errors of this package, with messages of one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compact_hf.errors import HubError, HubUnavailableError, UsageError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


def check_repo_id(repo_id: str) -> str:
    """Return the name unchanged if it has a namespace. The client checks its characters.

    Args:
        repo_id (`str`): name of a repository.

    Raises:
        UsageError: the name is not of the form `namespace/name`.
    """
    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id!r} is not the name of a repository: give namespace/name, such as org/compact")
    return repo_id


@contextmanager
def translate_write_errors(repo_id: str, directory: Path | None = None) -> Iterator[None]:
    """Translate exceptions that the client raises inside the block while it writes to the Hub.

    Args:
        repo_id (`str`): name of the repository, for the message.
        directory (`Path`, *optional*): directory that is uploaded, for the message.
    """
    from huggingface_hub import errors

    try:
        yield
    # The order matters: the client's errors derive from OSError, ValueError or ConnectionError, which come last.
    except errors.LocalTokenNotFoundError:
        raise HubError("no token for the Hub was found: set HF_TOKEN, or run `hf auth login`") from None
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not the name of a repository: {_one_line(error)}") from error
    except errors.OfflineModeIsEnabled:
        raise HubError("publishing needs the Hub (HF_HUB_OFFLINE is set): unset it") from None
    except errors.HfHubHTTPError as error:
        raise _error_from_response(repo_id, error) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of httpx or httpx2
        raise HubUnavailableError(f"the Hub cannot be reached ({_one_line(error) or type(error).__name__})") from error
    except RuntimeError as error:  # the client wraps an error during the upload of a file in it
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _error_from_response(repo_id, error.__cause__) from error
        raise HubUnavailableError(
            f"an upload to the Hub was interrupted ({_one_line(error.__cause__ or error)})"
        ) from error
    except ConnectionError as error:
        raise HubUnavailableError(f"the Hub cannot be reached ({_one_line(error)})") from error
    except json.JSONDecodeError as error:
        raise HubUnavailableError("the Hub may be failing (its reply is not JSON): try again later") from error
    except ValueError as error:
        raise HubError(f"the Hub rejected the upload to {repo_id}: {_one_line(error)}") from error
    # Not from the Hub: a file of the directory.
    except OSError as error:
        raise HubError(
            f"{error.filename or directory or repo_id} cannot be read ({error.strerror}): fix it and retry"
        ) from error


@contextmanager
def translate_read_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Translate exceptions that the client raises inside the block while it reads from the Hub.

    Args:
        repo_id (`str`): name of the repository for the message, with or without `@revision`.
        revision (`str`, *optional*): the revision, if `repo_id` does not contain it.
    """
    from huggingface_hub import constants, errors

    repo = f"{repo_id}@{revision}" if revision else repo_id
    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not the name of a repository: {_one_line(error)}") from error
    except errors.OfflineModeIsEnabled:
        raise HubError(
            f"{repo} cannot be read from the Hub (HF_HUB_OFFLINE is set): unset it, or give a directory"
        ) from None
    # Before HfHubHTTPError, from which it derives: it has a different fix.
    except errors.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repo.partition('@')[0]}"
        raise HubError(
            f"{repo} is gated: accept its terms at {page}, and set HF_TOKEN to a token of the same account"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise HubUnavailableError(f"the Hub is busy or failing ({status}): try again later") from error
        # The Hub does not reveal private repositories: a wrong name and a missing permission look alike.
        raise HubError(
            f"{repo} was not found on the Hub, and there is no such directory ({status}): "
            "check the name, the revision and HF_TOKEN"
        ) from error
    except (errors.HTTPError, ConnectionError) as error:  # type: ignore[attr-defined]  # of httpx or httpx2
        raise HubUnavailableError(
            f"the Hub cannot be reached for {repo} ({_one_line(error) or type(error).__name__}): "
            "try again, or give a directory"
        ) from error
    except json.JSONDecodeError as error:
        raise HubUnavailableError("the Hub may be failing (its reply is not JSON): try again later") from error
    except OSError as error:
        raise HubError(
            f"{repo} cannot be written to the cache ({_one_line(error)}): free some disk space and retry"
        ) from error


def _error_from_response(repo_id: str, error: HfHubHTTPError) -> HubError:
    """Return the error for a response that reports a failure."""
    status, message = error.response.status_code, _one_line(error.server_message or error)
    match status:
        case 401:
            return HubError(
                f"the Hub rejected the token (401: {message}): create one at huggingface.co/settings/tokens"
            )
        case 402 | 403:
            return HubError(f"the token may not write to {repo_id} ({status}: {message}): use one with write access")
        case 404:
            return HubError(f"{repo_id} was not found, or the token has no access to it (404: {message})")
        # A conflict, or `parent_commit` is not the newest commit any more.
        case 409 | 412:
            return HubError(f"{repo_id} was changed in the meantime ({status}: {message}): run the command again")
        case _ if status == 429 or status >= 500:
            # Only whole seconds; the header may also have a date, which is treated as missing.
            retry_after = error.response.headers.get("Retry-After", "")
            return HubUnavailableError(
                f"the Hub is busy or failing ({status}: {message})",
                retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0,
            )
        case _:
            return HubError(f"the Hub rejected the request for {repo_id} ({status}: {message})")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
