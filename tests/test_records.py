from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import compact_hf
from compact_hf.capabilities import CAPABILITIES
from compact_hf.images.conversations import Defect
from compact_hf.images.reasons import ImageReason, RowReason
from compact_hf.records import (
    Conversation,
    Draft,
    ImageInfo,
    Reject,
    Row,
    Turn,
    Verdict,
    digest,
    from_json,
    to_json,
)

# Hypothesis builds the records from their type hints, so that new fields are tested automatically.
records = st.one_of(*(st.builds(kind) for kind in (ImageInfo, Draft, Verdict, Turn, Reject, Conversation)))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(records)
def test_json_there_and_back_is_the_same_record(record: Any) -> None:
    text = to_json(record)
    assert from_json(type(record), text) == record
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"capabilities": ["color"]}', '{"capabilities": "color", "answer": "red"}']
)
def test_what_is_no_such_record_raises(text: str) -> None:
    with pytest.raises(ValidationError):
        from_json(Verdict, text)


def test_records_cannot_be_changed() -> None:
    verdict = Verdict(("color",), "red")
    with pytest.raises(FrozenInstanceError):
        verdict.answer = "blue"  # type: ignore[misc]


def test_rows_are_equal_whatever_reads_their_picture() -> None:
    assert Row(id="1", messages=(), source="compact", read_images=(lambda: b"a",)) == Row(
        id="1", messages=(), source="compact", read_images=(lambda: b"b",)
    )


@given(st.lists(json_values, max_size=3))
def test_digests_depend_on_nothing_but_the_value(parts: list[Any]) -> None:
    assert digest(*parts) == digest(*json.loads(json.dumps(parts)))
    assert len(digest(*parts)) == 32
    assert digest(*parts, length=12) == digest(*parts)[:12]


def test_digests_tell_parts_apart() -> None:
    assert len({digest("a", "b"), digest("ab"), digest(["a", "b"]), digest("b", "a"), digest("a", "b", None)}) == 5


def test_digests_are_the_same_on_every_machine() -> None:
    """These ids are in published datasets: another digest would give the same rows other ids."""
    text = json.dumps([1, "é", list(CAPABILITIES)], ensure_ascii=False, separators=(",", ":"))
    assert digest(1, "é", list(CAPABILITIES)) == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})


def test_what_is_dropped_is_dropped_for_a_reason_of_an_enum() -> None:
    package = Path(compact_hf.__file__).parent
    words = [
        f"{path.relative_to(package)}:{node.lineno}: {argument.value!r}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for position in [{"Reject": 1, "Defect": 0, "ImageError": 0}.get(node.func.id)]
        if position is not None and isinstance(argument := node.args[position], ast.Constant)
    ]
    assert words == []


def test_a_reason_prints_and_is_hashed_as_its_words() -> None:
    reason = ImageReason.EMPTY
    assert (str(reason), repr(reason), json.dumps(reason)) == ("empty file", "'empty file'", '"empty file"')
    assert repr(Defect(RowReason.NO_IMAGE)) == "Defect(reason='no picture', detail='')"
