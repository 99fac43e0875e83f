"""Connections for many requests at the same time: each in flight has one of its own, from a free list.

httpx's own pool looks at every connection that it has for every request; at 256 in flight that costs more than all the
rest of a request.
"""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

import httpx

from compact_hf.errors import TeacherError


class Connections:
    """As many connections as there are requests at a time, each used again by the next one."""

    def __init__(self) -> None:
        self._tls = httpx.create_ssl_context()
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
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        try:
            connection = httpx.AsyncHTTPTransport(verify=self._tls, limits=one, proxy=_proxy_for(url))
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
    found = proxies.get(url.scheme) or proxies.get("all")
    return found if not found or "://" in found else f"http://{found}"
