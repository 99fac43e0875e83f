"""Tests failures of services, over real HTTP: the release equals that of a run without failures, byte for byte.

Every test runs with both presets, one of them only in `make test-slow`. The client is the real google-genai.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.genai.types import FinishReason
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from compact_hf.errors import StoppedEarly
from compact_hf.methods.generate import generate
from compact_hf.runs.run import RunProgress
from compact_hf.teachers.gemini import Gemini
from compact_hf.testing.gemini import GeminiServer, content_response, error_response
from compact_hf.testing.scripted_model import ModelRequest
from tests.methods.cutting import CuttingProxy
from tests.methods.runs import hash_release, read_outcomes, request_keys
from tests.teachers.asking import photograph

Fault = Callable[[ModelRequest, int], Response | None]

pytestmark = pytest.mark.parametrize("preset", [pytest.param("paper", marks=pytest.mark.slow), "efficient"])


def generate_with_fault(
    directory: Path, run: Path, preset: str, fault: Fault, **settings: Any
) -> tuple[GeminiServer, RunProgress]:
    with GeminiServer(accept_rate=0.7, fault=fault) as server:
        progress = generate(str(directory), run, teacher_url=server.url, preset=preset, **settings)
    return server, progress


@pytest.mark.slow
def test_a_storm_of_429_loses_nothing_and_wastes_no_more_than_it_must(
    tiny: Path, tmp_path: Path, preset: str, clean: dict[str, dict[str, str]]
) -> None:
    """Refused are only the requests in flight when it began, and one probe per delay that the server named."""
    seconds, delay, concurrency = 1.7, 0.6, 8
    start_times: list[float] = []
    refusal_times: list[float] = []

    def storm(request: ModelRequest, number: int) -> Response | None:
        now = time.monotonic()
        if number == 5:
            start_times.append(now)
        if not start_times or now > start_times[0] + seconds:
            return None
        refusal_times.append(now)
        return error_response(429, "RESOURCE_EXHAUSTED", "quota", retry_delay_s=delay)

    _, progress = generate_with_fault(tiny, tmp_path / "run", preset, storm, concurrency=concurrency)
    probes = [moment for moment in refusal_times if moment > start_times[0] + 0.9 * delay]
    assert 1 <= len(probes) <= seconds / delay
    assert len(refusal_times) - len(probes) <= concurrency
    assert progress.failures == len(refusal_times)
    assert hash_release(tmp_path / "run") == clean[preset]


class _CountingServer(GeminiServer):
    """Records the number of requests in flight whenever a request arrives."""

    def __init__(self, **options: Any) -> None:
        super().__init__(latency_s=0.2, **options)  # long compared with the processing time on a busy machine
        self.in_flight_counts: list[int] = []
        self._in_flight = 0

    async def _generate(self, request: Request) -> Response:
        self._in_flight += 1
        self.in_flight_counts.append(self._in_flight)
        try:
            return await super()._generate(request)
        finally:
            self._in_flight -= 1


@pytest.mark.slow
def test_after_a_storm_half_as_many_are_in_flight_and_then_more_again(tmp_path: Path, preset: str) -> None:
    directory = tmp_path / "pictures"
    directory.mkdir()
    for number in range(80):
        (directory / f"{number}.jpg").write_bytes(photograph(64 + number))
    storm_offsets: list[int] = []

    def storm(request: ModelRequest, number: int) -> Response | None:
        if not 40 <= number < 57:
            return None
        storm_offsets.append(len(server.in_flight_counts))
        return error_response(429, "RESOURCE_EXHAUSTED", "quota", retry_delay_s=0.1)

    # 17 requests are refused: sixteen in flight, and at least one probe.
    with _CountingServer(fault=storm) as server:
        generate(str(directory), tmp_path / "run", teacher_url=server.url, preset=preset, concurrency=16)
    before, after = server.in_flight_counts[: storm_offsets[0]], server.in_flight_counts[storm_offsets[-1] :]
    assert max(before) > 12
    assert max(after[:20]) <= 11
    assert max(after) > max(after[:20])


def test_bursts_of_500_and_503_change_nothing(
    tiny: Path, tmp_path: Path, preset: str, clean: dict[str, dict[str, str]]
) -> None:
    def burst(request: ModelRequest, number: int) -> Response | None:
        if 2 <= number < 5:
            return error_response(500, "INTERNAL", "oops")
        if 10 <= number < 13:
            return error_response(503, "UNAVAILABLE", "the model is overloaded")
        return Response("<html>Bad Gateway</html>", status_code=502) if number == 15 else None

    _, progress = generate_with_fault(tiny, tmp_path / "run", preset, burst)
    assert progress.failures == 7
    assert hash_release(tmp_path / "run") == clean[preset]


class _HangingResponse(Response):
    """Sends nothing until the client disconnects; with `drip` it sends a byte every 20 ms instead."""

    def __init__(self, *, drip: bool) -> None:
        super().__init__(b" " * 1000)
        self._drip = drip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disconnect = asyncio.ensure_future(receive())
        if self._drip:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while self._drip and not disconnect.done():
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(0.02)
        await disconnect


@pytest.mark.parametrize("drip", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_server_that_hangs_or_drips_is_asked_again(
    tiny: Path, tmp_path: Path, preset: str, drip: bool, clean: dict[str, dict[str, str]], short_time_out: None
) -> None:
    hung_requests: set[tuple[bytes, str]] = set()

    def fault(request: ModelRequest, number: int) -> Response | None:
        if number not in (0, 7, 8):
            return None
        hung_requests.add((request.image, request.prompt))
        return _HangingResponse(drip=drip)

    server, progress = generate_with_fault(tiny, tmp_path / "run", preset, fault)
    # On a busy machine other replies may time out too. Each failed request is sent again exactly once.
    sent_keys = request_keys(tiny, server.requests)
    assert progress.failures == len(sent_keys) - len(set(sent_keys)) >= len(hung_requests) == 3
    assert all(
        [(request.image, request.prompt) for request in server.requests].count(hung_request) > 1
        for hung_request in hung_requests
    )
    assert "gave no answer within 3 s" in progress.last_failure
    assert hash_release(tmp_path / "run") == clean[preset]


@pytest.fixture
def short_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out short enough for a test (the default is two minutes), but long compared with a response."""
    defaults = Gemini.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeout_s", 3)


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_off_in_the_middle_of_an_answer_costs_a_repetition(
    tiny: Path, tmp_path: Path, preset: str, reset: bool, clean: dict[str, dict[str, str]]
) -> None:
    with GeminiServer(accept_rate=0.7) as server, CuttingProxy(server.url, cut_chunks=(3, 9, 14), reset=reset) as proxy:
        progress = generate(str(tiny), tmp_path / "run", teacher_url=proxy.url, preset=preset)
    assert progress.failures == 3
    assert "was lost" in progress.last_failure
    # Only the three requests whose responses were lost are sent again.
    sent_keys = request_keys(tiny, server.requests)
    assert len(sent_keys) - len(set(sent_keys)) == 3
    assert hash_release(tmp_path / "run") == clean[preset]


