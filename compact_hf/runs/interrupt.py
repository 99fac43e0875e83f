"""Runs asynchronous work from synchronous code (a command, a script or a notebook cell), and handles Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_async_interruptible(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `work(stop)` and return its result.

    The first Ctrl-C sets `stop`, so that the work can finish what is in flight. The second cancels the work. The third
    raises KeyboardInterrupt immediately. If this thread already runs an event loop, as in a notebook, the work runs in
    a new thread with a new loop.

    Args:
        work (`Callable[[asyncio.Event], Coroutine]`): takes the event `stop` and returns the coroutine to run.

    Returns:
        The result of the coroutine.

    Raises:
        KeyboardInterrupt: the work was cancelled by the second Ctrl-C, or interrupted by the third.
    """
    handler = _SigintHandler()
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


class _SigintHandler:
    """Passes Ctrl-C from the main thread, the only thread that receives signals, to the event loop of the work."""

    def __init__(self) -> None:
        self._press_count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._apply: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def install(self) -> Iterator[None]:
        """Handle SIGINT inside the block; in other threads than the main one this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    async def guard(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
        """Run the work in the current loop; stop or cancel it according to the number of Ctrl-C presses."""
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

    def _on_sigint(self, *_: object) -> None:
        self._press_count += 1
        if self._press_count > 2:
            raise KeyboardInterrupt
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the work has ended
                self._loop.call_soon_threadsafe(self._apply)
