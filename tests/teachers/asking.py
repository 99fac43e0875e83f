"""Helpers that send requests to a teacher without a dispatcher, for the tests of teachers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence

from PIL import Image

from compact_hf.methods.compact.prompts import DraftReply, VerdictReply, teacher_prompt, verifier_prompt
from compact_hf.methods.compact.truth import Questions, Task
from compact_hf.records import digest
from compact_hf.teachers.base import EncodedImage, Failure, Reply, Request, Teacher


def photograph(width: int = 64, height: int = 48) -> bytes:
    """Return a small JPEG with GPS data in its EXIF, as phones write it."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x010F] = "SecretPhoneMaker"
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def draft_request(combination: tuple[str, ...], *, ref: str = "a.jpg", image: bytes = b"", round: int = 1) -> Request:
    encoded_image = EncodedImage(lambda: image or photograph(), ref=ref, max_edge=1024)
    key = digest(ref, combination, round)
    return Request(
        key,
        "teacher",
        "0" * 32,
        encoded_image,
        teacher_prompt(combination),
        DraftReply,
        Task("0" * 32, round, (combination,)),
    )


def verdict_request(question: str, *, ref: str = "a.jpg") -> Request:
    encoded_image = EncodedImage(photograph, ref=ref, max_edge=1024)
    return Request(
        digest(ref, question),
        "verifier",
        "0" * 32,
        encoded_image,
        verifier_prompt(question),
        VerdictReply,
        Questions((question,)),
    )


def ask_all(teacher: Teacher, requests: Sequence[Request]) -> list[Reply | Failure]:
    """Send all requests, wait for their results, and return these in the order of the requests.

    Raises:
        CompactError: the error of a permanent failure, with which a run would end.
    """

    async def stream() -> AsyncGenerator[Request, None]:
        for request in requests:
            yield request

    async def main() -> dict[str, Reply | Failure]:
        try:
            return {answer.key: answer async for answer in teacher.ask(stream())}
        finally:
            await teacher.close()

    answers = asyncio.run(main())
    for answer in answers.values():
        if isinstance(answer, Failure) and answer.error is not None:
            raise answer.error
    return [answers[request.key] for request in requests]
