"""Reads conversations in LLaVA's format: its JSON files, and the messages of one item.

A file in LLaVA's format, such as llava_v1_5_mix665k.json, is a JSON list of `{id, image, conversations}`; text-only
items have no `image`. The file is read as a stream. An item that cannot be used is returned as a `Defect`.
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
    """The reason why something cannot be used.

    Attributes:
        reason (`str`): a short fixed phrase, by which defects are counted.
        detail (`str`, *optional*, defaults to ""): what was found, such as the invalid value.
    """

    reason: str
    detail: str = ""


def iter_json_items(file: Path) -> Iterator[Any]:
    """Yield the items of a JSON list, one in memory at a time.

    Args:
        file (`Path`): the JSON file.

    Raises:
        UsageError: the file is not valid JSON; the items before the error have been yielded.
    """
    import ijson

    try:
        with file.open("rb") as stream:
            yield from ijson.items(stream, "item", use_float=True)
    except ijson.JSONError as error:
        reason = str(error).strip().split("\n")[0].strip()  # the following lines quote the file
        raise UsageError(f"{file} is not valid JSON ({reason}): download or write it again") from None


def check_json_list(file: Path) -> None:
    """Check that a file starts like a JSON list.

    Args:
        file (`Path`): the file; only its first 4,096 bytes are read.

    Raises:
        UsageError: the first character is not `[`, or the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(4096).lstrip()[:1]
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): give a JSON file in LLaVA's format") from None
    if start != b"[":
        raise UsageError(
            f"{file} is not a JSON list: LLaVA's format is a single list of objects "
            "(`jq -s .` converts JSON lines to a list)"
        )


def parse_nonempty_messages(item: Any) -> tuple[Message, ...] | Defect:
    """Return the messages of an item, or the defect if it cannot be used, which includes empty messages.

    User and assistant alternate, beginning with the user. The texts contain no `<image>`.

    Args:
        item (`Any`): one item of the JSON list; `conversations` is a list of `{from: human | gpt, value}`.
    """
    messages = parse_messages(item)
    if not isinstance(messages, Defect) and not all(message.content for message in messages):
        return Defect(RowReason.EMPTY_MESSAGE)
    return messages


def parse_messages(item: Any) -> tuple[Message, ...] | Defect:
    """Return the messages of an item like `parse_nonempty_messages`, but accept empty messages.

    Args:
        item (`Any`): one item of the JSON list; `conversations` is a list of `{from: human | gpt, value}`.
    """
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
        # A few rows of LLaVA-665K begin with the assistant. LLaVA's own trainer skips that message too.
        del messages[0]
    return check_role_order(messages)


def check_role_order(messages: Sequence[Message]) -> tuple[Message, ...] | Defect:
    """Return the messages if user and assistant alternate and the user begins, else the defect."""
    is_alternating = all(message.role == _ROLE_ORDER[index % 2] for index, message in enumerate(messages))
    if not messages or len(messages) % 2 or not is_alternating:
        return Defect(RowReason.NOT_ALTERNATING, " ".join(message.role for message in messages))
    return tuple(messages)


def strip_image_tokens(text: str) -> str:
    """Return `text` without `<image>` tokens and their line breaks, and without white space at both ends."""
    while IMAGE_TOKEN in text:  # removing a token may join the parts of another, as in "<ima<image>ge>"
        text = _IMAGE_TOKEN_PATTERN.sub("", text)
    return text.strip()
