"""What goes wrong with the Hub, in words: in go the exceptions of its client, out come ours, each one clear line."""

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
    """Return the name as it is if it has a namespace; its characters are the client's to check.

    Raises:
        UsageError: it has none.
    """
    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id!r} is not a repository's name; give namespace/name, such as org/compact")
    return repo_id


@contextmanager
def translate_write_errors(repo_id: str, directory: Path | None = None) -> Iterator[None]:
    """Turn what the client raises while something is written into one clear line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise HubError("there is no token for the Hub; set HF_TOKEN, or run `hf auth login`") from None
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not a repository's name: {_one_line(error)}") from error
    except errors.OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set, and publishing needs the Hub; unset it") from None
    except errors.HfHubHTTPError as error:
        raise _error_from_response(repo_id, error) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx' or httpx2's: whichever the client uses
        raise HubUnavailableError(f"the Hub cannot be reached ({_one_line(error) or type(error).__name__})") from error
    except RuntimeError as error:  # the client's wrapper around the upload of one file
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _error_from_response(repo_id, error.__cause__) from error
        raise HubUnavailableError(f"an upload to the Hub broke off ({_one_line(error.__cause__ or error)})") from error
    except ConnectionError as error:
        raise HubUnavailableError(f"the Hub cannot be reached ({_one_line(error)})") from error
    except json.JSONDecodeError as error:
        raise HubUnavailableError("the Hub answers with something other than JSON, as it does when it fails") from error
    except ValueError as error:
        raise HubError(f"the Hub does not take it for {repo_id}: {_one_line(error)}") from error
    except OSError as error:
        raise HubError(
            f"{error.filename or directory or repo_id} cannot be read ({error.strerror}); mend it and run it again"
        ) from error


@contextmanager
def translate_read_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the client raises while something is read into one clear line; `repo_id` may have its `@revision`."""
    from huggingface_hub import constants, errors

    repo = f"{repo_id}@{revision}" if revision else repo_id
    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not a repository's name: {_one_line(error)}") from error
    except errors.OfflineModeIsEnabled:
        raise HubError(f"{repo} lies on the Hub, and HF_HUB_OFFLINE is set; unset it, or give a folder") from None
    except errors.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repo.partition('@')[0]}"
        raise HubError(
            f"{repo} is gated; accept its terms at {page}, and set HF_TOKEN to a token of that account"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise HubUnavailableError(f"the Hub is busy or failing ({status}); run the same again") from error
        raise HubError(
            f"there is no {repo} for this token on the Hub, nor a folder of this name here ({status}); "
            "check the name, the revision and HF_TOKEN"
        ) from error
    except (errors.HTTPError, ConnectionError) as error:  # type: ignore[attr-defined]  # httpx' or httpx2's
        raise HubUnavailableError(
            f"{repo} lies on the Hub, which cannot be reached ({_one_line(error) or type(error).__name__}); "
            "run the same again, or give a folder"
        ) from error
    except json.JSONDecodeError as error:
        raise HubUnavailableError("the Hub answers with something other than JSON, as it does when it fails") from error
    except OSError as error:
        raise HubError(f"{repo} cannot be kept here ({_one_line(error)}); make room and run the same again") from error


def _error_from_response(repo_id: str, error: HfHubHTTPError) -> HubError:
    """Return the error for an answer that is not a success."""
    status, message = error.response.status_code, _one_line(error.server_message or error)
    match status:
        case 401:
            return HubError(
                f"the Hub does not take the token (401: {message}); make one at huggingface.co/settings/tokens"
            )
        case 402 | 403:
            return HubError(f"the token may not write to {repo_id} ({status}: {message}); take one with write access")
        case 404:
            return HubError(f"{repo_id} is not there, or not for this token (404: {message})")
        case 409 | 412:
            return HubError(f"{repo_id} was changed by someone else ({status}: {message}); run the same again")
        case _ if status == 429 or status >= 500:
            retry_after = error.response.headers.get("Retry-After", "")
            return HubUnavailableError(
                f"the Hub is busy or failing ({status}: {message})",
                retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0,
            )
        case _:
            return HubError(f"the Hub refuses it for {repo_id} ({status}: {message})")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
