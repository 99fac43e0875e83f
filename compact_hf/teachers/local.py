"""A model on this machine as teacher or verifier: any image-text-to-text model of transformers.

In: requests with a prompt, a picture and a pydantic schema. Out: JSON text of that schema, unparsed. Nothing is
downloaded but the model (see how far that is with `hf download MODEL` beforehand), nothing leaves the machine, and the
same requests get the same replies: it writes greedily. Needs the extra `local`.

One process uses all accelerators for one model. Where a model fits into one of them, a shard per accelerator is
faster: CUDA_VISIBLE_DEVICES=0 compact generate ... --shard 1/N, and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

from compact_hf.errors import UsageError
from compact_hf.teachers.base import Failure, Reply, Request, answer_each
from compact_hf.teachers.local_model import LocalModel, Shown

if TYPE_CHECKING:
    from PIL import Image

BATCH_SIZE: Final = 16
# After a flush a part of a batch runs once no request has come for this long, which does not count next to the time of
# a batch. It is waited for in turns of the event loop, since on a busy machine the time alone can pass within one turn.
_SETTLE_S: Final = 0.02
_SETTLE_TURNS: Final = 10


class Local:
    """Ask a model that runs here.

    Requests wait until a batch is full, or until `flush` says that no more can come; those without a picture have
    batches of their own. While the model writes, in a thread, further requests gather.

    Args:
        model (`str`): a folder, or a repository of the Hub.
        batch_size (`int`, *optional*, defaults to 16): requests that the model answers at the same time; halved on its
            own where the memory is too small. It takes as many requests in flight to fill it.

    Raises:
        UsageError: there is no such model, or it is none that can be shown a picture and asked.
    """

    ks = range(1, 11)
    sources: str | None = None
    in_batches = False

    def __init__(self, model: str, *, batch_size: int = BATCH_SIZE) -> None:
        if not model:
            raise UsageError("the teacher local needs a model: --teacher local:MODEL, a folder or a Hub repository")
        if batch_size < 1:
            raise UsageError(f"got the batch size {batch_size}; it must be at least 1")
        self._model = LocalModel(model, batch_size=batch_size)
        self.name = f"local:{self._model.name}"
        self._thread = ThreadPoolExecutor(1, "local-teacher")
        self._queue = _Queue()
        self._stopped = threading.Event()

    async def prepare(self, request: Request) -> None:
        """Encode the picture."""
        if request.exposure is not None:
            await request.exposure.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        work = asyncio.ensure_future(self._work())
        async with contextlib.aclosing(answer_each(self._to_the_end(requests), self._answer)) as answers:
            try:
                async for item in answers:
                    yield item
            finally:
                # The thread cannot be cancelled; it ends with its next token.
                self._stopped.set()
                work.cancel()
                await asyncio.wait([work])

    async def flush(self) -> None:
        """Run what waits now, and what is still on its way, without waiting for full batches."""
        self._queue.flush()

    async def close(self) -> None:
        """Let the thread end, without waiting for its last token."""
        self._stopped.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _to_the_end(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Request, None]:
        async for request in requests:
            yield request
        self._queue.end()

    async def _answer(self, request: Request) -> Reply | Failure:
        picture = None
        with self._queue.coming():
            if request.exposure is not None:
                jpeg = await request.exposure.jpeg()
                picture = await asyncio.to_thread(_pixels, jpeg)
            answer = self._queue.put(Shown(request, picture))
        return await answer

    async def _work(self) -> None:
        """Run one batch after the other."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._queue.take(self._model.batch_size)
            shown = [waiting.shown for waiting in batch]
            work = loop.run_in_executor(self._thread, self._model.write, shown, self._stopped.is_set)
            await asyncio.wait([work])
            if (error := work.exception()) is not None:
                # It ends the stream, and with it all who wait: one of them is enough to bring it there.
                batch[0].answer.set_exception(error)
                return
            for waiting, answer in zip(batch, work.result(), strict=True):
                waiting.answer.set_result(answer)
            self._queue.replied()


@dataclass(frozen=True, slots=True)
class _Waiting:
    shown: Shown
    answer: asyncio.Future[Reply | Failure]


class _Queue:
    """Requests on one side, batches of them on the other.

    A flush ends with the next replies: the requests that follow from them may fill batches again, and the caller
    flushes again when no more can come. The end of the requests is a flush that stays.
    """

    def __init__(self) -> None:
        # Those with an image and those without: processors want to know how many images there are in a batch.
        self._lines: tuple[list[_Waiting], list[_Waiting]] = ([], [])
        self._coming = 0  # requests whose image is still being decoded
        self._arrivals = 0  # requests so far
        self._news = asyncio.Event()
        self._flushed = False
        self._ended = False

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Note that a request is about to be put; until then a flushed batch waits for it."""
        self._coming += 1
        self._arrivals += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._news.set()

    def put(self, shown: Shown) -> asyncio.Future[Reply | Failure]:
        """Append a request, and return its answer to come."""
        waiting = _Waiting(shown, asyncio.get_running_loop().create_future())
        self._lines[shown.picture is None].append(waiting)
        return waiting.answer

    async def take(self, size: int) -> list[_Waiting]:
        """Return a full batch as soon as there is one; after a flush, what there is once all that is coming came."""
        while True:
            line = max(self._lines, key=len)
            if len(line) >= size:
                break
            if line and self._flushed and not self._coming:
                if await self._no_more_come():
                    break
            else:
                self._news.clear()
                await self._news.wait()
        batch = line[:size]
        del line[:size]
        return batch

    async def _no_more_come(self) -> bool:
        """Wait a moment; return False if a request came meanwhile."""
        before = self._arrivals
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(_SETTLE_S / _SETTLE_TURNS)
        return self._arrivals == before

    def replied(self) -> None:
        """Note that replies went out, which ends a flush."""
        self._flushed = self._ended

    def flush(self) -> None:
        self._flushed = True
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self.flush()


def _pixels(jpeg: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(BytesIO(jpeg)).convert("RGB")
