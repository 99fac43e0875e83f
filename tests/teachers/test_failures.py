"""Tests of what the errors of services mean: a table for both protocols, over HTTP, in the services' own words."""

from __future__ import annotations

import pytest
from starlette.responses import JSONResponse, Response

from compact_hf.errors import CompactError, StoppedEarly, TeacherError
from compact_hf.teachers.base import Failure, FailureKind, Reply
from compact_hf.teachers.gemini import Gemini
from compact_hf.teachers.openai import OpenAI
from compact_hf.testing import gemini, openai
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.openai import OpenAIServer
from compact_hf.testing.scripted_model import KEY, ModelRequest
from tests.teachers.asking import ask_all, draft_request


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask_gemini(response: Response) -> Reply | Failure:
    with GeminiServer(fault=lambda request, number: response) as server:
        (answer,) = ask_all(Gemini(url=server.url), [draft_request(("color", "counting"))])
    return answer


def ask_openai(response: Response) -> Reply | Failure:
    with OpenAIServer(fault=lambda request, number: response) as server:
        (answer,) = ask_all(OpenAI("m", url=server.url), [draft_request(("color", "counting"))])
    return answer


EXCEEDED = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/usage?tab=rate-limit. \n* Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: {limit}, model: gemini-2.5-flash\n"
    "Please retry in 34.07s."
)
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"


def gemini_quota(limit: int, quota_id: str) -> Response:
    return gemini.error_response(
        429, "RESOURCE_EXHAUSTED", EXCEEDED.format(limit=limit), quota=(quota_id, limit), retry_delay_s=34
    )


DISABLED = gemini.error_response(
    403,
    "PERMISSION_DENIED",
    "Generative Language API has not been used in project 123 before or it is disabled.",
    reason="SERVICE_DISABLED",
    metadata={"activationUrl": "https://console.developers.google.com/apis/api/x/overview?project=123"},
)


