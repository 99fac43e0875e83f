"""Translates the exceptions of the Hub's client into errors of this package, with messages of one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.errors import HubError, HubUnavailableError, UsageError, did_you_mean
from compact_hf.hub.ref import page_url
from compact_hf.hub.xet import translate_xet_errors

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_REPO_WRITE: Final = "repo.write"
_DISCUSSION_WRITE: Final = "discussion.write"
_STEPS: Final = (
    (r"/repos/create$", "create", _REPO_WRITE),
    (r"/discussions/\d+/merge$", "merge pull requests in", f"{_REPO_WRITE} and {_DISCUSSION_WRITE}"),
    (r"/discussions\b", "open pull requests in", _DISCUSSION_WRITE),
    (r"/branch/", "create branches in", _REPO_WRITE),
    (r"/tag/", "set tags in", _REPO_WRITE),
    (r"/(preupload|commit)/|/info/lfs/", "upload to", _REPO_WRITE),
    (r"", "write to", _REPO_WRITE),
)
"""A pattern of a request's path, what the request does, and the permission of a fine-grained token that it needs."""


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


_WRONG_NAMES: Final = (
    (r"BuilderConfig '(?P<name>.*)' not found\. Available: \[(?P<available>.*)\]", "config"),
    (r"Config name is missing(?P<name>).*available configs: \[(?P<available>[^\]]*)\]", "config"),
    (r"Unknown split \"(?P<name>.*)\"\. Should be one of \[(?P<available>.*)\]", "split"),
)
"""Patterns of messages of `datasets` about a config or a split that does not exist, and which of the two it is."""


def describe_wrong_name(error: BaseException, *, config_option: str, split_option: str) -> str | None:
    """Return what is wrong with the name of a config or split, and the option that chooses another one.

    Args:
        error (`BaseException`): an error of `datasets`.
        config_option (`str`): the option for the config, such as `--config`.
        split_option (`str`): the option for the split.

    Returns:
        `str`, *optional*: the end of a message that begins with the name of the dataset, such as "has no config 'k9'
            (it has all, k1): choose one with --config"; None if the error has another cause.
    """
    message = " ".join(str(error).split())
    for pattern, kind in _WRONG_NAMES:
        if match := re.search(pattern, message):
            available = match["available"].replace("'", "")
            option = config_option if kind == "config" else split_option
            name = f"no {kind} {match['name']!r} (it has {available})" if match["name"] else f"the configs {available}"
            return f"has {name}: choose one with {option}{did_you_mean(match['name'], available.split(', '))}"
    return None


@contextmanager
def translate_write_errors(repo_id: str, directory: Path | None = None) -> Iterator[None]:
    """Translate exceptions that the client raises inside the block while it writes to the Hub.

    Args:
        repo_id (`str`): name of the repository, for the message.
        directory (`Path`, *optional*): directory that is uploaded, for the message.
    """
    from huggingface_hub import errors

    try:
        with translate_xet_errors(repo_id):
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
        raise HubUnavailableError("the Hub may be failing (its reply is not JSON)") from error
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
        with translate_xet_errors(repo):
            yield
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not the name of a repository: {_one_line(error)}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if not constants.is_offline_mode():  # the connection was lost
            raise HubUnavailableError(
                f"the Hub cannot be reached for {repo} ({_one_line(error)}): try again, or give a directory"
            ) from error
        raise HubError(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set: unset it once to download it, or give a directory"
        ) from None
    # Before HfHubHTTPError, from which it derives: it has a different fix.
    except errors.GatedRepoError as error:
        kind = "datasets" if "/datasets/" in str(error.response.url) else ""
        page = page_url(repo.partition("@")[0], kind=kind)
        raise HubError(
            f"{repo} is gated: accept its terms at {page}, and set HF_TOKEN to a token of the same account"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if unavailable := _unavailable_from_response(error):
            raise HubUnavailableError(
                f"{unavailable}: try again later", retry_after_s=unavailable.retry_after_s
            ) from error
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


def missing_pull_requests(repo_id: str, reason: str) -> HubError:
    """Return the error for a Hub or a repository without pull requests.

    Args:
        repo_id (`str`): name of the repository, for the message.
        reason (`str`): what the Hub answered.
    """
    return HubError(
        f"{repo_id} cannot have pull requests ({reason}): add --no-pr, which uploads to a branch and commits to main"
    )


def _error_from_response(repo_id: str, error: HfHubHTTPError) -> HubError:
    """Return the error for a response that reports a failure."""
    from huggingface_hub import constants

    if unavailable := _unavailable_from_response(error):
        return unavailable
    status, message = error.response.status_code, _one_line(error.server_message or error)
    url = error.response.request.url
    action, permission = next((step[1], step[2]) for step in _STEPS if re.search(step[0], url.path))
    if not str(url).startswith(constants.ENDPOINT):  # files are uploaded to URLs that are valid for a short time
        return HubError(
            f"the storage of {url.host} rejected a file of {repo_id} ({status}: {message}): run the command again"
        )
    is_missing = status == 404 and error.response.headers.get("X-Error-Code") != "RepoNotFound"
    if permission == _DISCUSSION_WRITE and (
        is_missing or status in (405, 410, 501) or re.search(r"\bdisabled\b", message, re.IGNORECASE)
    ):
        return missing_pull_requests(repo_id, f"{status}: {message}")
    match status:
        case 401:
            return HubError(f"the Hub rejected the token (401: {message}): create one at {page_url('settings/tokens')}")
        case 402:
            return HubError(f"the Hub asks for payment to {action} {repo_id} (402: {message}): check the plan")
        case 403:
            alternative = ", or add --no-pr" if permission == _DISCUSSION_WRITE else ""
            return HubError(
                f"the token may not {action} {repo_id} (403: {message}): use one with write access, or with the "
                f"permission {permission}{alternative}"
            )
        case 404:
            return HubError(f"{repo_id} was not found, or the token has no access to it (404: {message})")
        case 405 | 501:
            return HubError(f"this Hub cannot {action} {repo_id} ({status}: {message})")
        # A conflict, or `parent_commit` is not the newest commit any more.
        case 409 | 412:
            return HubError(f"{repo_id} was changed in the meantime ({status}: {message}): run the command again")
        case _:
            return HubError(f"the Hub rejected the request for {repo_id} ({status}: {message})")


def _unavailable_from_response(error: HfHubHTTPError) -> HubUnavailableError | None:
    """Return the error for a response after which a retry makes sense, None for any other response."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    headers, status = error.response.headers, error.response.status_code
    if status not in (408, 429) and (status < 500 or status in (501, 505)):
        return None
    # The Hub sends the header with every response, also with those that have another reason.
    limit = parse_ratelimit_headers(headers) if status == 429 else None
    if limit is not None and limit.remaining == 0:
        requests = "" if limit.limit is None else f"; {limit.limit} requests in {limit.window_seconds} s are allowed"
        return HubUnavailableError(
            f"the rate limit of the Hub is reached (429{requests}): it allows more in {limit.reset_in_seconds} s",
            retry_after_s=limit.reset_in_seconds + 1.0,  # because the header has whole seconds
        )
    # Only whole seconds; the header may also have a date, which is treated as missing.
    retry_after = headers.get("Retry-After", "")
    return HubUnavailableError(
        f"the Hub is busy or failing ({status}: {_one_line(error.server_message or error)})",
        retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0,
    )


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
