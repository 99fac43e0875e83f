"""What a method hands to the engine: a process for each image, and what it returns."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from compact_hf.teachers.base import Reply, Request


@dataclass(frozen=True, slots=True)
class Result:
    """What a process returns: what became of its image (JSON), and how many questions of it are kept."""

    body: str
    accepted: int


Process = Generator[list[Request], list[Reply], Result]
"""Yields lists of requests, is sent the replies in the same order, and returns what became of the image.

It sees nothing but its own image's replies, so neither timing nor a kill can change what it asks.
"""


@dataclass(slots=True)
class SessionProgress:
    """Where a run stands in this session; the caller may read it at any time."""

    finished: int = 0
    sent: int = 0
    failures: int = 0
    unfinished: int = 0
    last_failure: str = ""
