"""Provides what all teachers behind a network share: connections, addresses, API keys, and cleaning of messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx

from compact_hf.errors import TeacherError, UsageError

if TYPE_CHECKING:
    import ssl


@cache
def get_ssl_context() -> ssl.SSLContext:
    """Return the TLS settings for all connections of this process; reading the certificates takes about 30 ms."""
    return httpx.create_ssl_context()  # the same certificates as huggingface_hub, including SSL_CERT_FILE


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete HTTP response.

    Attributes:
        status (`int`): status code, such as 200.
        reason (`str`): text of the status, such as `OK`.
        headers (`Mapping[str, str]`): headers; their names are case-insensitive.
        body (`bytes`): the complete body.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class NoResponseError(Exception):
    """Raised when a server gave no complete response; the message names the server and the reason, in one line.

    Attributes:
        is_billed (`bool`): whether the service probably bills the request: it was sent, and then took too long or got
            too large a response. After a lost connection the service probably stops.
    """

    def __init__(self, message: str, *, is_billed: bool = False) -> None:
        super().__init__(message)
        self.is_billed = is_billed


_CONNECT_TIMEOUT_S: Final = 30.0
# Bytes. Larger bodies are sent in chunks, so that other requests are served in between.
_MAX_UNDIVIDED_BYTES: Final = 2**20
MAX_RESPONSE_BYTES: Final = 8 * 2**20
"""Maximum size of a response, before and after decompression. The longest replies, with thinking, have about 1 MiB."""


class Connections:
    """Pool of connections to one server, one for each concurrent request; connections are reused.

    Args:
        url (`str`): URL of all requests.
        headers (`Mapping[str, str]`): headers of all requests.
        timeout_s (`float`): timeout of a request in seconds, from connecting to the last byte of the response.
        server (`str`): name of the server in messages.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float, *, server: str) -> None:
        self._url = url
        self._headers = headers
        self._timeout_s = timeout_s
        self._connect_timeout_s = min(timeout_s, _CONNECT_TIMEOUT_S)
        self._server = server
        self._ssl_context = get_ssl_context()
        self._proxy: str | None = None
        self._socks_errors: tuple[type[Exception], ...] = ()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> HttpResponse:
        """Send a POST request and return the complete response, whatever its status, except for a redirect.

        Args:
            body (`bytes`): body of the request.

        Raises:
            NoResponseError: the server cannot be reached, took longer than `timeout_s`, or did not send a complete
                response of at most `MAX_RESPONSE_BYTES`.
            TeacherError: the server redirects the request, or the environment names a proxy that cannot be used.
        """
        self._session = self._session or self._open_session()
        data = body if len(body) <= _MAX_UNDIVIDED_BYTES else BytesIO(body)
        is_billed = False
        try:
            async with self._session.post(self._url, data=data, proxy=self._proxy, allow_redirects=False) as response:
                refuse_redirect(self._server, self._url, response.status, response.headers)
                content = await self._read_body(response)
                return HttpResponse(response.status, response.reason or "", response.headers, content)
        except aiohttp.ConnectionTimeoutError:
            message = f"{self._server} cannot be reached (no connection within {self._connect_timeout_s:g} s)"
        except TimeoutError:
            message, is_billed = f"{self._server} gave no answer within {self._timeout_s:g} s", True
        except aiohttp.ClientConnectorError as error:
            # The error type alone does not distinguish a wrong host name from a wrong certificate.
            message = f"{self._server} cannot be reached ({one_line(error.os_error.strerror or str(error.os_error))})"
        except self._socks_errors as error:
            message = f"{self._server} cannot be reached ({one_line(str(error))})"
        except aiohttp.ClientError as error:
            message = f"the connection to {self._server} was lost ({type(error).__name__})"
        # Raised outside of `except`, because the traceback of the original error may quote headers.
        raise NoResponseError(message, is_billed=is_billed)

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the body of a response, decompressed; aiohttp decompresses only a little more than what is read."""
        body = bytearray()
        # `read` would decompress the complete body at once, and the timeout could not interrupt it.
        async for chunk in response.content.iter_any():
            body += chunk
            if max(len(body), response.content.total_raw_bytes) > MAX_RESPONSE_BYTES:
                response.close()
                message = f"the reply of {self._server} is larger than {MAX_RESPONSE_BYTES:,} bytes"
                raise NoResponseError(message, is_billed=True)
        return bytes(body)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        """Open the client session, through the proxy that the environment names, if any."""
        proxy = _proxy_for(self._url)
        connector: aiohttp.BaseConnector
        # No limit on connections: the dispatcher limits the number of concurrent requests.
        if proxy is not None and proxy.startswith("socks"):
            connector, self._socks_errors = _connect_through_socks(proxy, self._ssl_context)
        else:
            connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl_context)
            self._proxy = proxy
        return aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def _connect_through_socks(
    proxy: str, ssl_context: ssl.SSLContext
) -> tuple[aiohttp.BaseConnector, tuple[type[Exception], ...]]:
    """Return a connector for a SOCKS proxy and the error types that it raises."""
    try:
        from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError

        # `rdns`: the proxy resolves host names, as socks5h and socks4a request.
        address = re.sub(r"^(socks[45])[ah]:", r"\1:", proxy)
        connector = ProxyConnector.from_url(address, rdns=True, limit=0, ssl=ssl_context)
    except (ImportError, ValueError):
        raise _unusable_proxy(proxy) from None
    return connector, (ProxyConnectionError, ProxyError)


def _unusable_proxy(proxy: str) -> TeacherError:
    # The address is not shown, because it may contain a password.
    return TeacherError(
        f"the proxy in the environment ({proxy.partition('://')[0]}://...) cannot be used: use http://HOST:PORT, or "
        "for socks5:// run `pip install aiohttp-socks`"
    )


def _proxy_for(url: str) -> str | None:
    """Return the proxy for a URL according to HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, or None.

    Raises:
        TeacherError: the proxy has an unsupported scheme.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not re.match(r"(https?|socks(5h?|4a?))://\S", proxy):
        raise _unusable_proxy(proxy)
    return proxy


