"""What a method hands to the engine: a process for each image, and what it returns."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compact_hf.records import digest
from compact_hf.teachers.base import EncodedImage, Reply, Request, Role, Subject

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Result:
    """What a process returns: what became of its image (JSON), and how many questions of it are kept."""

    body: str
    accepted: int


Process = Generator[list[Request], list[Reply], Result]
"""Yields lists of requests, is sent the replies in the same order, and returns what became of the image.

It sees nothing but its own image's replies, so neither timing nor a kill can change what it asks.
"""


def make_request(
    role: Role,
    image_id: str,
    encoded_image: EncodedImage | None,
    prompt: str,
    schema: type[BaseModel],
    subject: Subject | None = None,
    *,
    num_parts: int = 1,
) -> Request:
    """Return a request whose key is that of its prompt about its image; see `Request`."""
    # The run's identity fixes teacher, model and image size; within a run the prompt about an image is all there is.
    key = digest(role, image_id, prompt)
    return Request(key, role, image_id, encoded_image, prompt, schema, subject, num_parts)


@dataclass(slots=True)
class SessionProgress:
    """Where a run stands in this session; the caller may read it at any time."""

    finished: int = 0
    sent: int = 0
    failures: int = 0
    unfinished: int = 0
    last_failure: str = ""
