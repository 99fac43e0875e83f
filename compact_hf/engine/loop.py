"""Running asynchronous work to its end from ordinary code: a command, a script, or a notebook's cell."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `work(stop)` and return its result.

    The first Ctrl-C sets `stop`, so that work in flight can be finished; the second cancels it. Where an event loop
    runs in this thread already, as in a notebook, the work gets a thread and a loop of its own.

    Raises:
        KeyboardInterrupt: the work was cancelled.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_listening(work))
    return _in_a_thread(work)


async def _listening(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    stop = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        return await work(stop)
    loop = asyncio.get_running_loop()
    # asyncio's own, which cancels the work.
    second = signal.getsignal(signal.SIGINT)

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, second)
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, first)
    try:
        return await work(stop)
    finally:
        signal.signal(signal.SIGINT, second)


def _in_a_thread(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    started: Future[Callable[[], None]] = Future()

    async def main() -> T:
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed just now: the work is done
                loop.call_soon_threadsafe(task.cancel if stop.is_set() else stop.set)

        started.set_result(interrupt)
        return await task

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(main()))
        while True:
            try:
                return future.result()
            except KeyboardInterrupt:
                started.result()()
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
