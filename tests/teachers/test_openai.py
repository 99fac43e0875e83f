"""Tests of the teacher `openai` with a local server that speaks OpenAI's protocol, which openai's client checks."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI
from PIL import Image
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.base import Failure, FailureKind, Reply
from compact_hf.teachers.failures import make_lost_reply
from compact_hf.teachers.openai import OpenAI, strict_schema
from compact_hf.teachers.registry import open_teacher
from compact_hf.testing.openai import OpenAIServer, content_response, error_response
from compact_hf.testing.scripted_model import KEY
from tests.teachers.asking import ask_all, draft_request, photograph, verdict_request

COMBINATION = ("color", "counting")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as started:
        yield started


def ask_with_response(response: Response) -> Reply | Failure:
    """Return the result of a request to which the server answers with `response`."""
    with OpenAIServer(fault=lambda request, number: response) as server:
        (answer,) = ask_all(OpenAI("m", url=server.url), [draft_request(COMBINATION)])
        assert len(server.requests) == 1  # the client does not retry
    return answer


def completion(**changes: object) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice | changes]}


def test_a_draft_comes_back_as_the_models_own_json(server: OpenAIServer) -> None:
    (reply,) = ask_all(OpenAI("m", url=server.url), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)
    assert set(json.loads(reply.text)) == {"question", "answer", "confidence"}
    assert reply.model == "openai:double-2026-11-21"
    assert reply.input_tokens > 765
    assert reply.output_tokens > 20


def test_what_is_sent_is_the_prompt_the_schema_and_a_picture_without_metadata(server: OpenAIServer) -> None:
    ask_all(OpenAI("vendor/model:tag", url=server.url), [draft_request(COMBINATION, image=photograph(3000, 2000))])
    (request,) = server.requests
    with Image.open(io.BytesIO(request.image)) as image:
        assert image.format == "JPEG"
        assert image.size == (1024, 683)
        assert not image.getexif()
    assert b"SecretPhoneMaker" not in request.image
    assert "- color:" in request.prompt
    assert set(request.body) == {"model", "messages", "response_format", "store"}  # no temperature
    assert request.body["model"] == "vendor/model:tag"
    assert request.body["store"] is False
    assert [part["type"] for part in request.body["messages"][0]["content"]] == ["image_url", "text"]


def test_the_verifier_is_not_led(server: OpenAIServer) -> None:
    """The verifier gets only the image, the question and the ten definitions, which are the same for every question."""
    ask_all(OpenAI("m", url=server.url), [verdict_request("QUESTION ONE"), verdict_request("ANOTHER")])
    first, second = sorted((request.prompt for request in server.requests), key=lambda prompt: "ANOTHER" in prompt)
    assert first.replace("QUESTION ONE", "") == second.replace("ANOTHER", "")
    assert {request.role for request in server.requests} == {"verifier"}


def test_a_schema_is_made_strict_all_the_way_down() -> None:
    class Part(BaseModel):
        note: str = ""

    class Whole(BaseModel):
        type: str
        parts: list[Part]

    schema = strict_schema(Whole)
    assert (schema["required"], schema["additionalProperties"]) == (["type", "parts"], False)
    assert (schema["$defs"]["Part"]["required"], schema["$defs"]["Part"]["additionalProperties"]) == (["note"], False)


def test_many_requests_are_in_flight_together() -> None:
    with OpenAIServer(latency_s=0.2) as server:
        requests = [draft_request(COMBINATION, round=number) for number in range(20)]
        answers = ask_all(OpenAI("m", url=server.url, timeout_s=3), requests)
    assert all(isinstance(answer, Reply) for answer in answers)


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        (content_response(None, refusal="I cannot help\nwith that."), "refused: I cannot help with that."),
        (
            content_response('{"question": "Wh', finish="length"),
            "reply cut at the token limit (finish reason length)",
        ),
        (content_response(None, finish="content_filter"), "finish reason content_filter"),
        (content_response('{"question": "Wh', finish="abort"), "finish reason abort"),
        (content_response("{}", finish="content_filter"), "finish reason content_filter"),
        (
            error_response(400, "Your input image may contain content", code="content_policy_violation"),
            "refused by the teacher (content_policy_violation: Your input image may contain content)",
        ),
    ],
)
def test_an_answer_that_was_refused_is_final_and_says_why(response: Response, refused: str) -> None:
    reply = ask_with_response(response)
    assert isinstance(reply, Reply)
    assert (reply.refused, reply.text) == (refused, "")


@pytest.mark.parametrize(
    ("response", "kind", "retry_after"),
    [
        (error_response(429, "slow down", code="rate_limit_exceeded", retry_after_s=2), FailureKind.OVERLOADED, 2.0),
        (error_response(429, "slow down", retry_after_s=0.25), FailureKind.OVERLOADED, 0.25),
        (
            JSONResponse({}, status_code=429, headers={"Retry-After": "Sat, 21 Nov 2026 23:00:00 GMT"}),
            FailureKind.OVERLOADED,
            None,
        ),
        (error_response(503, "loading the model", retry_after_s=7), FailureKind.OVERLOADED, 7.0),
        (error_response(500, "oops"), FailureKind.TRANSIENT, None),
        (error_response(422, "unknown field"), FailureKind.REJECTED, None),
        (Response("<html>gateway</html>", status_code=502), FailureKind.TRANSIENT, None),
        (Response('{"choices": [{"mess', media_type="application/json"), FailureKind.TRANSIENT, None),
        (Response("<html>a page</html>", media_type="text/html"), FailureKind.TRANSIENT, None),
        (error_response(500, "a\nb\x1b[31m" + "x" * 10_000), FailureKind.TRANSIENT, None),
        *((JSONResponse(body), FailureKind.TRANSIENT, None) for body in (None, [], 5, "text", {}, {"error": "text"})),
        *((response, FailureKind.TRANSIENT, None) for response in (content_response(None), content_response(""))),
        (JSONResponse({"choices": []}), FailureKind.TRANSIENT, None),
        *(
            (JSONResponse({"choices": choices}), FailureKind.TRANSIENT, None)
            for choices in (None, "ab", [5], [{"message": 5}])
        ),
        *(
            (JSONResponse(completion(message=message)), FailureKind.TRANSIENT, None)
            for message in (
                {"content": [5]},
                {"content": ["text"]},
                {"content": {"text": "{}"}},
                {"content": None, "reasoning_content": "Red {or} blue"},
                {"content": None, "reasoning_content": '{"a": '},
            )
        ),
        (JSONResponse({**completion(), "usage": "much"}), FailureKind.TRANSIENT, None),
        *(
            (JSONResponse({"error": error}, status_code=500), FailureKind.TRANSIENT, None)
            for error in (None, 5, {"message": 5})
        ),
        (JSONResponse(["odd"], status_code=500), FailureKind.TRANSIENT, None),
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


PARTS = [{"type": "thinking", "thinking": "{}"}, {"type": "text", "text": '{"a": '}, {"type": "text", "text": "1}"}]


@pytest.mark.parametrize(
    ("response", "text"),
    [
        *((content_response("{}", finish=finish), "{}") for finish in ("eos", "stop_sequence", "length", "STOP", None)),
        (content_response("<think>a</think>{}<|im_end|>", finish="eos"), "<think>a</think>{}<|im_end|>"),
        (JSONResponse(completion(message={"content": PARTS})), '{"a": 1}'),
        (JSONResponse(completion(message={"content": None, "reasoning_content": "\n{}"})), "\n{}"),
        (JSONResponse(completion(message={"content": "", "reasoning_content": "{}"}, finish_reason="eos")), "{}"),
        (JSONResponse(completion(message={"content": "{}", "reasoning_content": '{"a": 1}'})), "{}"),
    ],
)
def test_complete_json_is_an_answer_wherever_it_is_and_kept_as_it_was_sent(response: Response, text: str) -> None:
    reply = ask_with_response(response)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.refused) == (text, "")


def test_what_a_server_says_of_its_error_is_passed_on() -> None:
    responses = {
        "OpenAI's": JSONResponse({"error": {"message": "too large"}}, status_code=400),
        "vLLM's older": JSONResponse({"object": "error", "message": "too large"}, status_code=400),
        "FastAPI's": JSONResponse({"detail": "too large"}, status_code=400),
        "plain": Response("too large", status_code=400),
    }
    for response in responses.values():
        failure = ask_with_response(response)
        assert isinstance(failure, Failure)
        assert failure.message == "400 too large"


@pytest.mark.parametrize("more", [{}, {"usage": None}, {"usage": {"prompt_tokens": None}}, {"model": None}])
def test_a_reply_without_usage_and_model_is_a_reply(more: dict[str, object]) -> None:
    reply = ask_with_response(JSONResponse(completion() | more))
    assert isinstance(reply, Reply)
    assert (reply.model, reply.input_tokens, reply.output_tokens) == ("openai:m", 0, 0)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "openai:Qwen/Qwen3-VL-8B-Instruct"),
        ("/home/me/models/qwen.gguf", "openai:qwen.gguf"),
        ("C:\\models\\qwen.gguf", "openai:qwen.gguf"),
        ("./models/qwen/", "openai:qwen"),
    ],
)
def test_a_model_is_known_by_its_name_not_by_where_it_lies(said: str, kept: str) -> None:
    reply = ask_with_response(content_response("{}", model=said))
    assert isinstance(reply, Reply)
    assert reply.model == kept


def test_a_wrong_key_is_refused_in_one_line_that_shows_no_letter_of_it(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "QXZ7-and-secret-9WVK")
    with pytest.raises(TeacherError, match=r"needs a valid key \(401\): set OPENAI_API_KEY") as excinfo:
        ask_all(OpenAI("m", url=server.url), [draft_request(COMBINATION)])
    traceback_text = "".join(traceback.format_exception(excinfo.value))
    assert "\n" not in str(excinfo.value)
    assert "QXZ7" not in traceback_text
    assert "9WVK" not in traceback_text


@pytest.mark.parametrize("code", [403, 404])
def test_not_even_a_traceback_shows_the_key_that_a_server_quotes(code: int) -> None:
    with pytest.raises(TeacherError, match="no entry with <key>") as excinfo:
        ask_with_response(error_response(code, f"no entry with {KEY}"))
    assert KEY not in "".join(traceback.format_exception(excinfo.value))


def test_an_unknown_model_is_refused(server: OpenAIServer) -> None:
    with pytest.raises(
        TeacherError, match=r"openai:no-such-model was not found at http.*does not exist.*lists its models"
    ):
        ask_all(OpenAI("no-such-model", url=server.url), [draft_request(COMBINATION)])


def test_an_account_that_is_used_up_ends_the_run_where_waiting_would_not_help() -> None:
    with pytest.raises(TeacherError, match="the account has no credit left"):
        ask_with_response(
            error_response(429, "You exceeded your current quota", code="insufficient_quota", retry_after_s=1)
        )


def test_a_server_that_hangs_is_given_up_after_the_time_out() -> None:
    with OpenAIServer(latency_s=3) as server:
        (failure,) = ask_all(OpenAI("m", url=server.url, timeout_s=0.2), [draft_request(COMBINATION)])
    lost = make_lost_reply(failure.key)
    assert failure == Failure(failure.key, f"{server.url} gave no answer within 0.2 s", billed=lost)


def test_a_server_that_drips_is_given_up_too() -> None:
    """With one byte every 0.1 s, no pause reaches the timeout, and the response would never end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not stop.wait(0.1):
                    connection.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        try:
            (failure,) = ask_all(OpenAI("m", url=url, timeout_s=0.5), [draft_request(COMBINATION)])
        finally:
            stop.set()
            thread.join()
    lost = make_lost_reply(failure.key)
    assert failure == Failure(failure.key, f"{url} gave no answer within 0.5 s", billed=lost)
    assert time.monotonic() - start < 5


