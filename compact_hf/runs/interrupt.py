"""Running asynchronous work to its end from ordinary code: a command, a script, or a notebook's cell."""

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

    The first Ctrl-C sets `stop`, so that work in flight can be finished; the second cancels it; the third interrupts
    wherever it is. Where an event loop runs in this thread already, as in a notebook, the work gets a thread and a
    loop of its own.

    Raises:
        KeyboardInterrupt: the work was cancelled.
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
        raise KeyboardInterrupt from None


class _SigintHandler:
    """Carries Ctrl-C from the main thread, the only one that hears it, to the loop in which the work runs."""

    def __init__(self) -> None:
        self._press_count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._apply: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def install(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    async def guard(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))

        def apply() -> None:
            if self._press_count > 0:
                stop.set()
            if self._press_count > 1:
                task.cancel()

        self._apply, self._loop = apply, asyncio.get_running_loop()
        apply()  # it may have been pressed before there was a loop
        return await task

    def _on_sigint(self, *_: object) -> None:
        self._press_count += 1
        if self._press_count > 2:
            raise KeyboardInterrupt
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed just now: the work is done
                self._loop.call_soon_threadsafe(self._apply)
