"""Tests that no text from outside reaches a terminal with its control characters."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.cli import console
from compact_hf.cli.main import main
from compact_hf.cli.parser import Parser
from compact_hf.escaping import escape_controls, escape_line
from compact_hf.reports.table import Table

HOSTILE = "a\x1b[31mred\r\x9b2J\u202efdp.exe\u200b\x07\x7f"
VISIBLE = r"a\x1b[31mred\r\x9b2J\u202efdp.exe\u200b\x07\x7f"


def is_harmless(text: str) -> bool:
    """Return whether a text has no control characters but line ends and tabs, and nothing that reorders text."""
    return all(
        character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        for character in text
    ) and not {"\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\U000e0041"} & set(text)


@given(st.text(st.characters(codec=None)))
def test_no_control_character_is_left_and_escaping_again_changes_nothing(text: str) -> None:
    escaped = escape_line(text)
    assert is_harmless(escaped)
    assert "\n" not in escaped
    assert escape_line(escaped) == escaped
    assert escape_controls(text).replace("\n", r"\n") == escaped


@pytest.mark.parametrize(
    "text", ["写真　2024", "naïve café", "👩‍👩‍👧", "می‌خواهم", "עברית", "a\tb", r"C:\new", "50\xa0%"]
)
def test_names_in_any_script_stay_as_they_are(text: str) -> None:
    assert escape_line(text) == text


def draw_bar(text: str) -> None:
    with console.ProgressBar(text) as bar:
        bar.show(1, 1, text)
        bar.log_note(text)
        bar.warn_throttled(text)


def fail(text: str) -> None:
    with pytest.raises(SystemExit):
        Parser(prog="compact").error(text)


@pytest.mark.parametrize(
    "show",
    [
        console.log,
        console.print_data,
        lambda text: console.print_table([text, "count"], [[text, 1]]),
        lambda text: console.print_summary([text, Table(["name"], [[text]])]),
        draw_bar,
        fail,
    ],
    ids=["log", "print_data", "print_table", "print_summary", "progress lines", "usage error"],
)
def test_everything_that_is_printed_is_cleaned(show: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    show(HOSTILE)
    printed = "".join(capsys.readouterr())
    assert is_harmless(printed)
    assert VISIBLE in printed


def test_a_bar_on_a_terminal_shows_no_control_characters_but_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with console.ProgressBar("images") as bar:
        bar.show(0, 2)
        bar.show(1, 2, HOSTILE)
        bar.log_note(HOSTILE)
    printed = capsys.readouterr().err.replace("\r", "").replace("\x1b[A", "")
    assert is_harmless(printed)
    assert VISIBLE in printed


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({HOSTILE: HOSTILE})
    printed = capsys.readouterr().out
    assert is_harmless(printed)
    assert json.loads(printed) == {HOSTILE: HOSTILE}


def test_an_error_about_a_hostile_file_name_is_one_harmless_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / f"{HOSTILE}\nsecond line"
    directory.mkdir()
    assert main(["validate", str(directory)]) == 1
    assert main(["status", str(directory)]) == 2
    printed = "".join(capsys.readouterr())
    assert is_harmless(printed)
    assert rf"{VISIBLE}\nsecond line" in printed
