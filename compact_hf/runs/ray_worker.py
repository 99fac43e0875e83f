"""What runs on a Ray cluster's machines: one task for each shard, and one board over which they and the driver speak.

In: a shard and the settings of `generate`. Out: its journal, again and again while it grows, from that machine's disk.
Functions and classes here become tasks and actors in ray.py.
"""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compact_hf.errors import CompactError, IdentityError, StoppedEarly, TeacherError, UsageError
from compact_hf.runs.run import Standing
from compact_hf.runs.shards import Shard
from compact_hf.runs.snapshot import add_snapshot, snapshot

_SPEAK_EVERY_S: Final = 1.0
_SEND_EVERY_S: Final = 5.0
# A journal is not sent again before this many times what sending it took, however large it has grown.
_SENDING_SHARE: Final = 50


@dataclass(frozen=True, slots=True)
class News:
    """What shards have said up to the message of this number: where they stand, and their journals."""

    number: int
    standings: dict[Shard, Standing]
    journals: dict[Shard, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a shard's task ended: where it ran, and the error as its class and its line, or None."""

    node: str
    error: tuple[type[CompactError], str] | None


class Board:
    """Keeps the newest that each shard has said: for the driver, and for a task that starts anew.

    Whatever is asked of it may be asked twice, as Ray does after a connection broke off.

    Args:
        journals (`Mapping[Shard, bytes]`): what was collected before.
    """

    def __init__(self, journals: Mapping[Shard, bytes]) -> None:
        self._number = 0
        self._journals = {shard: (0, journal) for shard, journal in journals.items()}
        self._standings: dict[Shard, tuple[int, Standing]] = {}
        self._stopping = False

    def begin(self, shard: Shard) -> tuple[bytes | None, bool]:
        """Return the shard's newest journal, and whether it had better not begin."""
        _, journal = self._journals.get(shard, (0, None))
        return journal, self._stopping

    def say(self, shard: Shard, standing: Standing | None, journal: bytes | None) -> bool:
        """Take note of where a shard stands; return whether it shall stop."""
        self._number += 1
        if standing is not None:
            self._standings[shard] = self._number, standing
        if journal is not None:
            self._journals[shard] = self._number, journal
        return self._stopping

    def since(self, number: int) -> News:
        """Return what was said after the message of that number."""
        return News(
            self._number,
            {shard: standing for shard, (said, standing) in self._standings.items() if said > number},
            {shard: journal for shard, (said, journal) in self._journals.items() if said > number},
        )

    def stop(self) -> None:
        """Let every shard finish what it has in flight, and begin no more."""
        self._stopping = True


def run_shard(
    board: Any,
    run: str,
    shard: Shard,
    home: str,
    generate: Callable[..., Standing],
    source: str,
    settings: dict[str, Any],
) -> Ended:
    """Be the task: work on a shard in this machine's temporary folder, from the newest journal there is of it.

    Args:
        board (`Board`, as an actor): whom to tell.
        run (`str`): the run's name.
        shard (`Shard`): which part to work on.
        home (`str`): where the driver collects it, for errors about it.
        generate: the method's function, and source, settings: what it takes.
    """
    import ray

    node, folder = ray.get_runtime_context().get_node_id(), local_folder(run) / shard.folder
    collected, stopping = ray.get(board.begin.remote(shard))
    if stopping:
        return Ended(node, (StoppedEarly, f"shard {shard} was not begun; the same command begins it"))
    speaker = _Speaker(board, shard, folder)
    try:
        if collected is not None:
            add_snapshot(collected, folder)
        with _deaf_to_ctrl_c(), speaker:
            generate(source, folder, shard=str(shard), on_progress=speaker.show, **settings)
    except CompactError as error:
        return Ended(node, (_kind(error), f"shard {shard} on {socket.gethostname()}: {_told(error, folder, home)}"))
    return Ended(node, None)


def _kind(error: CompactError) -> type[CompactError]:
    """Return the nearest class that is made of its line alone, and so can be raised again by the driver."""
    return next(
        kind for kind in type(error).__mro__ if issubclass(kind, CompactError) and kind.__init__ is Exception.__init__
    )


def _told(error: CompactError, folder: Path, home: str) -> str:
    if isinstance(error, IdentityError):
        return str(error).replace(str(folder), home)
    if isinstance(error, UsageError | TeacherError):
        # Most often a key that is missing or wrong, and not in the terminal that one looks at.
        return f"{error}; here the environment is the one that Ray was started in"
    return str(error)


def forget(run: str) -> None:
    """Remove what a run left on this machine; it was collected."""
    shutil.rmtree(local_folder(run), ignore_errors=True)


def local_folder(run: str) -> Path:
    """Return where a run's shards work on this machine: the same place when a task comes back to it."""
    return Path(tempfile.gettempdir()) / f"compact-{run}"


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let nothing but what runs inside hear SIGINT, which Ray blocks in its workers: it is how the driver stops them.

    `generate` takes the signal over and gives it back to this; a stop that comes too late is not heard by Ray either.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)


class _Speaker:
    """Tells the board of a shard from a thread of its own, and passes on to the main thread that it shall stop."""

    def __init__(self, board: Any, shard: Shard, folder: Path) -> None:
        self._board = board
        self._shard = shard
        self._folder = folder
        self._standing: Standing | None = None
        self._pressed = False
        self._send_at = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="speaker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._say(last=True)

    def show(self, standing: Standing) -> None:
        self._standing = standing

    def _speak(self) -> None:
        while not self._ended.wait(_SPEAK_EVERY_S):
            # Before it stands anywhere, nobody hears Ctrl-C.
            if self._say() and self._standing is not None and not self._pressed:
                self._pressed = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _say(self, *, last: bool = False) -> bool:
        import ray

        began, journal = time.monotonic(), None
        if self._standing is not None and (last or began >= self._send_at):
            journal = snapshot(self._folder)
        stopping: bool = ray.get(self._board.say.remote(self._shard, self._standing, journal))
        if journal is not None:
            ended = time.monotonic()
            self._send_at = ended + max(_SEND_EVERY_S, _SENDING_SHARE * (ended - began))
        return stopping
