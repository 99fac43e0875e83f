"""The questions and answers in a row of a data set, whichever of the usual shapes it has. Pure.

turns          [{question, answer, ...}]                    a release of ours
messages       [{role, content}]                            what TRL takes; content is a text or a list of parts
conversations  [{from, value}]                              LLaVA
texts          [{user, assistant}]                          FineVision
question       beside `answer` or `answers`, if any         VQA
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.images.llava import Defect, in_turns, spoken_in, without_image_marks
from compact_hf.records import Message

Shape = Literal["turns", "messages", "conversations", "texts", "question"]

SHAPES: Final[tuple[Shape, ...]] = ("turns", "messages", "conversations", "texts", "question")
"""The columns by which shapes are known; where a row has several, the first of these counts."""
ANSWERS: Final = ("answer", "answers")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question of a data set and its answer; either may be empty, the answer where the data set has none."""

    question: str
    answer: str


def shape_of(columns: Collection[str]) -> Shape | None:
    """Return the shape that a data set with these columns has, None where it has no questions."""
    return next((shape for shape in SHAPES if shape in columns), None)


def columns_of(shape: Shape, columns: Collection[str]) -> list[str]:
    """Return the columns that `exchanges_of` reads."""
    return [shape, *(name for name in ANSWERS if shape == "question" and name in columns)]


def exchanges_of(row: Mapping[str, Any], shape: Shape) -> tuple[Exchange, ...] | Defect:
    """Return what a row asks and answers, in its order, or the defect for which it cannot be read.

    Questions are without `<image>` and without LLaVA's request for a short answer, which is about the answer's form.
    """
    if shape == "question":
        return (Exchange(_bare(_text(row["question"])), _answer(row)),)
    if shape == "conversations":
        spoken = spoken_in(row)
    else:
        turns = row[shape] or []
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return Defect("not a list of objects", repr(turns)[:80])
        if shape != "messages":
            asked, told = ("question", "answer") if shape == "turns" else ("user", "assistant")
            found = tuple(Exchange(_bare(_text(turn.get(asked))), _text(turn.get(told))) for turn in turns)
            return found or Defect("no questions")
        spoken = _messages(turns)
    if isinstance(spoken, Defect):
        return spoken
    return tuple(
        Exchange(_bare(one.content), other.content) for one, other in zip(spoken[::2], spoken[1::2], strict=True)
    )


def _messages(turns: Sequence[Mapping[str, Any]]) -> tuple[Message, ...] | Defect:
    messages: list[Message] = []
    for message in turns:
        role = message.get("role")
        if role == "system":
            continue
        if role not in ("user", "assistant"):
            return Defect("unknown role", repr(role))
        messages.append(Message(role, _text(message.get("content"))))
    return in_turns(messages)


def _text(value: Any) -> str:
    """A text, a number, or the texts among a message's parts."""
    if isinstance(value, list):
        value = "\n".join(part["text"] for part in value if isinstance(part, dict) and part.get("text"))
    return "" if value is None else without_image_marks(str(value))


def _answer(row: Mapping[str, Any]) -> str:
    """The answer, or what most of several people answered, the first of them in a tie."""
    given = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if not isinstance(given, list):
        return _text(given)
    answers = [_text(one.get("answer") if isinstance(one, dict) else one) for one in given]
    return Counter(answers).most_common(1)[0][0] if answers else ""


def _bare(question: str) -> str:
    return question.removesuffix(SHORT_ANSWER_INSTRUCTION).rstrip()
