"""From a reply's text to the JSON that was asked for: nothing but that JSON, or that JSON in one Markdown fence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

Read = TypeVar("Read", bound=BaseModel)


class _Numbered(Protocol):
    number: int


Item = TypeVar("Item", bound=_Numbered)

_FENCE: Final = "```"


def read_json(schema: type[Read], text: str) -> Read:
    """Return what the text says in the form of `schema`.

    Raises:
        pydantic.ValidationError: it is not that.
    """
    # Small local models like to fence their JSON. Both ends must be there: JSON that was cut is never repaired.
    first, _, rest = text.strip().partition("\n")
    if first.rstrip().lower() in (_FENCE, f"{_FENCE}json") and rest.endswith(_FENCE):
        text = rest.removesuffix(_FENCE)
    return schema.model_validate_json(text)


def by_number(items: Sequence[Item], wanted: int) -> list[Item | None]:
    """Return the items numbered 1 to `wanted` in that order, None for each that is missing or there twice.

    Numbers that were not asked for are passed over: whatever carries one answers nothing.
    """
    times = Counter(item.number for item in items)
    held = {item.number: item for item in items}
    return [held[number] if times[number] == 1 else None for number in range(1, wanted + 1)]


def said_of(error: ValidationError) -> str:
    """Return in one line what is wrong with a reply, without quoting it."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'reply'}: {first['msg']}"
