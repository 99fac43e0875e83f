"""Reads the questions and answers of one dataset row, in any of five common formats.

All commands that read questions use this module. A format is recognized by its column:

    turns          [{question, answer, capabilities}]           datasets made by compact_hf
    messages       [{role, content}]                            TRL; content is a string or a list of parts
    conversations  [{from, value}]                              LLaVA, ShareGPT
    texts          [{user, assistant}]                          FineVision
    question       with `answer` or `answers`, if any           VQA

In each format a row may also have `k` and `capabilities`, which apply to all of its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.images.conversations import CONVERSATION_COLUMNS, Defect, parse_messages, parse_text
from compact_hf.images.reasons import RowReason

RowFormat = Literal["turns", "messages", "conversations", "texts", "question"]

ROW_FORMATS: Final[tuple[RowFormat, ...]] = ("turns", "messages", "conversations", "texts", "question")
"""The columns by which formats are recognized; if a dataset has several of them, the first in this order is used."""
ANSWER_COLUMNS: Final = ("answer", "answers")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question of a dataset with its answers.

    Attributes:
        question (`str`): the question; may be empty.
        answers (`tuple[str, ...]`): the distinct non-empty answers, the most frequent first.
        capabilities (`Any`, *optional*): the capabilities in the row, not validated; None if it has none.
        k (`Any`, *optional*): the k in the row, not validated; None if it has none.
    """

    question: str
    answers: tuple[str, ...]
    capabilities: Any = None
    k: Any = None

    @property
    def answer(self) -> str:
        """The most frequent answer (the first one in a tie), or an empty string if there is no answer."""
        return self.answers[0] if self.answers else ""


def detect_row_format(columns: Collection[str]) -> RowFormat | None:
    """Return the format of a dataset with these columns, or None if it has no questions."""
    return next((row_format for row_format in ROW_FORMATS if row_format in columns), None)


def detect_labelled_format(columns: Collection[str]) -> RowFormat | None:
    """Return the format to use for evaluation, or None if a dataset with these columns has no questions.

    Like `detect_row_format`, except that `question` with an answer is preferred to `messages`, `conversations` and
    `texts`: if a row has both, its reference answers, `k` and `capabilities` belong to `question`.

    Args:
        columns (`Collection[str]`): names of the columns.
    """
    if "turns" not in columns and "question" in columns and any(name in columns for name in ANSWER_COLUMNS):
        return "question"
    return detect_row_format(columns)


def list_text_columns(columns: Collection[str]) -> list[str]:
    """Return the columns that `read_first_exchanges` reads, of all formats, without repetitions.

    Args:
        columns (`Collection[str]`): names of all columns.
    """
    formats = [row_format for row_format in ROW_FORMATS if row_format in columns]
    return list(dict.fromkeys(name for row_format in formats for name in question_columns(row_format, columns)))


def read_first_exchanges(row: Any) -> tuple[Exchange, ...] | Defect:
    """Return the questions of a row like `read_exchanges`, in the first format in which it has some.

    Rows of a dataset may differ: in a dataset of this package, instruction rows have `messages` and no `turns`.

    Args:
        row (`Any`): column -> cell; a row of a JSON file may be of any type.
    """
    if not isinstance(row, dict):
        return Defect(RowReason.NOT_AN_OBJECT, type(row).__name__)
    formats = [row_format for row_format in ROW_FORMATS if row_format in row]
    # Without any question, the first format says what is missing.
    row_format = next((name for name in formats if _has_questions(row[name], name)), next(iter(formats), None))
    return Defect(RowReason.NO_CONVERSATIONS) if row_format is None else read_exchanges(row, row_format)


def question_columns(
    row_format: RowFormat, columns: Collection[str], mapping: Mapping[str, str] | None = None
) -> list[str]:
    """Return the columns of questions and answers that `read_exchanges` reads.

    Args:
        row_format (`RowFormat`): the format of the rows.
        columns (`Collection[str]`): names of all columns.
        mapping (`Mapping[str, str]`, *optional*): names of columns, as for `read_exchanges`.
    """
    mapping = mapping or {}
    if row_format != "question":
        return [row_format]
    answer_columns = [mapping["answer"]] if "answer" in mapping else ANSWER_COLUMNS
    return [mapping.get("question", "question"), *(name for name in answer_columns if name in columns)]


def read_exchanges(
    row: Mapping[str, Any], row_format: RowFormat, mapping: Mapping[str, str] | None = None
) -> tuple[Exchange, ...] | Defect:
    """Return the questions of a row with their answers, in order, or the defect if the row cannot be read.

    `<image>` tokens and LLaVA's instruction to answer briefly are removed from questions; the latter is about the form
    of the answer.

    Args:
        row (`Mapping[str, Any]`): column -> cell.
        row_format (`RowFormat`): format of the row.
        mapping (`Mapping[str, str]`, *optional*): `question`, `answer`, `k` or `capabilities` -> name of its column, if
            it differs. `question` and `answer` only apply to the format `question`.
    """
    mapping = mapping or {}
    # Of the row; in the format `turns`, a turn may have its own capabilities.
    k, capabilities = (row.get(mapping.get(name, name)) for name in ("k", "capabilities"))
    # VQA: one question per row. The other formats have lists.
    if row_format == "question":
        question = _read_question(row[mapping.get("question", "question")])
        return (Exchange(question, _read_answers(row, mapping), capabilities, k),)
    turns = row[row_format] or []
    if row_format == "conversations" and not (turns and isinstance(turns, list)):
        return Defect(RowReason.NO_CONVERSATIONS)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return Defect(RowReason.NOT_OBJECTS, repr(turns)[:80])
    if row_format in CONVERSATION_COLUMNS:
        messages = parse_messages(turns)
        if isinstance(messages, Defect):
            return messages
        return tuple(
            Exchange(_strip_instruction(user.content), _drop_empty([assistant.content]), capabilities, k)
            # The order of roles was checked: user and assistant alternate, and the user begins.
            for user, assistant in zip(messages[::2], messages[1::2], strict=True)
        )
    # Each item is a pair of question and answer.
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


def _has_questions(cell: Any, row_format: RowFormat) -> bool:
    return bool(cell) and (row_format == "question" or isinstance(cell, list))


def _read_question(value: Any) -> str:
    return _strip_instruction(_to_text(value))


def _read_answers(row: Mapping[str, Any], mapping: Mapping[str, str]) -> tuple[str, ...]:
    """Return the answers of a row in the format `question`.

    The cell is a string, a number, a list of these, or a list of `{"answer": ...}` as in VQA.
    """
    columns = [mapping["answer"]] if "answer" in mapping else ANSWER_COLUMNS
    # The first of the columns that is not null.
    value = next((row[name] for name in columns if row.get(name) is not None), None)
    values = value if isinstance(value, list) else [value]
    return _drop_empty([_to_text(item.get("answer") if isinstance(item, dict) else item) for item in values])


def _drop_empty(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct non-empty answers, the most frequent first."""
    # In a tie, `most_common` keeps the order in which the answers occurred.
    return tuple(text for text, _ in Counter(filter(None, answers)).most_common())


def _to_text(value: Any) -> str:
    """Return a string or number as text, or the joined texts of a message's parts, without `<image>` tokens."""
    text = parse_text(value)
    return "" if isinstance(text, Defect) else text


def _strip_instruction(question: str) -> str:
    return question.removesuffix(SHORT_ANSWER_INSTRUCTION).rstrip()
