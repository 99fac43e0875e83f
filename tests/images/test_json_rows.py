"""Tests that JSON lists and JSON lines are read row by row, and that an error names the line or row."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import UsageError
from compact_hf.images.json_rows import iter_json_rows

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["id", "image", "é"]), VALUES, max_size=3), min_size=1, max_size=5)


def read_text(text: str | bytes, directory: str | Path) -> list[Any]:
    file = Path(directory) / "rows.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(iter_json_rows(file))


@given(ROWS, st.sampled_from([None, 1]), st.booleans())
def test_all_forms_of_a_file_have_the_same_rows(rows: list[Any], indent: int | None, ensure_ascii: bool) -> None:
    list_text = json.dumps(rows, indent=indent, ensure_ascii=ensure_ascii)
    lines_text = "\r\n".join(json.dumps(row, ensure_ascii=ensure_ascii) for row in rows)
    with tempfile.TemporaryDirectory() as directory:
        for text in (list_text, lines_text):
            assert read_text(text, directory) == read_text(f"\ufeff{text}\n\n", directory) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows that can be read (it is empty)"),
        ("id,image\n", "has no rows that can be read (it begins with 'i')"),
        ("[1]".encode("utf-16"), "has no rows that can be read (it begins with"),
        (
            '[{"a": 1},\n{"a": 2},\n{"a" 3}]',
            "row 2: not valid JSON (parse error: object key and value must be separated",
        ),
        ('[{"a": 1}, {"a', "row 1: not valid JSON (parse error: premature EOF)"),
        ('[{"a": 1}\n\n', "row 1: not valid JSON (parse error: premature EOF)"),
        ('[{"a": 1}\n{"a": 2}]', "row 1: not valid JSON (parse error"),
        ('[{"a": 1}] [2]', "row 1: not valid JSON (parse error: trailing garbage)"),
        (b'[{"a": 1},\n{"a": "\xff"}]', "row 1: not valid JSON (lexical error: invalid bytes in UTF8 string.)"),
        ('{"a": 1}\n\n{"a": 2\n', "line 3: not valid JSON (Expecting ',' delimiter)"),
        ('{\n"a": 1\n}', "line 1: not valid JSON (Expecting property name enclosed in double quotes)"),
        (b'{"a": 1}\n{"a": "\xff"}', "line 2: not valid JSON (invalid start byte in UTF-8)"),
        ("[" * 200_000, "row 0: not valid JSON (it is nested more than 100 levels deep)"),
        ('{"a": ' + "[" * 200_000, "line 1: not valid JSON (it is nested more than 100 levels deep)"),
    ],
)
def test_an_error_is_one_line_with_the_file_and_the_position(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/rows.json")) as excinfo:
        read_text(text, tmp_path)
    assert message in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("text", [r'[{"a": "x\ud800"}]', r'{"a": "x\ud800"}'])
def test_half_of_a_surrogate_pair_becomes_a_question_mark(text: str, tmp_path: Path) -> None:
    assert read_text(text, tmp_path) == [{"a": "x?"}]
