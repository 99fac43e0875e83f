"""Tests which models and servers receive requests, depending on teacher, verifier and their URLs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compact_hf.errors import UsageError
from compact_hf.methods.generate import generate
from compact_hf.testing.gemini import GeminiServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    monkeypatch.setenv("GEMINI_API_KEY", "test-key")
    with GeminiServer() as gemini_server:
        yield gemini_server


def test_another_model_as_verifier_is_asked_where_the_teacher_is(
    few: Path, tmp_path: Path, server: GeminiServer
) -> None:
    generate(str(few), tmp_path / "run", teacher_url=server.url, verifier="gemini:another", limit=1)
    assert {request.role for request in server.requests} == {"teacher", "verifier"}


def test_a_verifier_of_another_protocol_is_not_asked_there(
    few: Path, tmp_path: Path, server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="the teacher openai needs a key"):
        generate(str(few), tmp_path / "run", teacher_url=server.url, verifier="openai:m", limit=1)
    assert not server.requests
