"""LLaVA's file format, that of llava_v1_5_mix665k.json: a JSON list read as a stream, and the messages of an item.

In: a JSON list of `{id, image, conversations: [{from, value}]}`, `image` left out where there is no picture. Out: its
items one by one, and of each its messages, or the defect for which it cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from compact_hf.errors import UsageError
from compact_hf.records import Message

IMAGE_MARK: Final = "<image>"
_ROLES: Final[dict[str, Literal["user", "assistant"]]] = {"human": "user", "gpt": "assistant"}
_TURN_OF: Final = ("user", "assistant")
_MARK_AND_BREAK: Final = re.compile(r"<image>\n|\n?<image>")


class Defect(NamedTuple):
    """Why something cannot be used: a short fixed phrase under which such things are counted, and what was got."""

    reason: str
    detail: str = ""


def items_of(file: Path) -> Iterator[Any]:
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


def refuse_other_formats(file: Path) -> None:
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


def messages_of(item: Any) -> tuple[Message, ...] | Defect:
    """Return an item's messages: user and assistant in turn, none empty, without `<image>`."""
    messages = spoken_in(item)
    if not isinstance(messages, Defect) and not all(message.content for message in messages):
        return Defect("empty message")
    return messages


def spoken_in(item: Any) -> tuple[Message, ...] | Defect:
    """Return an item's messages as `messages_of` does, empty ones too."""
    if not isinstance(item, dict):
        return Defect("not an object", type(item).__name__)
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        return Defect("no conversations")
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return Defect("message without text", repr(turn)[:80])
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            return Defect("unknown role", repr(turn.get("from")))
        messages.append(Message(role, without_image_marks(turn["value"])))
    if messages[0].role == "assistant":
        # LLaVA's own trainer skips a first message that is not the user's; a few of its rows have one.
        del messages[0]
    return in_turns(messages)


def in_turns(messages: Sequence[Message]) -> tuple[Message, ...] | Defect:
    """Return the messages if user and assistant speak in turn, the user first."""
    alternate = all(message.role == _TURN_OF[at % 2] for at, message in enumerate(messages))
    if not messages or len(messages) % 2 or not alternate:
        return Defect("roles do not alternate", " ".join(message.role for message in messages))
    return tuple(messages)


def without_image_marks(text: str) -> str:
    """Return `text` without any `<image>` and the line break beside it, and without white space around it."""
    while IMAGE_MARK in text:  # what is left after one pass may spell the mark again
        text = _MARK_AND_BREAK.sub("", text)
    return text.strip()
