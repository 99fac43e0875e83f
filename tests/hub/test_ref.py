"""Tests parsing references to repositories: text of any other form is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.hub.ref import RepoRef

NAMES = st.from_regex(r"[A-Za-z0-9][\w.-]{0,30}", fullmatch=True)
REVISIONS = st.none() | st.from_regex(r"[A-Za-z0-9][\w./@-]{0,30}", fullmatch=True)


@given(NAMES, NAMES, REVISIONS)
def test_what_is_written_is_read_again(owner: str, name: str, revision: str | None) -> None:
    ref = RepoRef(f"{owner}/{name}", revision)
    assert RepoRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpt2",
        "a/b/c",
        "/a/b",
        "./a/b",
        "./a",
        "../a",
        "a/..",
        "~/a/b",
        "a b/c",
        "a/b@",
        "a/b@main x",
        "https://x/a",
        "a/b ",
        "a@b/c",
    ],
)
def test_what_has_another_form_is_no_repository(text: str) -> None:
    assert RepoRef.parse(text) is None
