"""Reads the text of a reply: the JSON of a request's schema, or free text.

Models and servers wrap an answer in different ways: `<think>...</think>` before it, a Markdown code fence, a sentence
around it, an end token behind it. All of this is removed here, for every teacher and every method, so the journal keeps
the text as it was sent. JSON that is incomplete is never repaired, because a truncated answer would change, and of
several JSON objects none is chosen.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

ReplyModel = TypeVar("ReplyModel", bound=BaseModel)

_THINKING: Final = "(?:think(?:ing)?|thought|reasoning)"
_THINKING_START: Final = re.compile(rf"\s*[<◁]{_THINKING}[>▷]", re.IGNORECASE)
_THINKING_END: Final = re.compile(rf"[<◁]/{_THINKING}[>▷]", re.IGNORECASE)
# Tokens such as <|im_end|>, <|eot_id|>, </s>, <eos> and <end_of_turn>, which some servers send as text.
_END_TOKEN: Final = re.compile(r"(?:<\|\w{1,30}\|>|</s>|<eos>|<end_of_turn>)\Z")
_MAX_END_TOKEN_CHARS: Final = 34
_OPENING_BRACKET: Final = re.compile(r"[{\[]")
# A bracket, or a string, whose brackets do not count. A string without an end takes the rest of the text.
_BRACKET_OR_STRING: Final = re.compile(r'[{}\[\]]|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_FENCE: Final = "```"
_MAX_BLOCKS: Final = 1000
"""Maximum number of brackets that are searched for JSON, so that a hostile reply does not block the event loop."""


def parse_json_reply(schema: type[ReplyModel], text: str) -> ReplyModel:
    """Parse a reply as JSON of a schema.

    A list is taken as the value of the field if the schema has only one.

    Args:
        schema (`type[ReplyModel]`): the pydantic model of the reply.
        text (`str`): the text of the reply, as the teacher sent it.

    Raises:
        pydantic.ValidationError: the text does not contain exactly one JSON value, or not one of this schema.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError:
        found = find_json(text)
        if found is None:
            raise
    if found.startswith("[") and len(schema.model_fields) == 1:
        ((name, field),) = schema.model_fields.items()
        found = f"{{{json.dumps(field.alias or name)}:{found}}}"
    return schema.model_validate_json(found)


def is_complete_json(text: str) -> bool:
    """Return whether a reply contains one complete JSON object or list.

    Args:
        text (`str`): the text of the reply.
    """
    return find_json(text) is not None


def find_json(text: str) -> str | None:
    """Return the JSON object or list in a reply; None if there is none, or more than one, or if it is incomplete.

    Args:
        text (`str`): the text of the reply.
    """
    text = read_text(text)
    # Objects, and lists of objects. Other lists count only if there are none: prose has lists such as "[1]".
    objects: list[str] = []
    lists: list[str] = []
    outside: list[str] = []
    position = 0
    while match := _OPENING_BRACKET.search(text, position):
        end = _find_end(text, match.start())
        if end is None or len(outside) > _MAX_BLOCKS:
            return None
        outside.append(text[position : match.start()])
        block, position = text[match.start() : end], end
        try:
            value = json.loads(block)
        except (ValueError, RecursionError):
            outside.append(block)  # prose in brackets
            continue
        is_object = isinstance(value, dict) or any(isinstance(item, dict) for item in value)
        (objects if is_object else lists).append(block)
        if len(objects) > 1:
            return None
    outside.append(text[position:])
    found = objects or lists
    # A code fence without an end was truncated, so something may be missing.
    if len(found) != 1 or "".join(outside).count(_FENCE) % 2:
        return None
    return found[0]


def read_text(text: str) -> str:
    """Return a reply without the thinking before it and the end tokens behind it.

    Args:
        text (`str`): the text of the reply; if it ends while thinking, the result is empty.
    """
    ends = list(_THINKING_END.finditer(text))
    if ends:
        # Some templates put the start of the thinking into the prompt, so only its end is in the reply.
        text = text[ends[-1].end() :]
    elif _THINKING_START.match(text):
        return ""
    end = len(text.rstrip())
    # By index, because a copy of a long text for each token would take quadratic time.
    while match := _END_TOKEN.search(text, max(end - _MAX_END_TOKEN_CHARS, 0), end):
        end = match.start()
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end].strip()


def _find_end(text: str, start: int) -> int | None:
    """Return the end of the block that begins with the bracket at `start`; None if it is not closed."""
    depth = 0
    for match in _BRACKET_OR_STRING.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None
