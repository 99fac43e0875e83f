"""Runs shards on the machines of a Ray cluster, and reports their progress and journals to the driver.

Each shard is one Ray task. Tasks and driver exchange messages through one actor, the coordinator. A task works in a
directory on its machine's disk and sends the growing journal repeatedly. ray.py makes the tasks and the actor from the
functions and classes of this module.
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
# After a journal was sent, wait at least this many times as long as sending took, so that large journals are sent less
# often and sending takes at most 2% of the time.
_MIN_IDLE_FACTOR: Final = 50


@dataclass(frozen=True, slots=True)
class ShardUpdates:
    """Progress and journals of shards, as reported to the coordinator.

    Attributes:
        number (`int`): number of the newest report that is included.
        progress (`dict[Shard, RunProgress]`): newest progress of each shard that reported.
        journals (`dict[Shard, bytes]`): newest journal of each shard that sent one.
    """

    number: int
    progress: dict[Shard, RunProgress]
    journals: dict[Shard, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of a shard's task.

    Attributes:
        node (`str`): id of the Ray node on which it ran, empty if unknown.
        error (`tuple[type[CompactError], str] | None`): class and message of the error, None if it succeeded.
    """

    node: str
    error: tuple[type[CompactError], str] | None


class Coordinator:
    """Stores the newest report of each shard, for the driver and for tasks that are started again.

    All methods may be called twice with the same arguments, because Ray repeats a call after a lost connection.

    Args:
        journals (`Mapping[Shard, bytes]`): the journals that were collected before.
    """

    def __init__(self, journals: Mapping[Shard, bytes]) -> None:
        self._number = 0
        # shard -> (number of the report, value); the journals of earlier sessions have number 0.
        self._journals = {shard: (0, journal) for shard, journal in journals.items()}
        self._progress: dict[Shard, tuple[int, RunProgress]] = {}
        self._is_stopping = False

    def get_shard_start(self, shard: Shard) -> tuple[bytes | None, bool]:
        """Return the newest journal of a shard (None if there is none), and whether the run is being stopped.

        Args:
            shard (`Shard`): the shard.
        """
        _, journal = self._journals.get(shard, (0, None))
        return journal, self._is_stopping

    def report(self, shard: Shard, progress: RunProgress | None, journal: bytes | None) -> bool:
        """Store a report of a shard and return whether the shard should stop.

        Args:
            shard (`Shard`): the shard.
            progress (`RunProgress | None`): its progress; None keeps the previous one.
            journal (`bytes | None`): its journal; None keeps the previous one.
        """
        # A repeated call stores the same values under a newer number, which does no harm.
        self._number += 1
        if progress is not None:
            self._progress[shard] = self._number, progress
        if journal is not None:
            self._journals[shard] = self._number, journal
        return self._is_stopping

    def get_updates(self, number: int) -> ShardUpdates:
        """Return the newest progress and journals that were reported after a given report.

        Args:
            number (`int`): number of the last report that the caller has seen; 0 for none.
        """
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
        """Ask all shards to stop: they finish the requests in flight and send no new ones."""
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
    """Work on a shard in this machine's temporary directory, starting from its newest journal; the body of a Ray task.

    Args:
        coordinator (`Any`): handle of the `Coordinator` actor.
        run_name (`str`): name of the run.
        shard (`Shard`): the shard to work on.
        driver_directory (`str`): directory in which the driver collects the shard, for error messages.
        generate (`Callable[..., RunProgress]`): the function `generate`.
        source (`str`): as for `generate`.
        settings (`dict[str, Any]`): other keywords of `generate`.

    Returns:
        The node on which the task ran, and its error if there was one.
    """
    import ray

    node, directory = ray.get_runtime_context().get_node_id(), local_run_directory(run_name) / shard.directory_name
    journal, is_stopping = ray.get(coordinator.get_shard_start.remote(shard))
    # The task was started, or started again, after Ctrl-C: nothing may be sent.
    if is_stopping:
        return ShardResult(
            node, (StoppedEarly, f"shard {shard} was not started: run the same command again to start it")
        )
    reporter = _Reporter(coordinator, shard, directory)
    try:
        if journal is not None:
            # Added and not written over: a task that was killed on this machine may have left a newer journal.
            add_snapshot(journal, directory)
        with _ignore_sigint(), reporter:
            generate(source, directory, shard=str(shard), on_progress=reporter.update, **settings)
    # Returned and not raised, because Ray would wrap it in an error of its own.
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
    """Return the nearest class of an error that takes only a message, so that the driver can raise it again."""
    return next(
        kind for kind in type(error).__mro__ if issubclass(kind, CompactError) and kind.__init__ is Exception.__init__
    )


def _format_error(error: CompactError, directory: Path, driver_directory: str) -> str:
    """Return the message of a shard's error as it should read on the driver's machine."""
    if isinstance(error, SettingsMismatchError):
        return str(error).replace(str(directory), driver_directory)
    if isinstance(error, UsageError | TeacherError):
        # Most often a missing or wrong key: users would check the terminal of the driver, which does not matter here.
        return f"{error} (on this machine, in the environment in which Ray was started)"
    return str(error)


def remove_local_run(run_name: str) -> None:
    """Remove the directory of a run on this machine, after the driver has collected its journals.

    Args:
        run_name (`str`): name of the run.
    """
    shutil.rmtree(local_run_directory(run_name), ignore_errors=True)


def local_run_directory(run_name: str) -> Path:
    """Return the working directory of a run's shards on this machine; the same for tasks that are started again.

    Args:
        run_name (`str`): name of the run.
    """
    return Path(tempfile.gettempdir()) / f"compact-{run_name}"


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Unblock SIGINT, which Ray blocks in its workers, and ignore it unless code inside the block handles it.

    The reporter stops `generate` by SIGINT, which `generate` handles while it runs. A signal that arrives later is
    ignored and does not reach Ray.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, previous)


class _Reporter:
    """Reports a shard's progress and journal to the coordinator from a thread, and interrupts the main thread to stop.

    Args:
        coordinator (`Any`): handle of the `Coordinator` actor.
        shard (`Shard`): the shard.
        directory (`Path`): its run directory on this machine.
    """

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
        # Also after an error: the replies up to then are paid for.
        self._report(is_last=True)

    def update(self, progress: RunProgress) -> None:
        """Set the progress that is reported next."""
        self._progress = progress

    def _report_loop(self) -> None:
        """Report every second, and send SIGINT to the main thread once when the coordinator asks to stop."""
        while not self._done.wait(_REPORT_EVERY_S):
            # Not before the first progress: only then does `generate` handle SIGINT.
            if self._report() and self._progress is not None and not self._is_interrupted:
                self._is_interrupted = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _report(self, *, is_last: bool = False) -> bool:
        """Send a report, with the journal if one is due; return whether the shard should stop."""
        import ray

        start, journal = time.monotonic(), None
        # `generate` reports its first progress after it has opened the journal.
        if self._progress is not None and (is_last or start >= self._next_send_time):
            journal = take_snapshot(self._directory)
        is_stopping: bool = ray.get(self._coordinator.report.remote(self._shard, self._progress, journal))
        if journal is not None:
            end = time.monotonic()
            self._next_send_time = end + max(_SEND_EVERY_S, _MIN_IDLE_FACTOR * (end - start))
        return is_stopping