_MAX_LINE_CHARS: Final = 500  # the names of quotas come late in the messages of Gemini
_MAX_TOKENS: Final = 10**9  # larger counts are errors of the server, and sums of them could overflow


def read_api_key(variables: Iterable[str]) -> str:
    """Return the API key from the first of these environment variables that is set, or an empty text.

    Args:
        variables (`Iterable[str]`): names of environment variables.

    Raises:
        UsageError: the key contains characters that cannot be sent in a header.
    """
    key = next((value for name in variables if (value := os.environ.get(name, "").strip())), "")
    if not (key.isascii() and key.isprintable()):
        raise UsageError("the API key in the environment contains invalid characters: copy it again")
    return key


def parse_server_url(url: str) -> str:
    """Return the scheme, host and port of a URL, without path, query, or user name and password.

    Args:
        url (`str`): URL of a server.

    Raises:
        UsageError: the text is not the URL of a server.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+|[\da-f:]+", parts.hostname or "", re.ASCII):
            port = "" if parts.port is None else f":{parts.port}"
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            return f"{parts.scheme}://{host}{port}"
    except ValueError:
        pass
    raise UsageError(f"got the teacher URL {url!r}: it must start with http:// or https:// and name a server")


def refuse_redirect(server: str, url: str, status: int, headers: Mapping[str, str]) -> None:
    """Refuse a response that redirects the request: prompt and image would go to another address than the user gave.

    Args:
        server (`str`): name of the server in the message.
        url (`str`): URL of the request.
        status (`int`): status code of the response.
        headers (`Mapping[str, str]`): headers of the response; their names are case-insensitive.

    Raises:
        TeacherError: the response is a redirect; the message names its target.
    """
    if not 300 <= status < 400 or "location" not in headers:
        return
    try:
        target = urlsplit(urljoin(url, headers["location"]))
        # Without user name, password and query, which may contain a key.
        shown = one_line(f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}")
    except ValueError:
        shown = "an invalid URL"
    raise TeacherError(
        f"{server} redirects requests to {shown} ({status}), and no image is sent to another address than the given "
        "one: log in if this is the page of a network, or give the URL of the server itself"
    )


def one_line(text: str) -> str:
    """Return a text from the network as one line of printable characters, at most 500 of them.

    Args:
        text (`str`): the text.
    """
    return " ".join("".join(char if char.isprintable() else " " for char in text[:_MAX_LINE_CHARS]).split())


def parse_retry_after(header: str) -> float | None:
    """Return the delay in seconds of a `Retry-After` header; None if it is empty or a date.

    Args:
        header (`str`): value of the header.
    """
    return float(header) if re.fullmatch(r"\d{1,9}(?:\.\d+)?", header) else None


def clamp_tokens(count: int | None) -> int:
    """Return a number of billed tokens as a valid count: missing and negative ones become 0, huge ones are capped.

    Args:
        count (`int | None`): the number that the service reported.
    """
    return min(max(count or 0, 0), _MAX_TOKENS)
