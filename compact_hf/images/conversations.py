"""Read conversations in LLaVA's format: its JSON files, and the messages of one item.

A file in LLaVA's format, such as llava_v1_5_mix665k.json, is a JSON list of `{id, image, conversations}`, `image` left
out if there is none. It is read as a stream, with the defect of each item that cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from compact_hf.errors import UsageError
from compact_hf.images.reasons import RowReason
from compact_hf.records import Message

IMAGE_TOKEN: Final = "<image>"
_ROLES: Final[dict[str, Literal["user", "assistant"]]] = {"human": "user", "gpt": "assistant"}
_ROLE_ORDER: Final = ("user", "assistant")
_IMAGE_TOKEN_PATTERN: Final = re.compile(r"<image>\n|\n?<image>")


class Defect(NamedTuple):
    """Why something cannot be used: a short fixed phrase under which such things are counted, and what was got."""

    reason: str
    detail: str = ""


def iter_json_items(file: Path) -> Iterator[Any]:
    """Yield the items of a JSON list, one in memory at a time.

    Raises:
        UsageError: it is not valid JSON; what came before was yielded.
    """
    import ijson

    try:
        with file.open("rb") as stream:
            yield from ijson.items(stream, "item", use_float=True)
    except ijson.JSONError as error:
        reason = str(error).strip().split("\n")[0].strip()  # the lines after it quote the file
        raise UsageError(f"{file} is not valid JSON ({reason}); get or write it anew") from None


def check_json_list(file: Path) -> None:
    """Do nothing for a JSON list, as far as its first sign shows.

    Raises:
        UsageError: it is something else, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(4096).lstrip()[:1]
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); give LLaVA's JSON file") from None
    if start != b"[":
        raise UsageError(
            f"{file} does not start as a JSON list; LLaVA's format is one list of objects "
            "(`jq -s .` makes one of JSON lines)"
        )


def parse_nonempty_messages(item: Any) -> tuple[Message, ...] | Defect:
    """Return an item's messages: user and assistant in turn, none empty, without `<image>`."""
    messages = parse_messages(item)
    if not isinstance(messages, Defect) and not all(message.content for message in messages):
        return Defect(RowReason.EMPTY_MESSAGE)
    return messages


def parse_messages(item: Any) -> tuple[Message, ...] | Defect:
    """Return an item's messages as `parse_nonempty_messages` does, empty ones too."""
    if not isinstance(item, dict):
        return Defect(RowReason.NOT_AN_OBJECT, type(item).__name__)
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        return Defect(RowReason.NO_CONVERSATIONS)
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return Defect(RowReason.NO_TEXT, repr(turn)[:80])
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            return Defect(RowReason.UNKNOWN_ROLE, repr(turn.get("from")))
        messages.append(Message(role, strip_image_tokens(turn["value"])))
    if messages[0].role == "assistant":
        # LLaVA's own trainer skips a first message that is not the user's; a few of its rows have one.
        del messages[0]
    return check_role_order(messages)


def check_role_order(messages: Sequence[Message]) -> tuple[Message, ...] | Defect:
    """Return the messages if user and assistant speak in turn, the user first."""
    is_alternating = all(message.role == _ROLE_ORDER[index % 2] for index, message in enumerate(messages))
    if not messages or len(messages) % 2 or not is_alternating:
        return Defect(RowReason.NOT_ALTERNATING, " ".join(message.role for message in messages))
    return tuple(messages)


def strip_image_tokens(text: str) -> str:
    """Return `text` without any `<image>` and the line break beside it, and without white space around it."""
    while IMAGE_TOKEN in text:  # what is left after one pass may spell the mark again
        text = _IMAGE_TOKEN_PATTERN.sub("", text)
    return text.strip()
