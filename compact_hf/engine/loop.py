"""Running asynchronous work to its end from ordinary code: a command, a script, or a notebook's cell."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `work(stop)` and return its result.

    The first Ctrl-C sets `stop`, so that work in flight can be finished; the second interrupts at once. Where an event
    loop runs in this thread already, as in a notebook, the work gets a thread and a loop of its own.
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

    def first() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, first)
    try:
        return await work(stop)
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _in_a_thread(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    ready = threading.Event()
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> T:
        stop = asyncio.Event()
        started.append((asyncio.get_running_loop(), stop))
        ready.set()
        return await work(stop)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(main()))
        try:
            return future.result()
        except KeyboardInterrupt:
            ready.wait()
            loop, stop = started[0]
            loop.call_soon_threadsafe(stop.set)
            return future.result()
