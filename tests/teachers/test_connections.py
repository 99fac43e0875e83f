"""Connections of our own find the proxies that httpx's client would, and say what is wrong in words without secrets."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest

from compact_hf.errors import TeacherError
from compact_hf.teachers.base import Failure, Reply
from compact_hf.teachers.gemini import Gemini
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.teachers.asking import ask_all, draft_request

COMBINATION = ("color", "counting")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


@pytest.mark.parametrize(
    ("variable", "prefix"), [("http_proxy", ""), ("http_proxy", "http://"), ("ALL_PROXY", "http://")]
)
def test_a_proxy_of_the_environment_is_asked_however_it_is_written(
    variable: str, prefix: str, server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, prefix + server.url.removeprefix("http://"))
    (reply,) = ask_all(Gemini(url="http://gemini.invalid"), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)
    monkeypatch.setenv("no_proxy", "gemini.invalid")
    (failure,) = ask_all(Gemini(url="http://gemini.invalid"), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)


def test_a_proxy_that_cannot_be_used_is_said_without_its_password(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "gopher://user:secret@proxy.invalid")
    with pytest.raises(TeacherError, match="the proxy that the environment names for http://") as excinfo:
        ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    assert "secret" not in "".join(traceback.format_exception(excinfo.value))


def test_what_keeps_from_a_server_is_said(server: GeminiServer) -> None:
    # No TLS there: as with a certificate that is not trusted, it is OpenSSL that says what is wrong.
    (failure,) = ask_all(Gemini(url=server.url.replace("http://", "https://")), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)
    assert "[SSL: " in failure.message
