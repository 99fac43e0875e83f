"""Defines the interface of all teachers: a stream of requests in, a stream of replies out.

A teacher sends each request once. Retries, rates and budgets are applied by the dispatcher, in the same way for all
teachers. A teacher yields a `Failure` for a request that failed; failures.py says for all services of which kind.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, Protocol

from compact_hf.errors import CompactError, SourceError
from compact_hf.images.codec import encode_for_teacher

if TYPE_CHECKING:
    from pydantic import BaseModel

    from compact_hf.scenes.scene import Scene

Role = Literal["teacher", "verifier"]


class EncodedImage:
    """An image as it is sent to teachers: encoded once, in a thread, and shared by all requests about it.

    Args:
        read (`Callable[[], bytes]`): reads the image file; may raise SourceError.
        ref (`str`): reference of the image in its source.
        max_edge (`int`): maximum length of the longer side in pixels; larger images are downscaled.
    """

    def __init__(self, read: Callable[[], bytes], *, ref: str, max_edge: int) -> None:
        self.ref = ref
        self._read = read
        self._max_edge = max_edge
        # A future and not the text, so that concurrent requests wait for one encoding.
        self._encoded: asyncio.Future[str] | None = None

    async def base64(self) -> str:
        """Return the image as base64 text of a JPEG without metadata, at most `max_edge` pixels on the longer side.

        Raises:
            SourceError: the image can no longer be read.
        """
        if self._encoded is None:
            self._encoded = asyncio.ensure_future(asyncio.to_thread(self._encode))
        # Shielded, because the other requests still need the image if one request is cancelled.
        return await asyncio.shield(self._encoded)

    async def jpeg(self) -> bytes:
        """Return the bytes of the JPEG; see `base64`."""
        return b64decode(await self.base64())

    def release(self) -> None:
        """Free the memory; the next call of `base64` encodes the image again."""
        self._encoded = None

    def _encode(self) -> str:
        return b64encode(encode_for_teacher(self._read(), self._max_edge)).decode()


@dataclass(frozen=True, slots=True)
class TruthfulReply:
    """A correct reply about a scene, computed from the scene itself.

    Attributes:
        text (`str`): JSON of the request's schema; empty if the reply is a refusal.
        refused (`str`): reason for a refusal, otherwise empty.
        planted (`tuple[str, ...]`): as in `Reply`.
    """

    text: str = ""
    refused: str = ""
    planted: tuple[str, ...] = ()


class Subject(Protocol):
    """What a request asks, as data, for the teacher `scenes`, which computes replies instead of reading the prompt.

    A method has one class for each kind of request.
    """

    def answer_about(
        self, scene: Scene | None, rng: random.Random, draw_fault: Callable[[Sequence[str]], str]
    ) -> TruthfulReply:
        """Return a correct reply about a scene, with planted faults where `draw_fault` returns one.

        Args:
            scene (`Scene | None`): the scene; None if the request has no image.
            rng (`random.Random`): random generator for free choices such as wording; seeded by the request.
            draw_fault (`Callable[[Sequence[str]], str]`): takes the faults that are possible in the next part of the
                reply, and returns one of them or an empty text; also draws from `rng`. Only faults that were planted
                belong into `planted`.

        Raises:
            TeacherError: this kind of request cannot be answered.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a teacher about one image.

    Attributes:
        key (`str`): hash of everything that decides the reply; identifies the request in replies and in the journal.
        role (`str`): `teacher` (writes drafts) or `verifier` (checks questions).
        image_id (`str`): id of the image.
        encoded_image (`EncodedImage | None`): the image; None for a request without an image.
        prompt (`str`): text of the request.
        schema (`type[pydantic.BaseModel]`): schema of the JSON reply.
        subject (`Subject`, *optional*): what the prompt asks, as data, for the teacher `scenes`, which cannot answer
            without it. It contains nothing that the prompt does not say.
        num_parts (`int`, *optional*, defaults to 1): number of parts of the reply, such as questions. The teacher
            `local` multiplies its limit on tokens by it.
    """

    key: str
    role: Role
    image_id: str
    # Not compared, like the schema: the key identifies the request.
    encoded_image: EncodedImage | None = field(compare=False)
    prompt: str
    schema: type[BaseModel] = field(compare=False)
    subject: Subject | None = None
    num_parts: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """A final result of a request: an answer or a refusal. It is journalled, and the request is never sent again.

    Attributes:
        key (`str`): key of the request.
        text (`str`): JSON text as the teacher sent it, unparsed; empty for a refusal.
        model (`str`): exact model version that answered.
        refused (`str`, *optional*): reason why the teacher gave no answer, such as the finish reason `SAFETY`;
            otherwise empty.
        input_tokens (`int`, *optional*, defaults to 0): input tokens as billed.
        output_tokens (`int`, *optional*, defaults to 0): output tokens as billed, including thinking.
        planted (`tuple[str, ...]`, *optional*): for each draft, the fault that the teacher `scenes` planted in it, or
            an empty text; no entries if no fault was planted. These labels are only counted, and never used by filters
            or verifiers.
        has_usage (`bool`, *optional*, defaults to True): False if a service that bills tokens did not say how many;
            the budget then estimates them.
        is_fault (`bool`, *optional*, defaults to False): whether a refusal may come from a fault that other requests
            share, such as an empty or cut reply; False if it is about this image only.
    """

    key: str
    text: str
    model: str
    refused: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    planted: tuple[str, ...] = ()
    has_usage: bool = True
    is_fault: bool = False


class FailureKind(Enum):
    """What a failure says about the request and about all others."""

    TRANSIENT = auto()
    """The same request may succeed when it is sent again: a time-out, a lost connection, 500, an empty reply."""
    OVERLOADED = auto()
    """The server asks all clients to slow down (429, 503): all requests wait."""
    REJECTED = auto()
    """The server does not accept the request (400, 422): it would fail again, and perhaps all others too."""
    LOST = auto()
    """Only this request cannot be answered here and now, because its image can no longer be read or is too large for
    the memory."""
    PERMANENT = auto()
    """No request can succeed: the run stops when the requests in flight have ended."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt to get a reply. No reply is journalled, and the same request may be sent again.

    Attributes:
        key (`str`): key of the request.
        message (`str`): what went wrong, in one line without secrets.
        kind (`FailureKind`, *optional*, defaults to TRANSIENT): what follows from it.
        retry_after (`float`, *optional*): delay in seconds that the server asked for; None if it named none.
        error (`CompactError`, *optional*): the error that the run ends with; only for the kind PERMANENT.
        billed (`Reply`, *optional*): what the service sent and presumably billed, although it is no result, such as an
            empty or unreadable reply. It counts against the budget.
        is_last_resort (`bool`, *optional*, defaults to False): whether `billed` becomes the reply if no attempt is
            left.
    """

    key: str
    message: str
    kind: FailureKind = FailureKind.TRANSIENT
    retry_after: float | None = None
    error: CompactError | None = None
    billed: Reply | None = None
    is_last_resort: bool = False


@dataclass(frozen=True, slots=True)
class TeacherInfo:
    """Information about a teacher that is available without opening it.

    Attributes:
        name (`str`): `NAME:MODEL` or `NAME`.
        ks (`range`): values of k that it supports.
        source_type (`str | None`): the only kind of source that it supports; None for any.
        is_batch (`bool`): whether it answers in batches.
    """

    name: str
    ks: range
    source_type: str | None
    is_batch: bool

    @classmethod
    def of(cls, teacher: Teacher) -> TeacherInfo:
        """Return the information about an open teacher.

        Args:
            teacher (`Teacher`): the teacher.
        """
        return cls(teacher.name, teacher.ks, teacher.source_type, teacher.is_batch)


class Teacher(Protocol):
    """Interface of a teacher: `ask` sends requests; `prepare`, `flush` and `close` support it.

    Attributes:
        name (`str`): `NAME:MODEL` or `NAME`; part of a run's identity and of every row.
        ks (`range`): values of k that it supports.
        source_type (`str | None`): the only kind of source that it supports; None for any.
        is_batch (`bool`): whether it holds all requests back until `flush` and then sends them together.
    """

    name: str
    ks: range
    source_type: str | None
    is_batch: bool

    async def prepare(self, request: Request) -> None:
        """Do the work that needs no slot in flight, such as encoding the image.

        Args:
            request (`Request`): a request that will be sent soon.

        Raises:
            SourceError: the image can no longer be read.
        """
        ...

    def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield one `Reply` or `Failure` per request, in the order of their arrival.

        Args:
            requests (`AsyncIterator[Request]`): the requests; the stream may stay open while replies are yielded.

        Raises:
            TeacherError: no request can succeed (wrong key, unknown model).
        """
        ...

    async def flush(self) -> None:
        """Send the requests that were held back; called when no further request can come before the next reply."""
        ...

    async def close(self) -> None:
        """Close connections and other resources."""
        ...