@pytest.mark.parametrize(
    ("response", "error_type", "words"),
    [
        (
            gemini_quota(250, PER_DAY),
            StoppedEarly,
            "the daily quota (250 requests) is used up; the same command resumes",
        ),
        (gemini_quota(0, PER_DAY), TeacherError, "the quota of this key for this model is 0"),
        (
            gemini.error_response(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
            TeacherError,
            "the account has no credit left",
        ),
        (
            gemini.error_response(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
            TeacherError,
            "is not offered in the country of this machine",
        ),
        (
            gemini.error_response(400, "INVALID_ARGUMENT", "Thinking level is not supported for this model."),
            TeacherError,
            "does not support the thinking level",
        ),
        (
            gemini.error_response(400, "INVALID_ARGUMENT", "JSON mode is not enabled for models/gemma-3"),
            TeacherError,
            "cannot reply in JSON of a schema",
        ),
        (DISABLED, TeacherError, "enable it at https://console.developers.google.com/apis/api/x/overview?project=123"),
        (
            gemini.error_response(400, "INVALID_ARGUMENT", "API key expired.", reason="API_KEY_INVALID"),
            TeacherError,
            "needs a valid key (400): set GEMINI_API_KEY",
        ),
        (gemini.error_response(403, "PERMISSION_DENIED", "no"), TeacherError, "this key gives no access"),
    ],
)
def test_gemini_errors_that_end_a_run(response: Response, error_type: type[CompactError], words: str) -> None:
    with pytest.raises(error_type) as excinfo:
        ask_gemini(response)
    assert type(excinfo.value) is error_type
    assert words in str(excinfo.value)
    assert "set GEMINI_API_KEY" not in str(excinfo.value) or "key (400)" in words


@pytest.mark.parametrize(
    ("response", "error_type", "words"),
    [
        (openai.error_response(402, "Insufficient Balance"), TeacherError, "has no credit left (402: Insufficient"),
        (
            openai.error_response(429, "You exceeded your current quota", code="insufficient_quota", retry_after_s=1),
            TeacherError,
            "has no credit left",
        ),
        (
            openai.error_response(429, "Rate limit exceeded: free-models-per-day. Add credits", retry_after_s=1),
            StoppedEarly,
            "the daily quota is used up; the same command resumes tomorrow",
        ),
        (
            JSONResponse({"error": {"code": 402, "message": "Insufficient credits"}}),
            TeacherError,
            "has no credit left (402: Insufficient credits)",
        ),
        (
            openai.error_response(400, "response_format json_schema is not supported by this model"),
            TeacherError,
            "cannot reply in JSON of a schema",
        ),
        (
            openai.error_response(400, "This model does not support response_format `json_schema`"),
            TeacherError,
            "cannot reply in JSON of a schema",
        ),
        (openai.error_response(400, "m is not a multimodal model"), TeacherError, "does not read images"),
        (openai.error_response(404, "model not found"), TeacherError, "was not found at"),
        (Response("<html><title>Not here</title>", status_code=404), TeacherError, "an HTML page titled 'Not here'"),
    ],
)
def test_openai_errors_that_end_a_run(response: Response, error_type: type[CompactError], words: str) -> None:
    with pytest.raises(error_type) as excinfo:
        ask_openai(response)
    assert type(excinfo.value) is error_type
    assert words in str(excinfo.value)


def openai_choice(**choice: object) -> Response:
    usage = {"prompt_tokens": 900, "completion_tokens": 12}
    message = {"role": "assistant", "content": ""}
    return JSONResponse({"choices": [{"index": 0, "message": message, **choice}], "usage": usage})


@pytest.mark.parametrize(
    ("response", "kind", "retry_after", "words"),
    [
        # 200 with an error in the body, or in the choice, as gateways report the servers behind them.
        (
            JSONResponse({"error": {"message": "Provider returned error", "code": 502}}),
            "TRANSIENT",
            None,
            "502 Provider",
        ),
        (JSONResponse({"error": {"message": "slow down", "code": 429}}), "OVERLOADED", None, "429 slow down"),
        (JSONResponse({"error": {"message": "upstream timed out"}}), "TRANSIENT", None, "upstream timed out"),
        (JSONResponse({"error": "the engine died"}), "TRANSIENT", None, "the engine died"),
        (openai_choice(error={"message": "provider died", "code": 502}), "TRANSIENT", None, "502 provider died"),
        (openai_choice(finish_reason="error"), "TRANSIENT", None, "finish reason error"),
        (openai_choice(finish_reason="stop"), "TRANSIENT", None, "empty"),
        *(
            (openai.error_response(code, "x"), "TRANSIENT", None, f"{code} x")
            for code in (408, 409, 425, 499, 500, 504)
        ),
        *((openai.error_response(code, "x", retry_after_s=3), "OVERLOADED", 3.0, "x") for code in (429, 503, 529)),
        (
            openai.error_response(429, "Limit on requests per day (RPD). Please try again in 8.64s.", retry_after_s=9),
            "OVERLOADED",
            9.0,
            "per day",
        ),
        # What nobody explains: rejected, and a run in which all are rejected ends.
        (openai.error_response(400, "odd"), "REJECTED", None, "400 odd"),
        (openai.error_response(418, "odd"), "REJECTED", None, "418 odd"),
        (Response("<html>413 too large</html>", status_code=413), "REJECTED", None, "--max-edge"),
        (Response("<!DOCTYPE html><title>Log in</title>"), "TRANSIENT", None, "an HTML page titled 'Log in'"),
    ],
)
def test_openai_errors_that_concern_an_attempt(
    response: Response, kind: str, retry_after: float | None, words: str
) -> None:
    failure = ask_openai(response)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.retry_after) == (FailureKind[kind], retry_after)
    assert words in failure.message


@pytest.mark.parametrize(
    ("response", "kind", "retry_after", "words"),
    [
        (gemini.content_response(None), "TRANSIENT", None, "empty"),
        (gemini.content_response(""), "TRANSIENT", None, "empty"),
        (gemini_quota(10, PER_MINUTE), "OVERLOADED", 34.0, "generate_content_free_tier_requests, limit: 10"),
        (gemini.error_response(499, "CANCELLED", "cancelled"), "TRANSIENT", None, "499 cancelled"),
        (gemini.error_response(400, "INVALID_ARGUMENT", "odd"), "REJECTED", None, "400 odd"),
        (Response("<html><title>Log in</title>"), "TRANSIENT", None, "an HTML page titled 'Log in'"),
    ],
)
def test_gemini_errors_that_concern_an_attempt(
    response: Response, kind: str, retry_after: float | None, words: str
) -> None:
    failure = ask_gemini(response)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.retry_after) == (FailureKind[kind], retry_after)
    assert words in failure.message


