"""Tests how replies are read: what may surround the JSON of a reply, and what is never repaired or guessed."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from compact_hf.methods.compact.prompts import BlindReply, DraftReply, DraftsReply, VerdictReply, VerdictsReply
from compact_hf.teachers.reader import find_json, is_complete_json, parse_json_reply, read_text

DRAFT = {"question": 'What color is the "{" sign?', "answer": "red", "confidence": 80}
DRAFT_JSON = json.dumps(DRAFT)
DRAFTS = [{"number": number, "supported": True, **DRAFT} for number in (1, 2)]
DRAFTS_JSON = json.dumps({"drafts": DRAFTS})


@pytest.mark.parametrize(
    "text",
    [
        DRAFT_JSON,
        json.dumps(DRAFT, indent=2),
        f"<think>The sign {{a}} is red: maybe {DRAFT_JSON}?</think>\n{DRAFT_JSON}",
        f"The sign is red.</think>{DRAFT_JSON}",  # the prompt has the start of the thinking
        f"<think></think><think>once more</think>{DRAFT_JSON}",
        f"<Thinking>red [1]</Thinking>\n{DRAFT_JSON}",
        f"◁think▷red◁/think▷{DRAFT_JSON}",
        f"Here you are:\n{DRAFT_JSON}\nI hope [that] helps {{you}}, see [1].",
        f"Here you are:\n```json\n{DRAFT_JSON}\n```\nThat is all.",
        f"```python\n{DRAFT_JSON}\n```",
        f"<answer>{DRAFT_JSON}</answer>",
        f"\ufeff{DRAFT_JSON}",
        *(
            f"{DRAFT_JSON}{token}"
            for token in ("<|im_end|>", "</s>", "\n<|eot_id|>\n", "<end_of_turn>", "</s></s> <eos>")
        ),
        f"<think>red</think>\n```json\n{DRAFT_JSON}\n```<|im_end|>",
    ],
)
def test_what_surrounds_json_is_left_out(text: str) -> None:
    assert parse_json_reply(DraftReply, text) == DraftReply(**DRAFT)
    if DRAFT_JSON in text:
        drafts = parse_json_reply(DraftsReply, text.replace(DRAFT_JSON, DRAFTS_JSON)).drafts
        assert [draft.number for draft in drafts] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see a sign.",
        "<think>",
        f"<think>The answer is {DRAFT_JSON}",  # ended while thinking
        f"<think>a</think>{DRAFT_JSON}<think>b</think>",
        DRAFT_JSON + DRAFT_JSON,
        f"First: {DRAFT_JSON}\nOr: {json.dumps(DRAFT | {'answer': 'blue'})}",
        f"```json\n{DRAFT_JSON}\n```\n```json\n{DRAFT_JSON}\n```",
        f"```json\n{DRAFT_JSON}",  # the fence was truncated, so the content may be too
        f"{DRAFT_JSON}\n```",
        f"{DRAFT_JSON} {{",
        f"{{{DRAFT_JSON}}}",
        f"[note: {DRAFT_JSON}]",
        DRAFT_JSON.replace('"', "'"),
        DRAFT_JSON.replace("}", ",}"),
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_nothing_is_guessed(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_json_reply(DraftReply, text)


@given(st.integers(0, len(DRAFTS_JSON) - 1), st.sampled_from(["", "Sure: ", "```json\n", "<think>so</think>"]))
def test_json_that_was_cut_is_never_repaired(length: int, before: str) -> None:
    """A complete draft in the list is not taken out of it, by no schema."""
    text = before + DRAFTS_JSON[:length]
    assert not is_complete_json(text)
    for schema in (DraftReply, DraftsReply):
        with pytest.raises(ValidationError):
            parse_json_reply(schema, text)


def test_a_bare_list_is_the_field_of_a_schema_that_has_one() -> None:
    verdicts = [{"number": 1, "capabilities": ["color"], "answer": "red"}]
    for text in (json.dumps(verdicts), f"See [1] and [2]:\n```json\n{json.dumps(verdicts)}\n```"):
        assert parse_json_reply(VerdictsReply, text).verdicts[0].answer == "red"
    for schema, text in (
        (BlindReply, '["red"]'),
        (VerdictReply, json.dumps(verdicts)),
        (DraftsReply, json.dumps(verdicts)),
    ):
        with pytest.raises(ValidationError):
            parse_json_reply(schema, text)

    class Tags(BaseModel):
        tags: list[str]

    assert parse_json_reply(Tags, 'The tags: ["a", "b"]').tags == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "percent"), [("0.85", 85), ("0.005", 0), ("0.999", 100), ("1e-1", 10), ("1", 1), ("0", 0), ("100", 100)]
)
def test_a_confidence_between_0_and_1_is_a_fraction(written: str, percent: int) -> None:
    text = DRAFT_JSON.replace("80", written)
    assert parse_json_reply(DraftReply, text).confidence == percent
    drafts = parse_json_reply(DraftsReply, DRAFTS_JSON.replace("80", written)).drafts
    assert [draft.confidence for draft in drafts] == [percent] * 2


@pytest.mark.parametrize("written", ["1.0", "85.5", "-0.5", "101", "true", '"0.85"', "null", "NaN", "1e400"])
def test_another_confidence_is_none(written: str) -> None:
    with pytest.raises(ValidationError):
        parse_json_reply(DraftReply, DRAFT_JSON.replace("80", written))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>It is red.</think>\n\nRed.<|im_end|>\n", "Red."),
        ("Red </s>", "Red"),
        ("<think>It is", ""),
        ("I <b>think</b> so", "I <b>think</b> so"),
        ("a <|x|> b", "a <|x|> b"),
    ],
)
def test_free_text_is_read_without_thinking_and_end_tokens(text: str, expected: str) -> None:
    assert read_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("{" * 500_000, "[a]" * 200_000, "{} " * 200_000, "[1]" * 200_000, " " * 500_000 + "x"),
        *(
            "</s> " * 100_000 + "x",
            "</s> " * 100_000,
            '{"' + '\\"' * 300_000,
            "<think>" * 100_000,
            "</think>" * 100_000,
        ),
    ],
    ids=lambda text: text[:4],
)
def test_long_replies_take_no_time(text: str) -> None:
    start = time.process_time()
    find_json(text)
    assert time.process_time() - start < 1
