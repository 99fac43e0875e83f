"""Read the questions in one row of a dataset, whichever of the usual shapes it has; every command reads rows by this.

    turns          [{question, answer, capabilities}]           a dataset of ours
    messages       [{role, content}]                            what TRL takes; content is a text or a list of parts
    conversations  [{from, value}]                              LLaVA
    texts          [{user, assistant}]                          FineVision
    question       beside `answer` or `answers`, if any         VQA

Beside any of them a row may have `k` and `capabilities`, which hold for all of its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.images.conversations import Defect, check_role_order, parse_messages, strip_image_tokens
from compact_hf.images.reasons import RowReason
from compact_hf.records import Message

RowFormat = Literal["turns", "messages", "conversations", "texts", "question"]

ROW_FORMATS: Final[tuple[RowFormat, ...]] = ("turns", "messages", "conversations", "texts", "question")
"""The columns by which shapes are known; where a row has several, the first of these counts."""
ANSWER_COLUMNS: Final = ("answer", "answers")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question of a dataset and its answers.

    Attributes:
        question (`str`): may be empty.
        answers (`tuple[str, ...]`): the different ones, those most people gave first; none is empty.
        capabilities (`Any`): what the row says that the question needs, unchecked; None if it says nothing.
        k (`Any`): how many the row says they are, unchecked; None if it says nothing.
    """

    question: str
    answers: tuple[str, ...]
    capabilities: Any = None
    k: Any = None

    @property
    def answer(self) -> str:
        """What most people answered, the first of them in a tie; empty if there is no answer."""
        return self.answers[0] if self.answers else ""


def detect_row_format(columns: Collection[str]) -> RowFormat | None:
    """Return the shape that a dataset with these columns has, None where it has no questions."""
    return next((row_format for row_format in ROW_FORMATS if row_format in columns), None)


def detect_labelled_format(columns: Collection[str]) -> RowFormat | None:
    """Return the shape to judge by: as `detect_row_format`, but `question` with an answer comes before conversations.

    Several right answers, `k` and `capabilities` are about that question.
    """
    if "turns" not in columns and "question" in columns and any(name in columns for name in ANSWER_COLUMNS):
        return "question"
    return detect_row_format(columns)


def question_columns(
    row_format: RowFormat, columns: Collection[str], mapping: Mapping[str, str] | None = None
) -> list[str]:
    """Return the columns of questions and answers that `read_exchanges` reads with this mapping."""
    mapping = mapping or {}
    if row_format != "question":
        return [row_format]
    answer_columns = [mapping["answer"]] if "answer" in mapping else ANSWER_COLUMNS
    return [mapping.get("question", "question"), *(name for name in answer_columns if name in columns)]


def read_exchanges(
    row: Mapping[str, Any], row_format: RowFormat, mapping: Mapping[str, str] | None = None
) -> tuple[Exchange, ...] | Defect:
    """Return what a row asks and answers, in its order, or the defect for which it cannot be read.

    Questions are without `<image>` and without LLaVA's request for a short answer, which is about the answer's form.

    Args:
        row (`Mapping[str, Any]`): column -> cell.
        row_format (`RowFormat`): its shape.
        mapping (`Mapping[str, str]`, *optional*): `question`, `answer`, `k` or `capabilities` -> the column that it is
            in, where that has another name; the first two only in the shape `question`.
    """
    mapping = mapping or {}
    messages: tuple[Message, ...] | Defect
    if row_format == "conversations" and isinstance(messages := parse_messages(row), Defect):
        return messages  # such as an item of a JSON file that is no object
    k, capabilities = (row.get(mapping.get(name, name)) for name in ("k", "capabilities"))
    if row_format == "question":
        question = _read_question(row[mapping.get("question", "question")])
        return (Exchange(question, _read_answers(row, mapping), capabilities, k),)
    if row_format != "conversations":
        turns = row[row_format] or []
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return Defect(RowReason.NOT_OBJECTS, repr(turns)[:80])
        if row_format != "messages":
            question_key, answer_key = ("question", "answer") if row_format == "turns" else ("user", "assistant")
            exchanges = tuple(
                Exchange(
                    _read_question(turn.get(question_key)),
                    _drop_empty([_to_text(turn.get(answer_key))]),
                    turn.get("capabilities", capabilities),
                    k,
                )
                for turn in turns
            )
            return exchanges or Defect(RowReason.NO_QUESTIONS)
        messages = _read_messages(turns)
    if isinstance(messages, Defect):
        return messages
    return tuple(
        Exchange(_strip_instruction(user.content), _drop_empty([assistant.content]), capabilities, k)
        for user, assistant in zip(messages[::2], messages[1::2], strict=True)
    )


def _read_messages(turns: Sequence[Mapping[str, Any]]) -> tuple[Message, ...] | Defect:
    messages: list[Message] = []
    for message in turns:
        role = message.get("role")
        if role == "system":
            continue
        if role not in ("user", "assistant"):
            return Defect(RowReason.UNKNOWN_ROLE, repr(role))
        messages.append(Message(role, _to_text(message.get("content"))))
    return check_role_order(messages)


def _read_question(value: Any) -> str:
    return _strip_instruction(_to_text(value))


def _read_answers(row: Mapping[str, Any], mapping: Mapping[str, str]) -> tuple[str, ...]:
    """A text, a number, or a list of them, or VQA's `[{"answer": ...}, ...]`."""
    columns = [mapping["answer"]] if "answer" in mapping else ANSWER_COLUMNS
    value = next((row[name] for name in columns if row.get(name) is not None), None)
    values = value if isinstance(value, list) else [value]
    return _drop_empty([_to_text(item.get("answer") if isinstance(item, dict) else item) for item in values])


def _drop_empty(answers: Sequence[str]) -> tuple[str, ...]:
    """The different answers, the most frequent first."""
    return tuple(text for text, _ in Counter(filter(None, answers)).most_common())


def _to_text(value: Any) -> str:
    """A text, a number, or the texts among a message's parts."""
    if isinstance(value, list):
        value = "\n".join(part["text"] for part in value if isinstance(part, dict) and part.get("text"))
    return "" if value is None else strip_image_tokens(str(value))


def _strip_instruction(question: str) -> str:
    return question.removesuffix(SHORT_ANSWER_INSTRUCTION).rstrip()
