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

from compact_hf.errors import CompactError, SettingsMismatchError, StoppedEarly, TeacherError, UsageError
from compact_hf.runs.run import RunProgress
from compact_hf.runs.shards import Shard
from compact_hf.runs.snapshot import add_snapshot, take_snapshot

_REPORT_EVERY_S: Final = 1.0
_SEND_EVERY_S: Final = 5.0
# A journal is not sent again before this many times what sending it took, however large it has grown.
_MIN_IDLE_FACTOR: Final = 50


@dataclass(frozen=True, slots=True)
class ShardUpdates:
    """What shards have said up to the message of this number: where they stand, and their journals."""

    number: int
    progress: dict[Shard, RunProgress]
    journals: dict[Shard, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """How a shard's task ended: where it ran, and the error as its class and its line, or None."""

    node: str
    error: tuple[type[CompactError], str] | None


class Coordinator:
    """Keeps the newest that each shard has said: for the driver, and for a task that starts anew.

    Whatever is asked of it may be asked twice, as Ray does after a connection broke off.

    Args:
        journals (`Mapping[Shard, bytes]`): what was collected before.
    """

    def __init__(self, journals: Mapping[Shard, bytes]) -> None:
        self._number = 0
        self._journals = {shard: (0, journal) for shard, journal in journals.items()}
        self._progress: dict[Shard, tuple[int, RunProgress]] = {}
        self._is_stopping = False

    def get_shard_start(self, shard: Shard) -> tuple[bytes | None, bool]:
        """Return the shard's newest journal, and whether it had better not begin."""
        _, journal = self._journals.get(shard, (0, None))
        return journal, self._is_stopping

    def report(self, shard: Shard, progress: RunProgress | None, journal: bytes | None) -> bool:
        """Take note of where a shard stands; return whether it shall stop."""
        self._number += 1
        if progress is not None:
            self._progress[shard] = self._number, progress
        if journal is not None:
            self._journals[shard] = self._number, journal
        return self._is_stopping

    def get_updates(self, number: int) -> ShardUpdates:
        """Return what was said after the message of that number."""
        return ShardUpdates(
            self._number,
            {
                shard: progress
                for shard, (message_number, progress) in self._progress.items()
                if message_number > number
            },
            {shard: journal for shard, (message_number, journal) in self._journals.items() if message_number > number},
        )

    def stop(self) -> None:
        """Let every shard finish what it has in flight, and begin no more."""
        self._is_stopping = True


def run_shard(
    coordinator: Any,
    run_name: str,
    shard: Shard,
    driver_directory: str,
    generate: Callable[..., RunProgress],
    source: str,
    settings: dict[str, Any],
) -> ShardResult:
    """Be the task: work on a shard in this machine's temporary folder, from the newest journal there is of it.

    Args:
        coordinator (`Coordinator`, as an actor): whom to tell.
        run_name (`str`): the run's name.
        shard (`Shard`): which part to work on.
        driver_directory (`str`): where the driver collects it, for errors about it.
        generate: the method's function, and source, settings: what it takes.
    """
    import ray

    node, directory = ray.get_runtime_context().get_node_id(), local_run_directory(run_name) / shard.directory_name
    journal, is_stopping = ray.get(coordinator.get_shard_start.remote(shard))
    if is_stopping:
        return ShardResult(node, (StoppedEarly, f"shard {shard} was not begun; the same command begins it"))
    reporter = _Reporter(coordinator, shard, directory)
    try:
        if journal is not None:
            add_snapshot(journal, directory)
        with _ignore_sigint(), reporter:
            generate(source, directory, shard=str(shard), on_progress=reporter.update, **settings)
    except CompactError as error:
        return ShardResult(
            node,
            (
                _reraisable_type(error),
                f"shard {shard} on {socket.gethostname()}: {_format_error(error, directory, driver_directory)}",
            ),
        )
    return ShardResult(node, None)


def _reraisable_type(error: CompactError) -> type[CompactError]:
    """Return the nearest class that is made of its line alone, and so can be raised again by the driver."""
    return next(
        kind for kind in type(error).__mro__ if issubclass(kind, CompactError) and kind.__init__ is Exception.__init__
    )


def _format_error(error: CompactError, directory: Path, driver_directory: str) -> str:
    if isinstance(error, SettingsMismatchError):
        return str(error).replace(str(directory), driver_directory)
    if isinstance(error, UsageError | TeacherError):
        # Most often a key that is missing or wrong, and not in the terminal that one looks at.
        return f"{error}; here the environment is the one that Ray was started in"
    return str(error)


def remove_local_run(run_name: str) -> None:
    """Remove what a run left on this machine; it was collected."""
    shutil.rmtree(local_run_directory(run_name), ignore_errors=True)


def local_run_directory(run_name: str) -> Path:
    """Return where a run's shards work on this machine: the same place when a task comes back to it."""
    return Path(tempfile.gettempdir()) / f"compact-{run_name}"


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Let nothing but what runs inside hear SIGINT, which Ray blocks in its workers: it is how the driver stops them.

    `generate` takes the signal over and gives it back to this; a stop that comes too late is not heard by Ray either.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, previous)


class _Reporter:
    """Tells the board of a shard from a thread of its own, and passes on to the main thread that it shall stop."""

    def __init__(self, coordinator: Any, shard: Shard, directory: Path) -> None:
        self._coordinator = coordinator
        self._shard = shard
        self._directory = directory
        self._progress: RunProgress | None = None
        self._is_interrupted = False
        self._next_send_time = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report_loop, name="speaker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._report(is_last=True)

    def update(self, progress: RunProgress) -> None:
        self._progress = progress

    def _report_loop(self) -> None:
        while not self._done.wait(_REPORT_EVERY_S):
            # Before it stands anywhere, nobody hears Ctrl-C.
            if self._report() and self._progress is not None and not self._is_interrupted:
                self._is_interrupted = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _report(self, *, is_last: bool = False) -> bool:
        import ray

        start, journal = time.monotonic(), None
        if self._progress is not None and (is_last or start >= self._next_send_time):
            journal = take_snapshot(self._directory)
        is_stopping: bool = ray.get(self._coordinator.report.remote(self._shard, self._progress, journal))
        if journal is not None:
            end = time.monotonic()
            self._next_send_time = end + max(_SEND_EVERY_S, _MIN_IDLE_FACTOR * (end - start))
        return is_stopping