async def answer_each(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Reply | Failure]]
) -> AsyncGenerator[Reply | Failure, None]:
    """Implement `Teacher.ask` by a coroutine function that answers one request.

    Each request is started when it arrives; the dispatcher limits the number in flight. The first error of `answer`
    ends the stream, except SourceError, which becomes a failure. Closing the stream cancels the requests in flight.

    Args:
        requests (`AsyncIterator[Request]`): the requests.
        answer (`Callable[[Request], Awaitable[Reply | Failure]]`): answers one request.

    Yields:
        One `Reply` or `Failure` per request, in the order of their arrival.
    """
    # Replies and failures as they arrive; an exception raises in the consumer, None ends the stream.
    answers: asyncio.Queue[Reply | Failure | BaseException | None] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()

    async def answer_request(request: Request) -> None:
        try:
            answers.put_nowait(await answer(request))
        except SourceError as error:
            # Only this image is lost; the stream continues with the others.
            answers.put_nowait(Failure(request.key, str(error), FailureKind.LOST))

    def on_done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        # A cancelled task has no exception to pass to the consumer.
        if not task.cancelled() and (error := task.exception()) is not None:
            answers.put_nowait(error)

    def start(work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(on_done)

    async def feed() -> None:
        async for request in requests:
            start(answer_request(request))
        # `feed` itself runs as one of the tasks, so it must not wait for itself.
        current = asyncio.current_task()
        while unfinished := {task for task in tasks if task is not current}:
            await asyncio.wait(unfinished)
        answers.put_nowait(None)

    start(feed())
    try:
        while (item := await answers.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        # Also reached if the consumer closes the stream before its end.
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
