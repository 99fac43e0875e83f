"""What the teachers behind a network share: addresses, keys, and what servers say, made fit to be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from compact_hf.errors import UsageError

_LONGEST_LINE: Final = 300
_MOST_TOKENS: Final = 10**9


def key_in(variables: Iterable[str]) -> str:
    """Return the key that the first of these environment variables holds, or nothing where none does.

    Raises:
        UsageError: it was copied with characters that cannot be sent.
    """
    key = next((found for name in variables if (found := os.environ.get(name, "").strip())), "")
    if not (key.isascii() and key.isprintable()):
        raise UsageError("the key in the environment holds characters that no key has; copy it again")
    return key


def server_of(url: str) -> str:
    """Return the scheme, host and port of an address, without what else may stand in it.

    Raises:
        UsageError: it is not the address of a server.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+|[\da-f:]+", parts.hostname or "", re.ASCII):
            port = "" if parts.port is None else f":{parts.port}"
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            return f"{parts.scheme}://{host}{port}"
    except ValueError:
        pass
    raise UsageError(f"got the teacher URL {url!r}; it must start with http:// or https:// and name a server")


def one_line(text: str) -> str:
    """Return a text from the network as one line of what can be printed and written as UTF-8."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text[:_LONGEST_LINE]).split())


def seconds(header: str) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; None where it is missing or gives a date."""
    return float(header) if re.fullmatch(r"\d{1,9}(?:\.\d+)?", header) else None


def tokens(count: int | None) -> int:
    """Return what a service says that it billed, 0 where it does not say: a number that sums can be made of."""
    return min(max(count or 0, 0), _MOST_TOKENS)