def test_a_connection_that_breaks_off_half_way_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def break_off() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices"')

        thread = threading.Thread(target=break_off)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (failure,) = ask_all(OpenAI("m", url=url), [draft_request(COMBINATION)])
        thread.join()
    assert isinstance(failure, Failure)
    assert failure.message.startswith(f"the connection to {url} was lost (")
    assert failure.kind is FailureKind.TRANSIENT


def test_nobody_at_the_address_is_a_failure_that_names_it_without_its_password() -> None:
    (failure,) = ask_all(OpenAI("m", url="http://me:secret@127.0.0.1:9/v1"), [draft_request(COMBINATION)])
    assert isinstance(failure, Failure)
    assert failure.message.startswith("http://127.0.0.1:9 cannot be reached (")
    assert "secret" not in failure.message


def test_a_server_of_ones_own_is_asked_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with OpenAIServer(key=None) as server:
        (reply,) = ask_all(OpenAI("m", url=server.url), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)


@pytest.mark.parametrize("url", [None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1"])
def test_openai_itself_wants_a_key(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="set OPENAI_API_KEY in the environment, or name a server"):
        OpenAI("m", url=url)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_protocols_path_may_be_left_out(server: OpenAIServer, path: str) -> None:
    (reply,) = ask_all(OpenAI("m", url=server.url + path), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)


def test_the_clients_own_variable_names_a_server_too(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    (reply,) = ask_all(OpenAI("m"), [draft_request(COMBINATION)])
    assert isinstance(reply, Reply)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="must start with http"):
        OpenAI("m", url=url)


def test_a_key_that_was_copied_wrongly_is_refused_unshown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "two\nlines")
    with pytest.raises(UsageError, match="copy it again"):
        OpenAI("m", url="http://localhost:8000")


def test_a_model_has_to_be_named() -> None:
    with pytest.raises(UsageError, match="needs the name of a model: give --teacher openai:MODEL"):
        open_teacher("openai", url="http://localhost:8000", state_dir=Path("run"))


def test_it_plants_no_noise() -> None:
    with pytest.raises(UsageError, match="omit --noise for openai"):
        open_teacher("openai:m", url="http://localhost:8000", state_dir=Path("run"), fault_rate=0.5)


def test_a_name_with_colons_reaches_the_server_whole(server: OpenAIServer) -> None:
    ask_all(open_teacher("openai:ft:base:us::id", url=server.url, state_dir=Path("run")), [draft_request(COMBINATION)])
    assert server.requests[0].body["model"] == "ft:base:us::id"


def test_the_double_refuses_what_the_service_would(server: OpenAIServer) -> None:
    """Tests against a double that accepts any request would prove nothing."""
    url = f"{server.url}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(url, json={}).status_code == 401
    schema = {"type": "object", "properties": {"confidence": {}}, "required": ["confidence"]}
    strict = schema | {"additionalProperties": False}
    text = {"type": "text", "text": "hello"}
    for parts, request_schema, extra_fields, missing in (
        ([text], strict, {}, "expected one image"),
        ([text], schema, {}, "a strict schema requires all"),
        ([text], strict, {"temperature": 0}, "unrecognized request arguments: temperature"),
        ([{"type": "input_text", "text": "hello"}], strict, {}, "parts of the types text and image_url"),
        ([{"type": "image_url", "image_url": {"url": "https://x/a.jpg"}}], strict, {}, "expected a data URL"),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}],
            strict,
            {},
            "the image is not a JPEG",
        ),
    ):
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": "a", "strict": True, "schema": request_schema},
        }
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": parts}],
            "response_format": response_format,
            **extra_fields,
        }
        response = httpx.post(url, json=body, headers=headers)
        assert response.status_code == 400
        assert missing in response.json()["error"]["message"]
    assert server.requests == []


def test_openais_own_client_understands_the_double(server: OpenAIServer) -> None:
    async def ask() -> tuple[list[str], str | None]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            completion = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": [{"type": "text", "text": "Which one?"}]}]
            )
            return [model.id async for model in client.models.list()], completion.choices[0].message.content

    models, text = asyncio.run(ask())
    assert models == ["double-2026-11-21"]
    assert text
