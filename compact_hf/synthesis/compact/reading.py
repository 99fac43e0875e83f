"""From a reply's text to the JSON that was asked for: nothing but that JSON, or that JSON in one Markdown fence."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel

Read = TypeVar("Read", bound=BaseModel)

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