def test_a_body_that_is_cut_is_asked_for_again(
    tiny: Path, tmp_path: Path, preset: str, clean: dict[str, dict[str, str]]
) -> None:
    def cut_body(request: ModelRequest, number: int) -> Response | None:
        body = bytes(server.answer(request).body)
        return Response(body[: len(body) // 2], media_type="application/json") if number in (1, 6) else None

    with GeminiServer(accept_rate=0.7, fault=cut_body) as server:
        progress = generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset=preset)
    assert progress.failures == 2
    assert "is not Gemini's JSON" in progress.last_failure
    assert hash_release(tmp_path / "run") == clean[preset]


WRAPPINGS = (
    "{}",
    "```json\n{}\n```",
    "<think>A [red] cat {{maybe}}.</think>\n{}<|im_end|>",
    "Here you are: {} I hope this helps.",
)


def test_wrapped_json_is_worth_as_much_as_bare_json(
    tiny: Path, tmp_path: Path, preset: str, clean: dict[str, dict[str, str]]
) -> None:
    def answer_wrapped(request: ModelRequest, number: int) -> Response:
        text = WRAPPINGS[number % len(WRAPPINGS)].format(json.dumps(server.make_reply(request), indent=1))
        return content_response(text, model="gemini-3.8-flash-double", finish="STOP" if number % 3 else "OTHER")

    with GeminiServer(accept_rate=0.7, fault=answer_wrapped) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset=preset)
    assert hash_release(tmp_path / "run") == clean[preset]


def truncate_to(fraction: float) -> Callable[[str], str]:
    return lambda text: text[: int(len(text) * fraction)]


CORRUPTIONS: dict[str, Callable[[str], str]] = {
    "JSON that was cut": truncate_to(0.6),
    "JSON that lacks its last bracket": lambda text: text[:-1],
    "a fence that was cut": lambda text: f"```json\n{text}",
    "another schema": lambda text: '{"image": "a cat", "score": 0.5}',
    "a list": lambda text: f"[{text}]",
    "an int for a string": lambda text: text.replace('"answer": "', '"answer": 3, "was": "'),
    "null": lambda text: "null",
    "two answers": lambda text: f"{text} or {text}",
    "prose": lambda text: "I see a cat.",
}


