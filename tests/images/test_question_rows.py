"""Tests that `annotate`, `evaluate` and `analyze` read the same questions and answers from a file in any format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.evaluation.analysis.readers import read_dataset
from compact_hf.images.address import Address
from compact_hf.images.conversations import Defect
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.question_rows import Exchange, detect_labelled_format, detect_row_format, read_exchanges
from compact_hf.images.questions import read_dataset_questions
from tests.evaluation.samples import load_questions
from tests.training.samples import draw_image

FIRST = f"<image>\nWhat is it?\n{SHORT_ANSWER_INSTRUCTION}"
CONVERSATION = [(FIRST, "a cat"), ("How many?", "3")]
NEEDS = ["color", "counting"]
SHAPES: dict[str, dict[str, Any]] = {
    "turns": {"turns": [{"question": q, "answer": a, "capabilities": NEEDS} for q, a in CONVERSATION]},
    "messages": {
        "messages": [
            {"role": role, "content": text}
            for pair in CONVERSATION
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    },
    "conversations": {
        "conversations": [
            {"from": role, "value": text}
            for pair in CONVERSATION
            for role, text in zip(("human", "gpt"), pair, strict=True)
        ]
    },
    "parts of messages": {
        "messages": [
            {
                "role": role,
                "content": [*([{"type": "image", "text": None}] * (role == "user")), {"type": "text", "text": text}],
            }
            for pair in CONVERSATION
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    },
    "texts": {"texts": [{"user": question, "assistant": answer} for question, answer in CONVERSATION]},
    "question": {"question": FIRST, "answer": "a cat"},
    "several answers": {"question": FIRST, "answers": ["a dog", "a cat", "", "a cat "]},
    "answers of people": {
        "question": FIRST,
        "answers": [{"answer": text, "annotator": 1} for text in ("a dog", "a cat", "a cat", "")],
    },
    "answers beside a null answer": {"question": FIRST, "answer": None, "answers": ["a cat"]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_all_three_read_the_same_questions_from_one_file(shape: str, tmp_path: Path) -> None:
    from datasets import Dataset, Image

    rows = [
        {"image": {"bytes": draw_image(color), "path": None}, "image_id": color, "capabilities": NEEDS, **SHAPES[shape]}
        for color in ("red", "blue")
    ]
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "train-00000-of-00001.parquet"
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(file)

    source = read_dataset_questions(DatasetSource(Address(str(tmp_path / "data"), on_hub=False)))
    annotated = [
        (exchange.question, exchange.answer)
        for ref in source.refs()
        for row in source.read_rows(ref)
        for exchange in row.exchanges
    ]
    evaluated = load_questions(str(tmp_path / "data"), split="train").questions
    analyzed = [
        question
        for row in read_dataset(str(tmp_path / "data"), config=None, split=None).iter_rows()
        for question in row.questions
    ]

    expected = [("What is it?", "a cat"), ("How many?", "3")][: 1 if "question" in SHAPES[shape] else 2] * 2
    assert annotated == expected
    assert [(question.question, question.answers[0]) for question in evaluated] == expected
    assert [(question.question, question.answer) for question in analyzed] == expected
    assert {question.capabilities for question in evaluated} == {("color", "counting")}
    assert {question.capabilities for question in analyzed} == {("color", "counting")}
    assert {question.k for question in evaluated} == {2}
    assert len({question.id for question in evaluated}) == len(expected)


def test_rows_without_turns_are_read_from_their_messages(tmp_path: Path) -> None:
    from datasets import Dataset, Image

    turns = [{"question": "What is written?", "answer": "nothing"}]
    parts: list[dict[str, Any]] = [
        {"turns": turns, **SHAPES["messages"]},
        {"turns": [], **SHAPES["messages"]},
        {"turns": None, **SHAPES["messages"]},
    ]
    rows = [{"image": {"bytes": draw_image("red"), "path": None}, **part} for part in parts]
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    source = read_dataset_questions(DatasetSource(Address(str(tmp_path), on_hub=False)))
    (ref,) = source.refs()
    assert [[exchange.question for exchange in row.exchanges] for row in source.read_rows(ref)] == [
        ["What is written?"],
        ["What is it?", "How many?"],
        ["What is it?", "How many?"],
    ]


def test_right_answers_are_different_and_those_most_people_gave_come_first() -> None:
    row = {"query": "Which?", "label": ["b", "a", 3, "a", None, " "], "needs": ["color"], "level": 1}
    mapping = {"question": "query", "answer": "label", "capabilities": "needs", "k": "level"}
    assert read_exchanges(row, "question", mapping) == (Exchange("Which?", ("a", "b", "3"), ["color"], 1),)


def test_a_turn_says_what_it_needs_before_its_row_does() -> None:
    turns = [{"question": "?", "answer": "a", "capabilities": ["color"]}, {"question": "?", "answer": None}]
    exchanges = read_exchanges({"turns": turns, "capabilities": ["shape"], "k": 2}, "turns")
    assert not isinstance(exchanges, Defect)
    assert [(item.answers, item.capabilities, item.k) for item in exchanges] == [
        (("a",), ["color"], 2),
        ((), ["shape"], 2),
    ]


def test_a_question_with_an_answer_is_judged_rather_than_the_conversation_beside_it() -> None:
    assert detect_labelled_format(["messages", "question", "answers"]) == "question"
    assert detect_labelled_format(["messages", "question"]) == detect_row_format(["messages", "question"]) == "messages"
    assert detect_labelled_format(["turns", "question", "answer"]) == "turns"
