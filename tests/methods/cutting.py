"""A proxy on the loopback interface that breaks connections in the middle of a response."""

from __future__ import annotations

import itertools
import selectors
import socket
import socketserver
import struct
import threading
from collections.abc import Collection
from typing import Self
from urllib.parse import urlsplit


class CuttingProxy(socketserver.ThreadingTCPServer):
    """Forwards bytes in both directions, but breaks the connection after half of certain chunks of responses.

    Args:
        url (`str`): the server behind the proxy.
        cut_chunks (`Collection[int]`): numbers, from 0, of the chunks that are cut.
        reset (`bool`): whether the connection ends with a reset instead of an orderly close.
    """

    daemon_threads = True

    def __init__(self, url: str, *, cut_chunks: Collection[int], reset: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.upstream = urlsplit(url)
        self.cut_chunks = cut_chunks
        self.reset = reset
        self.chunk_numbers = itertools.count()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Connection(socketserver.BaseRequestHandler):
    """One client's connection, forwarded to the server."""

    server: CuttingProxy
    request: socket.socket

    def handle(self) -> None:
        upstream = self.server.upstream
        with (
            socket.create_connection((upstream.hostname or "", upstream.port or 80)) as upstream_socket,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(self.request, selectors.EVENT_READ, upstream_socket)
            selector.register(upstream_socket, selectors.EVENT_READ, self.request)
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(65536)
                    except ConnectionError:
                        return
                    if not data:
                        return
                    if source is upstream_socket and next(self.server.chunk_numbers) in self.server.cut_chunks:
                        self._cut_connection(data[: len(data) // 2])
                        return
                    target.sendall(data)

    def _cut_connection(self, partial_data: bytes) -> None:
        self.request.sendall(partial_data)
        if self.server.reset:
            # Closing with SO_LINGER and a timeout of 0 sends a reset.
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()
