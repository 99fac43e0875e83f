"""Tests that hostile JSON and YAML is refused within seconds, and that all other text is parsed as usual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.parsing import MAX_DEPTH, parse_json, parse_yaml, read_json, read_yaml

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in zip("abcdefg", "bcdefgh", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{last}'] * 9)}]}}\n"
    for last, name in zip("abcdefg", "bcdefgh", strict=True)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_what_is_not_hostile_is_read_as_it_is(value: Any, is_ascii: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=is_ascii)) == value


@given(st.text('"\\[]{}a'))
def test_brackets_in_strings_are_no_nesting(text: str) -> None:
    value = [text, "[" * 200, [text] * 3, {text: text}, '"[' * 200, "\\" * 3]
    assert parse_json(json.dumps(value)) == value


@given(VALUES)
def test_yaml_is_read_as_by_the_safe_loader(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(text) == yaml.safe_load(text)


def nest(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_the_limit_is_the_same_for_both() -> None:
    for parse in (parse_json, parse_yaml):
        assert parse(nest(MAX_DEPTH)) is not None
        with pytest.raises(ValueError, match="nested more than 100 levels deep"):
            parse(nest(MAX_DEPTH + 1))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nest(500_000), "nested more than"),
        ("[" * 500_000, "nested more than"),
        ('{"a":' * 500_000, "nested more than"),
        ('["\\"[[",' * 500_000, "nested more than"),
        ("[" + "9" * 100_000 + "]", "4300 digits"),
        ("nonsense", "Expecting value"),
    ],
)
def test_hostile_json_is_refused_in_one_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=reason) as excinfo:
        read_json(tmp_path / "file.json")
    assert "\n" not in str(excinfo.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nest(300_000), "nested more than"),
        ("[" * 300_000, "nested more than"),
        ("- " * 300_000, "nested more than"),
        ("\n".join(f"{' ' * level}a:" for level in range(1000)), "nested more than"),
        (ALIASES, "more than 100000 values"),
        (MERGES, "more than 100000 values"),
        ("a: &a [*a]", "contains itself"),
        ("!!int 1" + ":1" * 200_000, "more than 1000 characters"),
        ("!!float 9" + "9" * 5000, "more than 1000 characters"),
        ("a: 2026-13-01", "month must be in 1..12"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("a: [", "content"),
        ("a: b\n" * 300_000, "larger than 1 MB"),
    ],
)
def test_hostile_yaml_is_refused_in_one_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason) as excinfo:
        read_yaml(tmp_path / "file.yaml")
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("text", ["1" + ":1" * 200_000, "9" * 5000])
def test_a_number_of_thousands_of_characters_is_text(text: str) -> None:
    assert parse_yaml(text) == text


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ValueError, match="larger than 64 MB"):
        read_json(file)