@pytest.mark.parametrize("role", ["teacher", "verifier"])
@pytest.mark.parametrize("spoil", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_what_is_not_the_json_that_was_asked_for_is_a_reject_and_never_mended(
    tiny: Path, tmp_path: Path, preset: str, role: str, spoil: Callable[[str], str]
) -> None:
    """The replies of the first round are invalid; only later replies may be accepted."""
    spoiled_images: set[bytes] = set()
    prompts: list[str] = []

    def fault(request: ModelRequest, number: int) -> Response | None:
        if request.role != role or request.image in spoiled_images:
            return None
        spoiled_images.add(request.image)
        prompts.append(request.prompt)
        text = json.dumps(server.make_reply(request))
        assert spoil(text) != text
        return content_response(spoil(text))

    with GeminiServer(fault=fault) as server:
        progress = generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset=preset, limit=3)
        assert len(server.requests) == len(
            set(request_keys(tiny, server.requests))
        )  # rejects are final: nothing was sent twice
    assert (progress.finished, progress.kept, progress.failures) == (3, 3, 0)
    reason = "malformed reply" if role == "teacher" else "malformed verdict"
    for outcome in read_outcomes(tmp_path / "run").values():
        assert {reject.reason for reject in outcome.rejects} == {reason}
        first_round = 1 if preset == "paper" else 4
        assert [drop_reason for _, drop_reason in outcome.drafts[:first_round]] == [reason] * first_round
        assert outcome.conversation is not None
        if role == "verifier":
            assert not any(turn.question in prompt for turn in outcome.conversation.turns for prompt in prompts)


def test_a_service_that_is_away_for_good_ends_the_run_in_one_line_and_the_run_goes_on_later(
    tiny: Path, tmp_path: Path, preset: str, clean: dict[str, dict[str, str]]
) -> None:
    run = tmp_path / "run"

    def refuse(request: ModelRequest, number: int) -> Response | None:
        return error_response(429, "RESOURCE_EXHAUSTED", "daily quota", retry_delay_s=40_000) if number > 12 else None

    with pytest.raises(StoppedEarly, match="daily quota; nothing is lost, run the same command later"):
        generate_with_fault(tiny, run, preset, refuse)
    server, _ = generate_with_fault(tiny, run, preset, lambda request, number: None)
    assert hash_release(run) == clean[preset]
    assert len(server.requests) > 0


def test_an_image_with_an_error_that_nobody_explains_is_left_for_the_next_time(
    tiny: Path, tmp_path: Path, preset: str, clean: dict[str, dict[str, str]]
) -> None:
    poisoned_images: set[bytes] = set()

    def fault(request: ModelRequest, number: int) -> Response | None:
        poisoned_images.update([request.image] if not number else [])
        response = error_response(400, "INVALID_ARGUMENT", "an unusual error")
        return response if request.image in poisoned_images else None

    with pytest.raises(StoppedEarly, match=r"1 image could not be finished .*an unusual error"):
        generate_with_fault(tiny, tmp_path / "run", preset, fault)
    server, _ = generate_with_fault(tiny, tmp_path / "run", preset, lambda request, number: None)
    assert {request.image for request in server.requests} == poisoned_images
    assert hash_release(tmp_path / "run") == clean[preset]


FINISH_REASONS = [*(reason.value for reason in FinishReason if reason is not FinishReason.STOP), "INVENTED_LATER"]


# The client warns about an unknown reason, but accepts it.
@pytest.mark.filterwarnings("ignore:INVENTED_LATER is not a valid FinishReason:UserWarning")
@pytest.mark.parametrize("role", ["teacher", "verifier"])
def test_every_way_not_to_answer_is_a_reject_with_its_reason(
    tiny: Path, tmp_path: Path, preset: str, role: str
) -> None:
    """Every kind of refusal comes once, then real replies.

    The refusals of filters contain replies that would be accepted if they were read; the others are cut.
    """
    assert {"SAFETY", "MAX_TOKENS", "RECITATION", "LANGUAGE", "SPII", "OTHER"} < set(FINISH_REASONS)
    refusals = [
        *(f"finish reason {reason}" for reason in FINISH_REASONS),
        *("prompt blocked: SAFETY", "prompt blocked: PROHIBITED_CONTENT"),
    ]
    remaining = list(refusals)

    def fault(request: ModelRequest, number: int) -> Response | None:
        if request.role != role or not remaining:
            return None
        kind, _, reason = remaining.pop(0).rpartition(" ")
        if kind == "finish reason":
            text = json.dumps(server.make_reply(request))
            is_filtered = reason in ("SAFETY", "RECITATION", "SPII", "MODEL_ARMOR")
            return content_response(text if is_filtered else text[:-1], finish=reason)
        feedback = {"promptFeedback": {"blockReason": reason}}
        body = {"candidates": [], "usageMetadata": {"promptTokenCount": 300}, **feedback}
        return Response(json.dumps(body), media_type="application/json")

    with GeminiServer(fault=fault) as server:
        progress = generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset=preset, ks=(2,))
        assert len(server.requests) == len(
            set(request_keys(tiny, server.requests))
        )  # rejects are final: nothing was sent twice
    assert (remaining, progress.failures, progress.finished) == ([], 0, 8)
    reason = "declined" if role == "teacher" else "verifier declined"
    rejects = [reject for outcome in read_outcomes(tmp_path / "run").values() for reject in outcome.rejects]
    cut = "finish reason MAX_TOKENS"
    assert {reject.detail for reject in rejects if reject.reason == reason} == {
        *(set(refusals) - {cut}),
        f"reply cut at the token limit ({cut})",
    }
