"""The interface behind which every teacher stands: requests in as a stream, replies out as they come.

A teacher only asks, once. Retries, rates and budgets belong to the engine, so that they hold for all of them alike: a
teacher says `Failure` for what may go through later and raises `TeacherError` for what never will.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from compact_hf.errors import SourceError
from compact_hf.images.codec import encode_for_teacher

if TYPE_CHECKING:
    from pydantic import BaseModel

    from compact_hf.scenes.scene import Scene

Role = Literal["teacher", "verifier"]


class EncodedImage:
    """One image as teachers get it: encoded once, off the event loop, and shared by all requests about it."""

    def __init__(self, read: Callable[[], bytes], *, ref: str, max_edge: int) -> None:
        self.ref = ref
        self._read = read
        self._max_edge = max_edge
        self._encoded: asyncio.Future[str] | None = None

    async def base64(self) -> str:
        """Return the image in base64, as services take it: a JPEG without metadata, of at most `max_edge` pixels.

        Raises:
            SourceError: the image cannot be read any more.
        """
        if self._encoded is None:
            self._encoded = asyncio.ensure_future(asyncio.to_thread(self._encode))
        # Shielded: one request that is cancelled must not take the image away from the others.
        return await asyncio.shield(self._encoded)

    async def jpeg(self) -> bytes:
        """Return the JPEG itself; see `base64`."""
        return b64decode(await self.base64())

    def release(self) -> None:
        """Give the memory back; whoever asks again has the image encoded anew."""
        self._encoded = None

    def _encode(self) -> str:
        return b64encode(encode_for_teacher(self._read(), self._max_edge)).decode()


@dataclass(frozen=True, slots=True)
class TruthfulReply:
    """What is true of a scene, as a reply.

    Attributes:
        text (`str`): the JSON that the request's schema asks for; empty where `refused` says why.
        refused (`str`): why there is nothing to say, or empty.
        planted (`tuple[str, ...]`): as in `Reply`.
    """

    text: str = ""
    refused: str = ""
    planted: tuple[str, ...] = ()


class Subject(Protocol):
    """What a request asks, for the teacher that computes instead of reading. A method has a class for each kind."""

    def answer_about(
        self, scene: Scene | None, rng: random.Random, draw_fault: Callable[[Sequence[str]], str]
    ) -> TruthfulReply:
        """Return what is true of a scene.

        Args:
            scene (`Scene | None`): None where the request shows no image.
            rng (`random.Random`): for what is free to choose, such as wording; seeded by the request.
            draw_fault (`Callable[[Sequence[str]], str]`): draws one of the faults that can be planted in the next part
                of the reply, or nothing; it draws from `rng` too. Only a fault that was planted goes into `planted`.

        Raises:
            TeacherError: such a request cannot be answered.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask about one image.

    Attributes:
        key (`str`): hash of all that decides the answer; ties the reply to the request and names it in the journal.
        role (`str`): `teacher` (write a draft) or `verifier` (say what a question needs).
        image_id (`str`): the image's id.
        encoded_image (`EncodedImage | None`): the image; None for a question that is asked without it.
        prompt (`str`): the text for teachers that read.
        schema (`type[pydantic.BaseModel]`): the shape of the JSON that must come back.
        subject (`Subject`, *optional*): what the prompt asks, for the teacher `scenes`, which computes instead of
            reading; without it that teacher cannot be asked. Nothing that the prompt does not say too.
        num_parts (`int`, *optional*, defaults to 1): how many things the reply is about, such as questions; the teacher
            `local` lets it be longer by that.
    """

    key: str
    role: Role
    image_id: str
    encoded_image: EncodedImage | None = field(compare=False)
    prompt: str
    schema: type[BaseModel] = field(compare=False)
    subject: Subject | None = None
    num_parts: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, final: it is journalled and the request never sent again.

    Attributes:
        key (`str`): the request's key.
        text (`str`): the JSON as the teacher sent it, unparsed; empty where `refused` says why.
        refused (`str`): the reason for which a teacher gave no answer (a finish reason such as `SAFETY`), or empty.
        model (`str`): the exact model version that answered.
        input_tokens, output_tokens (`int`): as billed; thinking counts as output.
        planted (`tuple[str, ...]`): for each draft the fault that the scenes teacher put in on purpose, or nothing; no
            entries where there is none at all. Only ever counted, never judged by.
    """

    key: str
    text: str
    model: str
    refused: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    planted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer this time; nothing was journalled and the same request may be sent again.

    Attributes:
        key (`str`): the request's key.
        message (`str`): one line on what went wrong, without secrets.
        is_overloaded (`bool`): the server asked everybody to slow down (429, 503).
        retry_after (`float | None`): seconds that the server asked to wait, where it said so.
        is_retryable (`bool`): False where this very request will fail again (400), though others may not.
    """

    key: str
    message: str
    is_overloaded: bool = False
    retry_after: float | None = None
    is_retryable: bool = True


@dataclass(frozen=True, slots=True)
class TeacherInfo:
    """What a method needs to know of a teacher, opened or not.

    Attributes:
        name (`str`): `NAME:MODEL` or `NAME`.
        ks (`range`): the values of k that it can be asked for.
        source_type (`str | None`): the one kind of source it can speak about, None for any.
        is_batch (`bool`): it answers in batches.
    """

    name: str
    ks: range
    source_type: str | None
    is_batch: bool

    @classmethod
    def of(cls, teacher: Teacher) -> TeacherInfo:
        """Return what is known of an opened teacher."""
        return cls(teacher.name, teacher.ks, teacher.source_type, teacher.is_batch)


class Teacher(Protocol):
    """A backend: one method that asks, and `prepare`, `flush` and `close` around it.

    Attributes:
        name (`str`): `NAME:MODEL` or `NAME`, part of a run's identity and of every row.
        ks (`range`): the values of k that it can be asked for.
        source_type (`str | None`): the one kind of source it can speak about, None for any.
        is_batch (`bool`): it holds all requests back until `flush` and sends them together.
    """

    name: str
    ks: range
    source_type: str | None
    is_batch: bool

    async def prepare(self, request: Request) -> None:
        """Do what can be done before the request takes its place among those in flight, such as encode its image.

        Raises:
            SourceError: the image cannot be read any more.
        """
        ...

    def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield one `Reply` or `Failure` per request, in the order in which they come back.

        Raises:
            TeacherError: asking will not help (wrong key, unknown model).
        """
        ...

    async def flush(self) -> None:
        """Take note that no further request can come before a reply: send what was held back."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


async def answer_each(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Reply | Failure]]
) -> AsyncGenerator[Reply | Failure, None]:
    """Turn a coroutine that answers one request into a teacher's stream.

    Every request is started as it comes; how many are in flight is the engine's to decide. The first error that
    `answer` raises ends the stream; ending the stream cancels what is in flight.
    """
    answers: asyncio.Queue[Reply | Failure | BaseException | None] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()

    async def answer_request(request: Request) -> None:
        try:
            answers.put_nowait(await answer(request))
        except SourceError as error:
            # This image is gone; the others are not.
            answers.put_nowait(Failure(request.key, str(error), is_retryable=False))

    def on_done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            answers.put_nowait(error)

    def start(work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(on_done)

    async def feed() -> None:
        async for request in requests:
            start(answer_request(request))
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
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
