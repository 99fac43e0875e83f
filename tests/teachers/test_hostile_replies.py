"""Tests of invalid replies, such as those of proxies, captive portals and broken servers: only their request fails."""

from __future__ import annotations

import pytest
from starlette.responses import JSONResponse, Response

from compact_hf.teachers.base import Failure, FailureKind, Reply
from compact_hf.teachers.gemini import Gemini
from compact_hf.testing.gemini import GeminiServer, content_response
from compact_hf.testing.scripted_model import KEY
from tests.teachers.asking import ask_all, draft_request


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def ask_with_response(response: Response) -> Reply | Failure:
    with GeminiServer(fault=lambda request, number: response) as server:
        (answer,) = ask_all(Gemini(url=server.url), [draft_request(("color", "counting"))])
    return answer


@pytest.mark.parametrize("code", [200, 500])
def test_json_nested_without_end_is_a_failure(code: int) -> None:
    failure = ask_with_response(Response("[" * 200_000, status_code=code, media_type="application/json"))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TRANSIENT


def test_what_was_billed_is_a_number_that_sums_can_be_made_of() -> None:
    usage = {"promptTokenCount": 10**30, "candidatesTokenCount": -5, "thoughtsTokenCount": 3}
    candidates = {"candidates": [{"finishReason": "STOP", "content": {"parts": [{"text": "{}"}]}}]}
    reply = ask_with_response(JSONResponse({**candidates, "usageMetadata": usage}))
    assert isinstance(reply, Reply)
    assert (reply.input_tokens, reply.output_tokens) == (10**9, 3)


def test_a_finish_reason_that_the_client_does_not_know_is_a_refusal_and_no_warning() -> None:
    reply = ask_with_response(content_response('{"question": "Wh', finish="BORED"))
    assert isinstance(reply, Reply)
    assert reply.refused == "finish reason BORED"


@pytest.mark.parametrize("finish", ["MAX_TOKENS", "BORED", "OTHER"])
def test_complete_json_is_an_answer_whatever_the_finish_reason(finish: str) -> None:
    reply = ask_with_response(content_response('Here you are: {"a": 1}', finish=finish))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.refused) == ('Here you are: {"a": 1}', "")
