"""What is asked of a model: one question about one picture, with its right answers kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is asked, alone, whatever conversation it stood in.

    Attributes:
        id (`str`): unique in its data set.
        picture (`str`): which picture it was written about; questions about one picture share it.
        question (`str`): without the request for a short answer.
        answers (`tuple[str, ...]`): the right ones, at least one; any of them counts, the first is the one shown.
        k (`int | None`): how many capabilities it needs; None where the data set does not say.
        capabilities (`tuple[str, ...]`): which.
        read_picture (`Callable[[], bytes]`): gives the encoded picture when its turn has come.
    """

    id: str
    picture: str
    question: str
    answers: tuple[str, ...]
    k: int | None
    capabilities: tuple[str, ...]
    read_picture: Callable[[], bytes] = field(compare=False, repr=False)
