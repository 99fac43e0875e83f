"""Translates errors of Xet, the storage to which the Hub's client uploads large files if `hf_xet` is installed.

Many other servers that speak the Hub's protocol have no Xet, but the client asks each of them for a token of the
storage. HF_HUB_DISABLE_XET=1 makes it upload and download without Xet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from compact_hf.errors import HubError, HubUnavailableError

WITHOUT_XET: Final = "set HF_HUB_DISABLE_XET=1 to do without it"
"""What to do if the Hub has no Xet, for the end of a message."""
_TOKEN_ROUTE: Final = re.compile(r"/xet-(?:read|write)-token/")
# hf_xet has no exceptions of its own for most errors, but all its messages begin with the kind of the error.
_KIND: Final = re.compile(
    r"(?:Previous task error: |Task error: )*(?P<kind>Authentication error|Network error|Rate limited|Server error"
    r"|Timeout|Not found|Data integrity error|Configuration error|I/O error|Internal error|Operation cancelled): "
)
_STATUS: Final = re.compile(r"HTTP status \w+ error \((?P<status>\d{3})[^)]*\), domain: (?P<url>\S+)")
_NO_HEADERS: Final = "Xet headers have not been correctly set by the server."
_RETRIED_KINDS: Final = ("Network error", "Rate limited", "Server error", "Timeout")


@contextmanager
def translate_xet_errors(repo_id: str) -> Iterator[None]:
    """Translate exceptions that concern Xet inside the block, and let all others pass.

    Args:
        repo_id (`str`): name of the repository, for the message.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if is_xet_error(error):
            raise _error_from_client(repo_id, error) from error
        raise


def is_xet_error(error: Exception) -> bool:
    """Return whether an exception of the Hub's client concerns Xet.

    Args:
        error (`Exception`): the exception.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):  # a download: here the client asks for the token, and not hf_xet
        return bool(_TOKEN_ROUTE.search(error.response.request.url.path))
    return str(error) == _NO_HEADERS or bool(_KIND.match(str(error)))


def _error_from_client(repo_id: str, error: Exception) -> HubError:
    """Return the error for an exception that concerns Xet."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return _error_from_status(repo_id, error.response.status_code, str(error.response.request.url))
    message = " ".join(str(error).split())
    if message == _NO_HEADERS:
        return HubError(f"the Hub gives no token for the Xet storage of {repo_id}: {WITHOUT_XET}")
    if status := _STATUS.search(message):
        return _error_from_status(repo_id, int(status["status"]), status["url"])
    match = _KIND.match(message)
    if match and match["kind"] in _RETRIED_KINDS:
        return _unavailable(repo_id, message)
    return HubError(f"the Xet storage of {repo_id} failed ({message}): {WITHOUT_XET}")


def _error_from_status(repo_id: str, status: int, url: str) -> HubError:
    """Return the error for a response to hf_xet, which passes on neither headers nor body."""
    if status in (408, 429) or (status >= 500 and status not in (501, 505)):
        return _unavailable(repo_id, f"{status} of {url}")
    if status == 401:
        return HubError(f"the Xet storage of {repo_id} rejected the token (401 of {url}): check it, or {WITHOUT_XET}")
    if status == 403:
        return HubError(
            f"the token may not use the Xet storage of {repo_id} (403 of {url}): use one with access to the "
            f"repository, or {WITHOUT_XET}"
        )
    return HubError(f"the Hub has no Xet storage for {repo_id} ({status} of {url}): {WITHOUT_XET}")


def _unavailable(repo_id: str, reason: str) -> HubUnavailableError:
    """Return the error for a storage that cannot be reached. hf_xet repeats requests for up to six minutes."""
    return HubUnavailableError(
        f"the Xet storage of {repo_id} cannot be reached ({reason}): try again later, or {WITHOUT_XET}",
        was_retried=True,
    )
