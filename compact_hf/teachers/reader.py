"""Reads the JSON in a teacher's reply."""

from __future__ import annotations

import json
from typing import Final, TypeVar

from pydantic import BaseModel

ReplyModel = TypeVar("ReplyModel", bound=BaseModel)

_FENCE: Final = "```"


def parse_json_reply(schema: type[ReplyModel], text: str) -> ReplyModel:
    """Parse a reply as JSON of a given schema.

    Args:
        schema (`type[ReplyModel]`): the pydantic model of the reply.
        text (`str`): the text of the reply.

    Raises:
        pydantic.ValidationError: the text is not JSON of this schema.
    """
    # Small local models often fence their JSON. Both ends are required, because truncated JSON is never repaired.
    first, _, rest = text.strip().partition("\n")
    if first.rstrip().lower() in (_FENCE, f"{_FENCE}json") and rest.endswith(_FENCE):
        text = rest.removesuffix(_FENCE)
    return schema.model_validate_json(text)


def is_complete_json(text: str) -> bool:
    """Return whether a reply is a complete JSON object or list.

    Args:
        text (`str`): the text of the reply.
    """
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
