"""Tests the removal of `<image>` tokens from texts; items of LLaVA's format are tested with the code that uses them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.images.conversations import strip_image_tokens


@given(st.lists(st.sampled_from(["<image>", "<ima", "ge>", "\n", "word", " "])).map("".join))
def test_no_mark_is_left_in_a_text(text: str) -> None:
    clean = strip_image_tokens(text)
    assert "<image>" not in clean
    assert strip_image_tokens(clean) == clean
    assert "<image>" in text or clean == text.strip()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("One\n<image>\ntwo", "One\ntwo"),
        ("See <image> here", "See  here"),
        ("<ima<image>ge>What?", "What?"),
    ],
)
def test_a_mark_takes_one_line_break_with_it(text: str, clean: str) -> None:
    assert strip_image_tokens(text) == clean
