"""Reads conversations and image paths of rows in the formats of LLaVA, ShareGPT and TRL.

    conversations   [{from: human | gpt | system, value}]           LLaVA, ShareGPT
    messages        [{role: user | assistant | system, content}]    TRL, OpenAI, LLaMA-Factory

The keys and roles of both may be mixed. The content is a text, or a list of parts: `{type: text, text}` and
`{type: image}`. System messages are left out, because rows of this package have none. The images of a row in a file are
paths: `image` or `images`, each a path or a list of paths, or the parts of the content. A row that cannot be used is
returned as a `Defect`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from compact_hf.images.reasons import RowReason
from compact_hf.records import Message

IMAGE_TOKEN: Final = "<image>"
CONVERSATION_COLUMNS: Final = ("messages", "conversations")

_ROLES: Final[dict[str, Literal["user", "assistant", "system"]]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_ROLE_ORDER: Final = ("user", "assistant")
_IMAGE_PARTS: Final = ("image", "image_url", "input_image")
_IMAGE_TOKEN_PATTERN: Final = re.compile(r"<image>\n|\n?<image>")


class Defect(NamedTuple):
    """The reason why something cannot be used.

    Attributes:
        reason (`str`): a short fixed phrase, by which defects are counted.
        detail (`str`, *optional*, defaults to ""): what was found, such as the invalid value.
    """

    reason: str
    detail: str = ""


def find_turns(row: Any) -> list[Any] | Defect:
    """Return the messages of a row as they are: the first column of a conversation that is not empty.

    Args:
        row (`Any`): a row; a row of a JSON file may be of any type.
    """
    if not isinstance(row, dict):
        return Defect(RowReason.NOT_AN_OBJECT, type(row).__name__)
    cells = (row.get(name) for name in CONVERSATION_COLUMNS)
    return next((cell for cell in cells if cell and isinstance(cell, list)), Defect(RowReason.NO_CONVERSATIONS))


def parse_nonempty_messages(row: Any) -> tuple[Message, ...] | Defect:
    """Return the messages of a row, or the defect if it cannot be used, which includes empty messages.

    User and assistant alternate, beginning with the user. The texts contain no `<image>`.

    Args:
        row (`Any`): one row, as for `find_turns`.
    """
    turns = find_turns(row)
    messages = turns if isinstance(turns, Defect) else parse_messages(turns)
    if not isinstance(messages, Defect) and not all(message.content for message in messages):
        return Defect(RowReason.EMPTY_MESSAGE)
    return messages


def parse_messages(turns: Sequence[Any]) -> tuple[Message, ...] | Defect:
    """Return the messages of a conversation like `parse_nonempty_messages`, but accept empty messages.

    Args:
        turns (`Sequence[Any]`): the messages, each with a role and a content; see the module docstring.
    """
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not {"content", "value"} & turn.keys():
            return Defect(RowReason.NO_TEXT, repr(turn)[:80])
        text = parse_text(_get_content(turn))
        if isinstance(text, Defect):
            return text
        name = turn.get("role") or turn.get("from")
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            return Defect(RowReason.UNKNOWN_ROLE, repr(name)[:80])
        if role != "system":
            messages.append(Message(role, text))
    if messages and messages[0].role == "assistant":
        # A few rows of LLaVA-665K begin with the assistant. LLaVA's own trainer skips that message too.
        del messages[0]
    is_alternating = all(message.role == _ROLE_ORDER[index % 2] for index, message in enumerate(messages))
    if not messages or len(messages) % 2 or not is_alternating:
        return Defect(RowReason.NOT_ALTERNATING, " ".join(message.role for message in messages))
    return tuple(messages)


def parse_text(content: Any) -> str | Defect:
    """Return the text of a message's content without `<image>` tokens, or the defect if it has other parts.

    Args:
        content (`Any`): a text, a number, None, or a list of parts. The texts of several parts are joined by line
            breaks.
    """
    if content is None:
        return ""
    if isinstance(content, list):
        texts = []
        for part in content:
            text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
            if isinstance(text, str) and text:
                texts.append(text)
            # Parquet gives each part the keys of all parts, so that an image has an empty text.
            elif not isinstance(part, Mapping) or part.get("type") not in (*_IMAGE_PARTS, "text"):
                return Defect(RowReason.UNKNOWN_PART, repr(part)[:80])
        content = "\n".join(texts)
    if isinstance(content, Mapping):
        return Defect(RowReason.NO_TEXT, repr(content)[:80])
    return strip_image_tokens(str(content))


def find_image_path(row: Mapping[str, Any]) -> str | Defect:
    """Return the path of the only image of a row in a file, or the defect if it has none, several or no path.

    Args:
        row (`Mapping[str, Any]`): one row.
    """
    images = next((cells for name in ("image", "images") if (cells := _as_list(row.get(name)))), None)
    images = images or [image for part in _iter_image_parts(row) for image in _as_list(_get_part_path(part))]
    if not images:
        return Defect(RowReason.NO_IMAGE)
    if len(images) > 1:
        return Defect(RowReason.SEVERAL_IMAGES, f"{len(images)}, one is needed")
    path = images[0].get("path") if isinstance(images[0], Mapping) else images[0]
    # With a NUL in the path, `open` would raise a ValueError instead of an OSError.
    if not isinstance(path, str) or not path or "\0" in path:
        return Defect(RowReason.NO_PATH, repr(images[0])[:80])
    return path


def refers_to_image(row: Mapping[str, Any]) -> bool:
    """Return whether the text of a conversation contains `<image>`, or has a part that is an image.

    Args:
        row (`Mapping[str, Any]`): one row whose messages were parsed.
    """
    turns = find_turns(row)
    texts = [] if isinstance(turns, Defect) else [_get_content(turn) for turn in turns]
    return any(IMAGE_TOKEN in str(text) for text in texts) or any(True for _ in _iter_image_parts(row))


def strip_image_tokens(text: str) -> str:
    """Return `text` without `<image>` tokens and their line breaks, and without white space at both ends."""
    while IMAGE_TOKEN in text:  # removing a token may join the parts of another, as in "<ima<image>ge>"
        text = _IMAGE_TOKEN_PATTERN.sub("", text)
    return text.strip()


def _get_content(turn: Mapping[str, Any]) -> Any:
    return turn["content"] if turn.get("content") is not None else turn.get("value")


def _iter_image_parts(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a row's messages that are images."""
    turns = find_turns(row)
    for turn in () if isinstance(turns, Defect) else turns:
        content = _get_content(turn) if isinstance(turn, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in _IMAGE_PARTS:
                yield part


def _get_part_path(part: Mapping[str, Any]) -> Any:
    """Return the path in a part of the type image; a part without one stands for an image of the row."""
    return next((part[name] for name in ("image", "path") if part.get(name)), None)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
