"""What is analyzed: questions, picture by picture, wherever they come from (of_dataset.py, of_run.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["asked", "judged"]
"""How k is known. `asked`: a teacher was to ask for these capabilities, and a verifier found the very same ones.
`judged`: questions were there, and a verifier said what they need."""


class Asked(NamedTuple):
    """A question as it stands; `answer` is empty where there is none."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


class Row(NamedTuple):
    """Questions about one picture; none where nobody said what they need, as in instruction rows."""

    picture: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Readable:
    """Something whose questions can be read.

    Attributes:
        name (`str`): what people call it.
        k_is (`str`): `asked` or `judged`.
        total (`int`): rows of a data set, finished pictures of a run.
        rows (`Callable[[], Iterator[Row]]`): reads them, in their order.
    """

    name: str
    k_is: Kind
    total: int
    rows: Callable[[], Iterator[Row]]
