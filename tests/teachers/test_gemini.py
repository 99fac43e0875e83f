"""Tests of the teacher `gemini` with the real google-genai client and a local server that speaks Gemini's protocol."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from google.genai.errors import APIError
from PIL import Image
from starlette.responses import JSONResponse, Response

from compact_hf.errors import TeacherError, UsageError
from compact_hf.methods.compact.prompts import DraftsReply
from compact_hf.teachers.base import Failure, FailureKind, Reply
from compact_hf.teachers.gemini import Gemini, retry_delay
from compact_hf.testing.gemini import GeminiServer, blocked_response, content_response, error_response
from compact_hf.testing.scripted_model import KEY, ModelRequest
from tests.teachers.asking import ask_all, draft_request, photograph, verdict_request

COMBINATION = ("color", "counting")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as started:
        yield started


def ask_with_response(response: Response) -> Reply | Failure:
    """Return the result of a request to which the server answers with `response`."""
    with GeminiServer(fault=lambda request, number: response) as server:
        (answer,) = ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    return answer


def test_a_draft_comes_back_as_the_models_own_json(server: GeminiServer) -> None:
    (reply,) = ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)
    assert set(json.loads(reply.text)) == {"question", "answer", "confidence"}
    assert reply.model == "gemini:gemini-3.8-flash-double"
    assert reply.input_tokens > 258
    assert reply.output_tokens > 20  # thinking is billed as output


def test_what_is_sent_is_the_prompt_the_schema_and_a_picture_without_metadata(server: GeminiServer) -> None:
    ask_all(Gemini(url=server.url), [draft_request(COMBINATION, image=photograph(3000, 2000))])
    (request,) = server.requests
    with Image.open(io.BytesIO(request.image)) as image:
        assert image.format == "JPEG"
        assert image.size == (1024, 683)
        assert not image.getexif()
    assert b"SecretPhoneMaker" not in request.image
    assert "- color:" in request.prompt
    config = request.body["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert list(config["thinkingConfig"].values()) == ["LOW"]  # google-genai mixes thinkingLevel and thinking_level
    assert request.body["store"] is False
    assert "temperature" not in config


def test_the_verifier_is_not_led(server: GeminiServer) -> None:
    """The verifier gets only the image, the question and the ten definitions, which are the same for every question."""
    ask_all(Gemini(url=server.url), [verdict_request("QUESTION ONE"), verdict_request("ANOTHER")])
    first, second = sorted((request.prompt for request in server.requests), key=lambda prompt: "ANOTHER" in prompt)
    assert first.replace("QUESTION ONE", "") == second.replace("ANOTHER", "")
    assert "confidence" not in first


def test_many_requests_are_in_flight_together() -> None:
    with GeminiServer(latency_s=0.2) as server:
        requests = [draft_request(COMBINATION, round=number) for number in range(20)]
        answers = ask_all(Gemini(url=server.url), requests)
    assert all(isinstance(answer, Reply) for answer in answers)


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        (blocked_response(), "prompt blocked: SAFETY"),
        (content_response(None, finish="SAFETY"), "finish reason SAFETY"),
        (
            content_response('{"question": "Wh', finish="MAX_TOKENS"),
            "reply cut at the token limit (finish reason MAX_TOKENS)",
        ),
        (content_response(None, finish="RECITATION"), "finish reason RECITATION"),
        (
            error_response(400, "INVALID_ARGUMENT", "Unable to process input image"),
            "refused by the teacher (INVALID_ARGUMENT: Unable to process input image)",
        ),
        (content_response("{}", finish="SAFETY"), "finish reason SAFETY"),
    ],
)
def test_an_answer_that_was_refused_is_final_and_says_why(response: Response, refused: str) -> None:
    reply = ask_with_response(response)
    assert isinstance(reply, Reply)
    assert (reply.refused, reply.text) == (refused, "")


@pytest.mark.parametrize(
    ("response", "kind", "retry_after"),
    [
        (error_response(429, "RESOURCE_EXHAUSTED", "slow down", retry_delay_s=2), FailureKind.OVERLOADED, 2.0),
        (error_response(503, "UNAVAILABLE", "overloaded"), FailureKind.OVERLOADED, None),
        (error_response(500, "INTERNAL", "oops"), FailureKind.TRANSIENT, None),
        (content_response(None), FailureKind.TRANSIENT, None),
        (JSONResponse({"candidates": [], "usageMetadata": {"promptTokenCount": 300}}), FailureKind.TRANSIENT, None),
        (Response("<html>gateway</html>", status_code=502), FailureKind.TRANSIENT, None),
        (Response('{"candidates": [{"con', media_type="application/json"), FailureKind.TRANSIENT, None),
        (
            JSONResponse({"error": {"code": 429}}, status_code=429, headers={"Retry-After": "7"}),
            FailureKind.OVERLOADED,
            7.0,
        ),
        (error_response(500, "INTERNAL", "a\nb\x1b[31m" + "x" * 10_000), FailureKind.TRANSIENT, None),
        *((JSONResponse(body), FailureKind.TRANSIENT, None) for body in (None, [], 5, "text", {"error": "text"})),
        *(
            (JSONResponse({"error": error}, status_code=500), FailureKind.TRANSIENT, None)
            for error in (None, 5, {"message": 5})
        ),
        (JSONResponse({"error": {"details": {"a": 1}}}, status_code=500), FailureKind.TRANSIENT, None),
        (Response("no gzip", headers={"Content-Encoding": "gzip"}), FailureKind.TRANSIENT, None),
    ],
)
def test_what_may_pass_is_a_failure_for_the_engine(
    response: Response, kind: FailureKind, retry_after: float | None
) -> None:
    failure = ask_with_response(response)
    assert isinstance(failure, Failure), failure
    assert (failure.kind, failure.retry_after) == (kind, retry_after)
    assert failure.message.isprintable()
    assert len(failure.message) < 600


def test_half_a_surrogate_pair_in_an_answer_is_replaced() -> None:
    body = json.dumps({"candidates": [{"finishReason": "STOP", "content": {"parts": [{"text": "red \ud83d"}]}}]})
    reply = ask_with_response(Response(body, media_type="application/json"))
    assert isinstance(reply, Reply)
    assert reply.text == "red ?"


@pytest.mark.parametrize("code", [403, 404])
def test_not_even_a_traceback_shows_the_key_that_a_server_quotes(code: int) -> None:
    import traceback

    with pytest.raises(TeacherError) as excinfo:
        ask_with_response(error_response(code, "DENIED", f"no entry with {KEY}"))
    assert KEY not in "".join(traceback.format_exception(excinfo.value))


def test_a_wrong_key_is_refused_in_one_line_that_does_not_show_it(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "wrong-and-secret")
    with pytest.raises(TeacherError, match=r"needs a valid key \(400\): set GEMINI_API_KEY") as excinfo:
        ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    assert "wrong-and-secret" not in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


def test_an_unknown_model_is_refused(server: GeminiServer) -> None:
    with pytest.raises(TeacherError, match="no-such-model was not found"):
        ask_all(Gemini("no-such-model", url=server.url), [draft_request(COMBINATION)])


def test_a_server_that_hangs_is_given_up_after_the_time_out() -> None:
    with GeminiServer(latency_s=3) as server:
        (failure,) = ask_all(Gemini(url=server.url, timeout_s=0.2), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TRANSIENT


def test_nobody_at_the_address_is_a_failure_that_names_it() -> None:
    (failure,) = ask_all(Gemini(url="http://127.0.0.1:9"), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)
    assert "http://127.0.0.1:9 cannot be reached" in failure.message


def test_a_picture_that_is_gone_fails_alone(server: GeminiServer) -> None:
    from compact_hf.errors import SourceError
    from compact_hf.teachers.base import EncodedImage, Request

    def raise_source_error() -> bytes:
        raise SourceError("b.jpg cannot be read any more")

    good_request = draft_request(COMBINATION)
    bad_request = Request(
        "lost",
        "teacher",
        "1" * 32,
        EncodedImage(raise_source_error, ref="b.jpg", max_edge=64),
        good_request.prompt,
        good_request.schema,
    )
    reply, failure = ask_all(Gemini(url=server.url), [good_request, bad_request])
    assert isinstance(reply, Reply)
    assert failure == Failure("lost", "b.jpg cannot be read any more", FailureKind.LOST)


def test_no_key_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UsageError, match="set GEMINI_API_KEY"):
        Gemini()


def test_the_other_variable_is_taken_too(server: GeminiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    (reply,) = ask_all(Gemini(url=server.url), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://a b", "http://h:99999", "http://[::1", "http://\u0300x"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="must start with http"):
        Gemini(url=url)


def test_a_password_in_an_address_stays_there() -> None:
    (failure,) = ask_all(Gemini(url="http://me:secret@127.0.0.1:9"), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)
    assert failure.message == "http://127.0.0.1:9 cannot be reached (Connect call failed ('127.0.0.1', 9))"


@pytest.mark.parametrize("damaged", ["caf\u00e9", "two\nlines"])
def test_a_key_that_was_copied_wrongly_is_refused_unshown(damaged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", damaged)
    with pytest.raises(UsageError, match="copy it again") as excinfo:
        Gemini()
    assert damaged not in str(excinfo.value)


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ({"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.5s"}]}}, 2.5),
        ({"error": {"details": [{"@type": "type.googleapis.com/google.rpc.Help"}]}}, None),
        ({"error": {}}, None),
        ("not JSON", None),
    ],
)
def test_the_servers_own_delay_is_read(details: object, seconds: float | None) -> None:
    assert retry_delay(APIError(429, details)) == seconds


def test_the_double_refuses_what_the_service_would(server: GeminiServer) -> None:
    """Tests against a double that accepts any request would prove nothing."""
    import httpx

    url = f"{server.url}/v1beta/models/gemini-3.8-flash:generateContent"
    assert httpx.post(url, json={}, headers={"x-goog-api-key": "no"}).status_code == 400
    for schema, missing in (({}, "a response schema"), ({"properties": {"confidence": {}}}, "one image")):
        body = {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"responseSchema": schema}}
        response = httpx.post(url, json=body, headers={"x-goog-api-key": KEY})
        assert f"expected {missing}" in response.json()["error"]["message"]
    assert server.requests == []


def test_the_double_is_asked_in_the_order_of_its_log(server: GeminiServer) -> None:
    ask_all(Gemini(url=server.url), [verdict_request("What is red?")])
    assert [type(request) for request in server.requests] == [ModelRequest]


def test_what_the_client_does_not_know_yet_in_a_response_is_passed_over() -> None:
    body = {
        "candidates": [
            {
                "finishReason": "STOP",
                "content": {"parts": [{"text": "red", "mood": "sunny"}], "dialect": 1},
                "novelty": {"a": 1},
            }
        ],
        "usageMetadata": {"promptTokenCount": 5, "dreamsTokenCount": 7},
        "weather": [],
    }
    reply = ask_with_response(JSONResponse(body))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.input_tokens) == ("red", 5)


def in_camel_case(value: Any) -> Any:
    """Return JSON with all keys in camel case: google-genai mixes thinkingLevel and thinking_level, which the service
    treats as equal.

    Members that google-genai sends for some fields only are removed: titles, and property orders of one field.
    """
    if isinstance(value, list):
        return [in_camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    members = {re.sub("_(.)", lambda match: match[1].upper(), key): in_camel_case(item) for key, item in value.items()}
    return {
        key: item
        for key, item in members.items()
        if key != "title" and not (key == "propertyOrdering" and len(item) == 1)
    }


def test_a_request_is_what_the_client_itself_would_send() -> None:
    """The teacher writes the JSON itself, which must mean the same as the JSON of Google's client."""
    from google.genai import Client
    from google.genai.types import Content, HttpOptions, Part

    from compact_hf.teachers.gemini_request import config_for

    request = draft_request(COMBINATION, image=photograph(300, 200))
    hostile = replace(request, prompt='a "quoted" \\ prompt\n\u26f5 here stands the prompt \x7f')
    several = replace(request, key="several", prompt="several at once", schema=DraftsReply)

    async def send_by_client(server: GeminiServer) -> None:
        http = httpx.AsyncClient()
        options = HttpOptions(base_url=server.url, httpx_async_client=http)
        async with http, Client(api_key=KEY, http_options=options).aio as client:
            for item in (request, hostile, several):
                image_part = Part.from_bytes(data=await item.encoded_image.jpeg(), mime_type="image/jpeg")
                contents = Content(role="user", parts=[image_part, Part.from_text(text=item.prompt)])
                config = config_for(item.schema)
                await client.models.generate_content(model="gemini-3.8-flash", contents=contents, config=config)

    with GeminiServer() as server:
        ask_all(Gemini(url=server.url), [request, replace(hostile, key="other"), several])
        asyncio.run(send_by_client(server))
    ours, theirs = (
        sorted(server.requests[start : start + 3], key=lambda model_request: model_request.prompt) for start in (0, 3)
    )
    for our, their in zip(ours, theirs, strict=True):
        assert (our.prompt, our.image) == (their.prompt, their.image)
        assert in_camel_case(our.body["generationConfig"]) == in_camel_case(their.body["generationConfig"])
        assert our.body.keys() == their.body.keys()
        for name in ("content-type", "x-goog-api-key"):
            assert our.headers[name] == their.headers[name]
