"""Shared by the teachers behind a network: connections, addresses, keys, and server messages made fit to be shown.

Each request in flight has a connection of its own, from a free list. httpx's own pool looks at every connection that it
has for every request; at 256 in flight that costs more than all the rest of a request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from compact_hf.errors import TeacherError, UsageError

if TYPE_CHECKING:
    import ssl


@cache
def get_ssl_context() -> ssl.SSLContext:
    """Return what every connection of this process is verified with: reading the certificates takes some 30 ms."""
    return httpx.create_ssl_context()


class ConnectionPool:
    """As many connections as there are requests at a time, each used again by the next one."""

    def __init__(self) -> None:
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._all: list[httpx.AsyncHTTPTransport] = []

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the whole response.

        Raises:
            httpx.HTTPError: it could not be sent, or the answer broke off.
            TeacherError: the environment names a proxy that cannot be used.
        """
        connection = self._free.pop() if self._free else self._connect(request.url)
        try:
            response = await connection.handle_async_request(request)
            try:
                content = b"".join([part async for part in response.aiter_raw()])
            finally:
                await response.aclose()
        finally:
            self._free.append(connection)
        return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)

    async def close(self) -> None:
        """Close all of them."""
        for connection in self._all:
            await connection.aclose()

    def _connect(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        try:
            connection = httpx.AsyncHTTPTransport(verify=get_ssl_context(), limits=limits, proxy=_proxy_for(url))
        except (ValueError, ImportError, httpx.InvalidURL):
            # Its address is not shown: a password may stand in it.
            raise TeacherError(
                f"the proxy that the environment names for {url.scheme}:// cannot be used; give http://HOST:PORT, "
                "or for socks5:// pip install 'httpx[socks]'"
            ) from None
        self._all.append(connection)
        return connection


def _proxy_for(url: httpx.URL) -> str | None:
    """Return the proxy for an address, as httpx's own client finds it: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY."""
    if proxy_bypass(url.host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


_MAX_LINE_CHARS: Final = 300
_MAX_TOKENS: Final = 10**9


def read_api_key(variables: Iterable[str]) -> str:
    """Return the key that the first of these environment variables holds, or nothing where none does.

    Raises:
        UsageError: it was copied with characters that cannot be sent.
    """
    key = next((value for name in variables if (value := os.environ.get(name, "").strip())), "")
    if not (key.isascii() and key.isprintable()):
        raise UsageError("the key in the environment holds characters that no key has; copy it again")
    return key


def parse_server_url(url: str) -> str:
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
    return " ".join("".join(char if char.isprintable() else " " for char in text[:_MAX_LINE_CHARS]).split())


def parse_retry_after(header: str) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; None where it is missing or gives a date."""
    return float(header) if re.fullmatch(r"\d{1,9}(?:\.\d+)?", header) else None


def clamp_tokens(count: int | None) -> int:
    """Return what a service says that it billed, 0 where it does not say: a number that sums can be made of."""
    return min(max(count or 0, 0), _MAX_TOKENS)
