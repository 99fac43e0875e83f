"""Read questions and answers out of a row of a dataset, whichever of the usual shapes it has, and LLaVA's JSON files.

    turns          [{question, answer, ...}]                    a dataset of ours
    messages       [{role, content}]                            what TRL takes; content is a text or a list of parts
    conversations  [{from, value}]                              LLaVA
    texts          [{user, assistant}]                          FineVision
    question       beside `answer` or `answers`, if any         VQA

A file in LLaVA's format, such as llava_v1_5_mix665k.json, is a JSON list of `{id, image, conversations}`, `image` left
out if there is none. It is read as a stream, with the defect of each item that cannot be used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.errors import UsageError
from compact_hf.records import Message

RowFormat = Literal["turns", "messages", "conversations", "texts", "question"]

ROW_FORMATS: Final[tuple[RowFormat, ...]] = ("turns", "messages", "conversations", "texts", "question")
"""The columns by which shapes are known; where a row has several, the first of these counts."""
ANSWER_COLUMNS: Final = ("answer", "answers")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question of a dataset and its answer; either may be empty, the answer where the dataset has none."""

    question: str
    answer: str


def detect_row_format(columns: Collection[str]) -> RowFormat | None:
    """Return the shape that a dataset with these columns has, None where it has no questions."""
    return next((row_format for row_format in ROW_FORMATS if row_format in columns), None)


def question_columns(row_format: RowFormat, columns: Collection[str]) -> list[str]:
    """Return the columns that `read_exchanges` reads."""
    return [row_format, *(name for name in ANSWER_COLUMNS if row_format == "question" and name in columns)]


def read_exchanges(row: Mapping[str, Any], row_format: RowFormat) -> tuple[Exchange, ...] | Defect:
    """Return what a row asks and answers, in its order, or the defect for which it cannot be read.

    Questions are without `<image>` and without LLaVA's request for a short answer, which is about the answer's form.
    """
    if row_format == "question":
        return (Exchange(_strip_instruction(_to_text(row["question"])), _read_answer(row)),)
    if row_format == "conversations":
        messages = parse_messages(row)
    else:
        turns = row[row_format] or []
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return Defect("not a list of objects", repr(turns)[:80])
        if row_format != "messages":
            question_key, answer_key = ("question", "answer") if row_format == "turns" else ("user", "assistant")
            exchanges = tuple(
                Exchange(_strip_instruction(_to_text(turn.get(question_key))), _to_text(turn.get(answer_key)))
                for turn in turns
            )
            return exchanges or Defect("no questions")
        messages = _read_messages(turns)
    if isinstance(messages, Defect):
        return messages
    return tuple(
        Exchange(_strip_instruction(user.content), assistant.content)
        for user, assistant in zip(messages[::2], messages[1::2], strict=True)
    )


def _read_messages(turns: Sequence[Mapping[str, Any]]) -> tuple[Message, ...] | Defect:
    messages: list[Message] = []
    for message in turns:
        role = message.get("role")
        if role == "system":
            continue
        if role not in ("user", "assistant"):
            return Defect("unknown role", repr(role))
        messages.append(Message(role, _to_text(message.get("content"))))
    return check_role_order(messages)


def _to_text(value: Any) -> str:
    """A text, a number, or the texts among a message's parts."""
    if isinstance(value, list):
        value = "\n".join(part["text"] for part in value if isinstance(part, dict) and part.get("text"))
    return "" if value is None else strip_image_tokens(str(value))


def _read_answer(row: Mapping[str, Any]) -> str:
    """The answer, or what most of several people answered, the first of them in a tie."""
    value = next((row[name] for name in ANSWER_COLUMNS if row.get(name) is not None), None)
    if not isinstance(value, list):
        return _to_text(value)
    answers = [_to_text(item.get("answer") if isinstance(item, dict) else item) for item in value]
    return Counter(answers).most_common(1)[0][0] if answers else ""


def _strip_instruction(question: str) -> str:
    return question.removesuffix(SHORT_ANSWER_INSTRUCTION).rstrip()


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
        return Defect("empty message")
    return messages


def parse_messages(item: Any) -> tuple[Message, ...] | Defect:
    """Return an item's messages as `parse_nonempty_messages` does, empty ones too."""
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
        messages.append(Message(role, strip_image_tokens(turn["value"])))
    if messages[0].role == "assistant":
        # LLaVA's own trainer skips a first message that is not the user's; a few of its rows have one.
        del messages[0]
    return check_role_order(messages)


def check_role_order(messages: Sequence[Message]) -> tuple[Message, ...] | Defect:
    """Return the messages if user and assistant speak in turn, the user first."""
    is_alternating = all(message.role == _ROLE_ORDER[index % 2] for index, message in enumerate(messages))
    if not messages or len(messages) % 2 or not is_alternating:
        return Defect("roles do not alternate", " ".join(message.role for message in messages))
    return tuple(messages)


def strip_image_tokens(text: str) -> str:
    """Return `text` without any `<image>` and the line break beside it, and without white space around it."""
    while IMAGE_TOKEN in text:  # what is left after one pass may spell the mark again
        text = _IMAGE_TOKEN_PATTERN.sub("", text)
    return text.strip()
