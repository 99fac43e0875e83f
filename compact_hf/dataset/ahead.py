"""Working ahead: in go items, out come the same items in order with what was made of each, a few being worked on.

Reading, hashing and decoding let go of Python's lock, so threads are enough to keep the cores busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_WORKERS: Final = 4
_AT_ONCE: Final = 8  # items: handing over each by itself costs as much as hashing a picture
_AHEAD: Final = 32  # items that may be finished and wait for their turn


def with_results(items: Iterable[T], work: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Yield each item with what `work` makes of it in a thread, in order; what `work` raises is raised here."""

    def done(some: list[T]) -> list[tuple[T, U]]:
        return [(item, work(item)) for item in some]

    waiting: deque[Future[list[tuple[T, U]]]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="ahead") as pool:
        while some := list(islice(source, _AT_ONCE)):
            waiting.append(pool.submit(done, some))
            if len(waiting) == _AHEAD // _AT_ONCE:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
