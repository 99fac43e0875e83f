"""What is asked of a model: one question about one picture, with its right answer kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is asked, alone, whatever conversation it stood in.

    Attributes:
        id (`str`): unique in its data set.
        read_picture (`Callable[[], bytes]`): gives the encoded picture when its turn has come.
        question (`str`): without the request for a short answer.
        answer (`str`): the right one.
        k (`int`): how many capabilities it needs.
        capabilities (`tuple[str, ...]`): which.
    """

    id: str
    question: str
    answer: str
    k: int
    capabilities: tuple[str, ...]
    read_picture: Callable[[], bytes] = field(compare=False, repr=False)
