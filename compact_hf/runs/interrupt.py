"""Runs asynchronous work from synchronous code (a command, a script or a notebook cell), and handles Ctrl-C.

SIGTERM, with which batch systems end a job, and SIGHUP, which a closed terminal sends, are handled in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Seconds. `timeout` and other launchers send SIGTERM to a process and then to its group, which is one request to stop.
_SAME_REQUEST_S: Final = 1.0


def run_async_interruptible(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `work(stop)` and return its result.

    The first Ctrl-C, SIGTERM or SIGHUP sets `stop`, so that the work can finish what is in flight. The second cancels
    the work. The third raises KeyboardInterrupt immediately. If this thread already runs an event loop, as in a
    notebook, the work runs in a new thread with a new loop.

    Args:
        work (`Callable[[asyncio.Event], Coroutine]`): takes the event `stop` and returns the coroutine to run.

    Returns:
        The result of the coroutine.

    Raises:
        KeyboardInterrupt: the work was cancelled by the second Ctrl-C, or interrupted by the third.
    """
    handler = _StopHandler()
    try:
        with handler.install():
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return asyncio.run(handler.guard(work))
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(lambda: asyncio.run(handler.guard(work))).result()
    except asyncio.CancelledError:
        # The second Ctrl-C cancelled the work.
        raise KeyboardInterrupt from None


@contextlib.asynccontextmanager
async def announce_interrupt(
    stop: asyncio.Event, count_in_flight: Callable[[], int | None], announce: Callable[[str], None]
) -> AsyncGenerator[None]:
    """Say what is still waited for as soon as `stop` is set inside the block.

    Args:
        stop (`asyncio.Event`): the event of `run_async_interruptible`.
        count_in_flight (`Callable[[], int | None]`): returns the number of requests whose replies are waited for; None
            if `stop` was set by the work itself.
        announce (`Callable[[str], None]`): called with one line.
    """

    async def wait() -> None:
        await stop.wait()
        if (count := count_in_flight()) is not None:
            announce(f"finishing {count:,} request{'' if count == 1 else 's'}, press again to stop now")

    task = asyncio.ensure_future(wait())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _StopHandler:
    """Passes signals from the main thread, the only thread that receives them, to the event loop of the work."""

    def __init__(self) -> None:
        self._press_count = 0
        self._pressed_at = -_SAME_REQUEST_S
        self._loop: asyncio.AbstractEventLoop | None = None
        self._apply: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def install(self) -> Iterator[None]:
        """Handle the signals inside the block; in other threads than the main one this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # `nohup` lets a process ignore SIGHUP.
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def guard(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
        """Run the work in the current loop; stop or cancel it according to the number of signals."""
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))

        def apply() -> None:
            if self._press_count > 0:
                stop.set()
            if self._press_count > 1:
                task.cancel()

        self._apply, self._loop = apply, asyncio.get_running_loop()
        apply()  # for presses before the loop existed
        return await task

    def _on_signal(self, number: int, _: object) -> None:
        pressed_at, self._pressed_at = self._pressed_at, time.monotonic()
        if number != signal.SIGINT and self._pressed_at - pressed_at < _SAME_REQUEST_S:
            return
        self._press_count += 1
        if self._press_count > 2:
            raise KeyboardInterrupt
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the work has ended
                self._loop.call_soon_threadsafe(self._apply)
