"""Implements the teacher `local`, which runs an image-text-to-text model of transformers on this machine.

    compact generate IMAGES --out RUN --teacher local:MODEL

A request has a prompt, an image and a pydantic schema; a reply is JSON text of that schema, unparsed. Only the model is
downloaded (run `hf download MODEL` before to see the progress), and no data leaves the machine. Decoding is greedy, so
the same requests get the same replies. Needs the extra `local`.

One process uses all accelerators for one model. If the model fits on one accelerator, one shard per accelerator is
faster: CUDA_VISIBLE_DEVICES=0 compact generate ... --shard 1/N, and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.images.codec import decode_rgb
from compact_hf.teachers.base import Failure, Reply, Request, answer_each
from compact_hf.teachers.local_model import DecodedRequest, LocalModel
from compact_hf.teachers.registry import TeacherSettings

BATCH_SIZE: Final = 16
# After a flush, an incomplete batch runs when no request has arrived for this long, which is short compared to the time
# of a batch. The wait is divided into several turns of the event loop, because on a busy machine one turn alone can
# take longer, before any other task has run.
_SETTLE_S: Final = 0.02
_SETTLE_TURNS: Final = 10


class Local:
    """Teacher that runs a model on this machine, in batches.

    Requests wait until a batch is full, or until `flush` says that no more can come. Requests with and without an image
    are batched separately. The model generates in a thread, while further requests are collected.

    Args:
        model (`str`): a directory, or a repository on the Hub.
        batch_size (`int`, *optional*, defaults to 16): maximum number of requests in a batch; halved automatically if
            the memory is too small. Batches are full only if at least this number of requests is in flight.

    Raises:
        UsageError: the model does not exist, or is not an image-text-to-text model.
    """

    ks = range(1, 11)
    source_type: str | None = None
    is_batch = False

    def __init__(self, model: str, *, batch_size: int = BATCH_SIZE) -> None:
        if not model:
            raise UsageError(
                "the teacher local needs a model: give --teacher local:MODEL, a directory or a Hub repository"
            )
        if batch_size < 1:
            raise UsageError(f"got the batch size {batch_size}: it must be at least 1")
        self._model = LocalModel(model, batch_size=batch_size)
        self.name = f"local:{self._model.name}"
        self._thread = ThreadPoolExecutor(1, "local-teacher")
        self._queue = _BatchQueue()
        self._stop_event = threading.Event()

    async def prepare(self, request: Request) -> None:
        """Encode the image; see `Teacher.prepare`.

        Args:
            request (`Request`): a request that will be sent soon.
        """
        if request.encoded_image is not None:
            await request.encoded_image.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield one `Reply` or `Failure` per request; see `Teacher.ask`.

        Args:
            requests (`AsyncIterator[Request]`): the requests.
        """
        worker = asyncio.ensure_future(self._run_batches())
        async with contextlib.aclosing(answer_each(self._iter_requests(requests), self._answer)) as answers:
            try:
                async for item in answers:
                    yield item
            finally:
                # A thread cannot be cancelled; generation stops after its next token.
                self._stop_event.set()
                worker.cancel()
                await asyncio.wait([worker])

    async def flush(self) -> None:
        """Run the waiting requests and those that are being decoded, without waiting for full batches."""
        self._queue.flush()

    async def close(self) -> None:
        """End the thread after its next token, without waiting for it."""
        self._stop_event.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _iter_requests(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Request, None]:
        async for request in requests:
            yield request
        self._queue.end()

    async def _answer(self, request: Request) -> Reply | Failure:
        """Decode the image of a request, put it into a batch, and wait for its result."""
        image = None
        with self._queue.announce():
            if request.encoded_image is not None:
                jpeg = await request.encoded_image.jpeg()
                image = await asyncio.to_thread(decode_rgb, jpeg)
            answer = self._queue.put(DecodedRequest(request, image))
        return await answer

    async def _run_batches(self) -> None:
        """Run batches one after the other until an error occurs."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._queue.next_batch(self._model.batch_size)
            items = [pending.item for pending in batch]
            work = loop.run_in_executor(self._thread, self._model.generate, items, self._stop_event.is_set)
            await asyncio.wait([work])
            if (error := work.exception()) is not None:
                # One request passes the error on to `answer_each`, which ends the stream and cancels all others.
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
    """Collects requests into batches.

    A batch is returned when it is full or after a flush. A flush ends with the next replies: the requests that follow
    from them may fill batches again, and the caller flushes again when no more can come. The end of the request stream
    is a permanent flush.
    """

    def __init__(self) -> None:
        # Requests with an image, and requests without: processors do not accept both in one batch.
        self._queues: tuple[list[_PendingRequest], list[_PendingRequest]] = ([], [])
        self._decoding = 0  # requests whose image is still being decoded
        self._arrivals = 0  # requests so far
        self._changed = asyncio.Event()
        self._is_flushed = False
        self._is_ended = False

    @contextlib.contextmanager
    def announce(self) -> Iterator[None]:
        """Announce a request inside the block, so that a flushed batch waits until the request is put."""
        self._decoding += 1
        self._arrivals += 1
        try:
            yield
        finally:
            self._decoding -= 1
            self._changed.set()

    def put(self, item: DecodedRequest) -> asyncio.Future[Reply | Failure]:
        """Append a request, and return the future of its result."""
        pending = _PendingRequest(item, asyncio.get_running_loop().create_future())
        self._queues[item.image is None].append(pending)
        return pending.answer

    async def next_batch(self, size: int) -> list[_PendingRequest]:
        """Return a batch: a full one as soon as possible, or after a flush, an incomplete one when no more are coming.

        All requests of a batch have an image, or none has.
        """
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
        """Wait a moment; return False if a request arrived in the meantime."""
        arrivals = self._arrivals
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(_SETTLE_S / _SETTLE_TURNS)
        return self._arrivals == arrivals

    def end_flush(self) -> None:
        """End the flush, after replies were delivered; the end of the stream stays."""
        self._is_flushed = self._is_ended

    def flush(self) -> None:
        """Allow incomplete batches until the next replies."""
        self._is_flushed = True
        self._changed.set()

    def end(self) -> None:
        """Allow incomplete batches permanently, because the request stream has ended."""
        self._is_ended = True
        self.flush()


def open_local(model: str, settings: TeacherSettings) -> Local:
    """Return the teacher `local`; see `opener` of `teachers.registry.Backend`.

    Args:
        model (`str`): a directory, or a repository on the Hub.
        settings (`TeacherSettings`): its `batch_size` is used.
    """
    return Local(model, batch_size=settings.batch_size)
