"""Defines the interface between a method and the runner: one process per image, which yields requests."""

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
    """The result of a process.

    Attributes:
        body (`str`): outcome of the image, as JSON of the method.
        accepted (`int`): number of accepted questions about the image.
    """

    body: str
    accepted: int


Process = Generator[list[Request], list[Reply], Result]
"""A generator that yields lists of requests, receives their replies in the same order, and returns a `Result`.

A process sees only the replies about its own image, so neither timing nor a restart can change what it asks.
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
    """Return a request with a key computed from its role, image and prompt.

    Args:
        role (`Role`): as for `Request`.
        image_id (`str`): as for `Request`.
        encoded_image (`EncodedImage | None`): as for `Request`.
        prompt (`str`): as for `Request`.
        schema (`type[pydantic.BaseModel]`): as for `Request`.
        subject (`Subject`, *optional*): as for `Request`.
        num_parts (`int`, *optional*, defaults to 1): as for `Request`.
    """
    # Teacher, model and image size are part of the run's identity, so these three identify a request within a run.
    key = digest(role, image_id, prompt)
    return Request(key, role, image_id, encoded_image, prompt, schema, subject, num_parts)


@dataclass(slots=True)
class SessionProgress:
    """Counters of the current session, which the caller may read at any time.

    Attributes:
        finished (`int`): number of images finished.
        sent (`int`): number of requests sent, retries included.
        failures (`int`): number of requests that got no reply.
        unfinished (`int`): number of images that could not be finished.
        last_failure (`str`): message of the newest failure, empty if there was none.
        is_retrying (`bool`): whether its request is sent again.
    """

    finished: int = 0
    sent: int = 0
    failures: int = 0
    unfinished: int = 0
    last_failure: str = ""
    is_retrying: bool = False