CONTEXT = "This model's maximum context length is 4096 tokens. However, you requested 5120 tokens."


@pytest.mark.parametrize(
    ("response", "refused", "is_fault"),
    [
        (
            openai.error_response(400, "Invalid image data.", code="invalid_image_format"),
            "refused by the teacher (invalid_image_format: Invalid image data.)",
            True,
        ),
        (
            openai.error_response(400, CONTEXT, code="context_length_exceeded"),
            f"refused by the teacher (context_length_exceeded: {CONTEXT})",
            True,
        ),
        (
            JSONResponse({"object": "error", "message": CONTEXT, "type": "BadRequestError"}, status_code=400),
            f"refused by the teacher (BadRequestError: {CONTEXT})",
            True,
        ),
        (
            openai.error_response(403, "Your chosen model requires moderation and your input was flagged."),
            "refused by the teacher (invalid_request_error: Your chosen model requires moderation and your input was "
            "flagged.)",
            False,
        ),
    ],
)
def test_openai_errors_that_concern_one_image(response: Response, refused: str, is_fault: bool) -> None:
    reply = ask_openai(response)
    assert isinstance(reply, Reply)
    assert (reply.refused, reply.text, reply.is_fault) == (refused, "", is_fault)


def test_gemini_errors_that_concern_one_image() -> None:
    for message in ("Unable to process input image.", "The input token count (9) exceeds the maximum number of tokens"):
        reply = ask_gemini(gemini.error_response(400, "INVALID_ARGUMENT", message))
        assert isinstance(reply, Reply)
        assert (reply.refused, reply.is_fault) == (f"refused by the teacher (INVALID_ARGUMENT: {message})", True)


def test_what_was_billed_without_a_result_is_known() -> None:
    """An empty reply has its tokens; a damaged one has none, so that the budget estimates them."""
    empty = ask_openai(openai_choice(finish_reason="stop"))
    assert isinstance(empty, Failure)
    assert empty.billed is not None
    assert (empty.billed.input_tokens, empty.billed.output_tokens, empty.billed.has_usage) == (900, 12, True)
    assert empty.is_last_resort
    for answer in (
        ask_openai(Response('{"choices": [{"mess', media_type="application/json")),
        ask_gemini(Response('{"candidates": [{"con', media_type="application/json")),
    ):
        assert isinstance(answer, Failure)
        assert answer.billed is not None
        assert not answer.billed.has_usage
        assert not answer.is_last_resort
    for unbilled in (ask_openai(openai.error_response(500, "oops")), ask_openai(Response("<html>a page</html>"))):
        assert isinstance(unbilled, Failure)
        assert unbilled.billed is None


def test_a_server_that_knows_no_store_is_asked_without_it_from_then_on() -> None:
    def refuse_store(request: ModelRequest, number: int) -> Response | None:
        if "store" not in request.body:
            return None
        detail = [{"type": "extra_forbidden", "loc": ["body", "store"], "msg": "Extra inputs are not permitted"}]
        return JSONResponse({"detail": detail}, status_code=422)

    with OpenAIServer(fault=refuse_store) as server:
        teacher = OpenAI("m", url=server.url)
        answers = ask_all(teacher, [draft_request(("color", "counting"), round=number) for number in range(4)])
        assert all(isinstance(answer, Reply) for answer in answers)
        first_wave = len(server.requests)
        assert first_wave <= 8
        ask_all(teacher, [draft_request(("color", "counting"), round=9)])
        assert len(server.requests) == first_wave + 1


def test_a_server_that_refuses_store_for_ever_is_asked_twice_only() -> None:
    response = JSONResponse({"detail": "store and everything else is wrong"}, status_code=422)
    with OpenAIServer(fault=lambda request, number: response) as server:
        (failure,) = ask_all(OpenAI("m", url=server.url), [draft_request(("color", "counting"))])
        assert len(server.requests) == 2
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.REJECTED
