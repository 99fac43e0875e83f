"""A model on this machine as teacher or verifier: any image-text-to-text model of transformers.

In: requests with a prompt, an image and a pydantic schema. Out: JSON text of that schema, unparsed. Nothing is
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
from compact_hf.teachers.local_model import DecodedRequest, LocalModel
from compact_hf.teachers.registry import TeacherSettings

if TYPE_CHECKING:
    from PIL import Image

BATCH_SIZE: Final = 16
# After a flush a part of a batch runs once no request has come for this long, which does not count next to the time of
# a batch. It is waited for in turns of the event loop, since on a busy machine the time alone can pass within one turn.
_SETTLE_S: Final = 0.02
_SETTLE_TURNS: Final = 10


class Local:
    """Ask a model that runs here.

    Requests wait until a batch is full, or until `flush` says that no more can come; those without an image have
    batches of their own. While the model writes, in a thread, further requests gather.

    Args:
        model (`str`): a folder, or a repository of the Hub.
        batch_size (`int`, *optional*, defaults to 16): requests that the model answers at the same time; halved on its
            own where the memory is too small. It takes as many requests in flight to fill it.

    Raises:
        UsageError: there is no such model, or it is none that can be shown an image and asked.
    """

    ks = range(1, 11)
    source_type: str | None = None
    is_batch = False

    def __init__(self, model: str, *, batch_size: int = BATCH_SIZE) -> None:
        if not model:
            raise UsageError("the teacher local needs a model: --teacher local:MODEL, a folder or a Hub repository")
        if batch_size < 1:
            raise UsageError(f"got the batch size {batch_size}; it must be at least 1")
        self._model = LocalModel(model, batch_size=batch_size)
        self.name = f"local:{self._model.name}"
        self._thread = ThreadPoolExecutor(1, "local-teacher")
        self._queue = _BatchQueue()
        self._stop_event = threading.Event()

    async def prepare(self, request: Request) -> None:
        """Encode the image."""
        if request.encoded_image is not None:
            await request.encoded_image.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        worker = asyncio.ensure_future(self._run_batches())
        async with contextlib.aclosing(answer_each(self._iter_requests(requests), self._answer)) as answers:
            try:
                async for item in answers:
                    yield item
            finally:
                # The thread cannot be cancelled; it ends with its next token.
                self._stop_event.set()
                worker.cancel()
                await asyncio.wait([worker])

    async def flush(self) -> None:
        """Run what waits now, and what is still on its way, without waiting for full batches."""
        self._queue.flush()

    async def close(self) -> None:
        """Let the thread end, without waiting for its last token."""
        self._stop_event.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _iter_requests(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Request, None]:
        async for request in requests:
            yield request
        self._queue.end()

    async def _answer(self, request: Request) -> Reply | Failure:
        image = None
        with self._queue.announce():
            if request.encoded_image is not None:
                jpeg = await request.encoded_image.jpeg()
                image = await asyncio.to_thread(_decode_image, jpeg)
            answer = self._queue.put(DecodedRequest(request, image))
        return await answer

    async def _run_batches(self) -> None:
        """Run one batch after the other."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._queue.next_batch(self._model.batch_size)
            items = [pending.item for pending in batch]
            work = loop.run_in_executor(self._thread, self._model.generate, items, self._stop_event.is_set)
            await asyncio.wait([work])
            if (error := work.exception()) is not None:
                # It ends the stream, and with it all who wait: one of them is enough to bring it there.
                batch[0].answer.set_exception(error)
                return
            for pending, answer in zip(batch, work.result(), strict=True):
                pending.answer.set_result(answer)
            self._queue.end_flush()


@dataclass(frozen=True, slots=True)
class _PendingRequest:
    item: DecodedRequest
    answer: asyncio.Future[Reply | Failure]


class _BatchQueue:
    """Requests on one side, batches of them on the other.

    A flush ends with the next replies: the requests that follow from them may fill batches again, and the caller
    flushes again when no more can come. The end of the requests is a flush that stays.
    """

    def __init__(self) -> None:
        # Those with an image and those without: processors want to know how many images there are in a batch.
        self._queues: tuple[list[_PendingRequest], list[_PendingRequest]] = ([], [])
        self._decoding = 0  # requests whose image is still being decoded
        self._arrivals = 0  # requests so far
        self._changed = asyncio.Event()
        self._is_flushed = False
        self._is_ended = False

    @contextlib.contextmanager
    def announce(self) -> Iterator[None]:
        """Note that a request is about to be put; until then a flushed batch waits for it."""
        self._decoding += 1
        self._arrivals += 1
        try:
            yield
        finally:
            self._decoding -= 1
            self._changed.set()

    def put(self, item: DecodedRequest) -> asyncio.Future[Reply | Failure]:
        """Append a request, and return its answer to come."""
        pending = _PendingRequest(item, asyncio.get_running_loop().create_future())
        self._queues[item.image is None].append(pending)
        return pending.answer

    async def next_batch(self, size: int) -> list[_PendingRequest]:
        """Return a full batch as soon as there is one; after a flush, what there is once all that is coming came."""
        while True:
            queue = max(self._queues, key=len)
            if len(queue) >= size:
                break
            if queue and self._is_flushed and not self._decoding:
                if await self._is_settled():
                    break
            else:
                self._changed.clear()
                await self._changed.wait()
        batch = queue[:size]
        del queue[:size]
        return batch

    async def _is_settled(self) -> bool:
        """Wait a moment; return False if a request came meanwhile."""
        arrivals = self._arrivals
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(_SETTLE_S / _SETTLE_TURNS)
        return self._arrivals == arrivals

    def end_flush(self) -> None:
        """Note that replies went out, which ends a flush."""
        self._is_flushed = self._is_ended

    def flush(self) -> None:
        self._is_flushed = True
        self._changed.set()

    def end(self) -> None:
        self._is_ended = True
        self.flush()


def _decode_image(jpeg: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(BytesIO(jpeg)).convert("RGB")


def open_local(model: str, settings: TeacherSettings) -> Local:
    """Return the teacher `local`; see `teachers.registry.Backend`."""
    return Local(model, batch_size=settings.batch_size)
