"""Runs a local HTTP server in a thread, for the protocol servers in this directory.

It listens on a free port of the loopback interface and stops at the end of its `with` block.
"""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette

_START_TIMEOUT_S = 10.0


class LocalServer:
    """Serves an ASGI app on 127.0.0.1 while its `with` block runs.

    Args:
        app (`Starlette`): the app to serve.

    Attributes:
        url (`str`): URL of the server, `http://127.0.0.1:PORT`.
    """

    def __init__(self, app: Starlette) -> None:
        # Bound here, so that the URL is known before the thread starts. Port 0: the OS chooses a free port.
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        # uvicorn would close idle connections after 5 seconds; a client that reuses one at that moment would get an
        # error.
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", ws="none", backlog=2048, timeout_keep_alive=75
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="local server", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        # uvicorn has no event for this, so its flag is polled. If the thread has ended, the start has failed.
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError(f"the local server at {self.url} did not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_START_TIMEOUT_S)
        self._socket.close()
