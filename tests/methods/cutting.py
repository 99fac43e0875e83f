"""A proxy on the loopback interface that breaks connections off in the middle of an answer."""

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
    """Pass bytes to and fro, but for some pieces of answers: half of such a piece is sent, and then the line is dead.

    Args:
        url (`str`): the server behind it.
        cut (`Collection[int]`): numbers, from 0, of the pieces that are cut.
        reset (`bool`): whether the line dies by a reset instead of an orderly end.
    """

    daemon_threads = True

    def __init__(self, url: str, *, cut: Collection[int], reset: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Line)
        self.behind = urlsplit(url)
        self.cut = cut
        self.reset = reset
        self.pieces = itertools.count()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Line(socketserver.BaseRequestHandler):
    server: CuttingProxy
    request: socket.socket

    def handle(self) -> None:
        behind = self.server.behind
        with (
            socket.create_connection((behind.hostname or "", behind.port or 80)) as far,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(self.request, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, self.request)
            while True:
                for key, _ in ready.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(65536)
                    except ConnectionError:
                        return
                    if not data:
                        return
                    if source is far and next(self.server.pieces) in self.server.cut:
                        self._die(data[: len(data) // 2])
                        return
                    target.sendall(data)

    def _die(self, last_words: bytes) -> None:
        self.request.sendall(last_words)
        if self.server.reset:
            # Closing without lingering is a reset.
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()
