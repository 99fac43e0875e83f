"""Makes files that are not regular files, and ends a test that waits for one of them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

WAIT_S: Final = 60.0  # imports of large libraries may take a part of it


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)  # a short name, because the length of an address is limited


# A device that ends at once: with /dev/zero, a test of broken code would fill the memory.
IRREGULAR: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "pipe": (os.mkfifo, "named pipe, not a regular file"),
    "link to a device": (lambda path: path.symlink_to("/dev/null"), "device, not a regular file"),
    "socket": (make_socket, "socket, not a regular file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}
"""Kind -> the function that makes it, and a part of the message about it."""


@contextlib.contextmanager
def released_pipes(directory: Path) -> Iterator[None]:
    """Fail, instead of waiting forever, if the block waits for a writer of a pipe below the directory."""
    is_finished, was_waited_for = threading.Event(), threading.Event()

    def release_repeatedly() -> None:
        while not is_finished.wait(WAIT_S):
            was_waited_for.set()
            for path in directory.rglob("*"):
                if path.is_fifo():
                    with contextlib.suppress(OSError):  # no one waits for this one
                        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    watchdog = threading.Thread(target=release_repeatedly)
    watchdog.start()
    try:
        yield
    finally:
        is_finished.set()
        watchdog.join()
    assert not was_waited_for.is_set(), "a pipe was opened, and its writer was waited for"
