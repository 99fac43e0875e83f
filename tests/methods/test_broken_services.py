"""Tests of services that fail for every request, or for some images: when a run ends, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.errors import NothingKeptError, StoppedEarly, TeacherError, UnusableRepliesError
from compact_hf.methods.generate import generate
from compact_hf.runs.journal import Journal
from compact_hf.runs.rate_limit import RetryPolicy
from compact_hf.testing import gemini, openai
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.openai import OpenAIServer
from compact_hf.testing.scripted_model import KEY, ModelRequest
from tests.methods.runs import hash_release, read_outcomes, read_reply_keys
from tests.teachers.asking import photograph

Fault = Callable[[ModelRequest, int], Response | None]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as usual, but with delays before them that are short enough for tests."""
    monkeypatch.setattr(RetryPolicy.__init__, "__defaults__", (5, 0.01, 0.05, 900.0))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty tiny images: more than a run needs to find out that its teacher is broken."""
    directory = tmp_path_factory.mktemp("many")
    for number in range(50):
        (directory / f"{number}.jpg").write_bytes(photograph(64 + number))
    return directory


def count_journal(run: Path) -> tuple[int, int]:
    """Return the numbers of finished images and of stored replies."""
    with Journal.read(run) as journal:
        return journal.counts()[0], len(list(journal.replies()))


def generate_from(images: Path, run: Path, server: OpenAIServer | GeminiServer, **settings: Any) -> None:
    teacher = "openai:m" if isinstance(server, OpenAIServer) else "gemini"
    generate(str(images), run, teacher=teacher, teacher_url=server.url, concurrency=4, **settings)


@pytest.mark.parametrize("role", ["teacher", pytest.param("verifier", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("make_response", "quote"),
    [
        (
            lambda: openai.content_response("I see a cat. Question: is it red? " * 20),
            "I see a cat. Question: is it red?",
        ),
        (lambda: openai.content_response('{"question": "Wh', finish="length"), "reply cut at the token limit"),
        (lambda: openai.error_response(400, "This model's maximum context length is 512 tokens"), "maximum context"),
        (lambda: openai.error_response(400, "Invalid image", code="invalid_image_format"), "invalid_image_format"),
    ],
)
def test_replies_that_are_never_usable_end_the_run_after_about_twenty(
    many: Path, tmp_path: Path, role: str, make_response: Callable[[], Response], quote: str
) -> None:
    run = tmp_path / "run"

    def fault(request: ModelRequest, number: int) -> Response | None:
        return make_response() if request.role == role else None

    with OpenAIServer(fault=fault) as server, pytest.raises(UnusableRepliesError, match="can be used") as excinfo:
        generate_from(many, run, server)
    assert quote in str(excinfo.value)
    assert len(str(excinfo.value)) < 700
    broken = [request for request in server.requests if request.role == role]
    assert 20 <= len(broken) <= 20 + 4
    # Nothing of it is kept: the images are asked about again as soon as the server is mended.
    assert count_journal(run)[0] == 0
    assert (count_journal(run)[1] > 0) == (role == "verifier")


def test_a_mended_server_finishes_the_run_as_if_nothing_had_happened(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]]
) -> None:
    """Eight images are fewer than twenty: the end of the run shows that nothing was usable."""
    run = tmp_path / "run"
    with (
        OpenAIServer(fault=lambda request, number: openai.content_response("no")) as server,
        pytest.raises(
            UnusableRepliesError, match=r"none of the \d+ replies of openai:m can be used \(the last one: 'no'\)"
        ),
    ):
        generate_from(tiny, run, server, preset="efficient")
    assert count_journal(run) == (0, 0)
    with OpenAIServer() as server:
        generate_from(tiny, run, server, preset="efficient")
        assert len(read_outcomes(run)) == 8
    with OpenAIServer() as server:
        generate_from(tiny, tmp_path / "clean", server, preset="efficient")
    assert hash_release(run) == hash_release(tmp_path / "clean")


def test_one_usable_reply_is_enough_to_go_on(many: Path, tmp_path: Path) -> None:
    """Rejects are then a property of the images and the model, which the run counts."""
    images: list[bytes] = []

    def fault(request: ModelRequest, number: int) -> Response | None:
        images.extend([request.image] if number == 0 else [])
        return openai.content_response("no") if request.image not in images else None

    with OpenAIServer(fault=fault) as server:
        generate_from(many, tmp_path / "run", server, preset="efficient")
    assert count_journal(tmp_path / "run")[0] == 50


def test_refused_content_is_no_reason_to_stop(many: Path, tmp_path: Path) -> None:
    def fault(request: ModelRequest, number: int) -> Response | None:
        return gemini.content_response(None, finish="SAFETY") if number < 40 else None

    with GeminiServer(fault=fault) as server:
        generate_from(many, tmp_path / "run", server)
    assert count_journal(tmp_path / "run")[0] == 50


@pytest.mark.parametrize("message", ["odd request 12 of 99", "Unknown parameter"])
def test_a_request_that_nobody_accepts_is_sent_a_few_times_only(many: Path, tmp_path: Path, message: str) -> None:
    with (
        OpenAIServer(fault=lambda request, number: openai.error_response(400, f"{message} {number}")) as server,
        pytest.raises(TeacherError, match=r"openai:m rejects every request \(400 ") as excinfo,
    ):
        generate_from(many, tmp_path / "run", server)
    assert type(excinfo.value) is TeacherError
    assert len(server.requests) <= 3 + 4


def test_the_only_image_that_is_rejected_ends_with_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jpg").write_bytes(photograph())
    with (
        OpenAIServer(fault=lambda request, number: openai.error_response(400, "odd")) as server,
        pytest.raises(TeacherError, match="rejects every request"),
    ):
        generate_from(tmp_path / "one", tmp_path / "run", server)


def test_a_daily_quota_ends_the_run_until_tomorrow_and_keeps_what_was_answered(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]]
) -> None:
    run = tmp_path / "run"
    quota = ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 250)

    def fault(request: ModelRequest, number: int) -> Response | None:
        if number < 10:
            return None
        return gemini.error_response(429, "RESOURCE_EXHAUSTED", "quota", quota=quota, retry_delay_s=34)

    with (
        GeminiServer(accept_rate=0.7, fault=fault) as server,
        pytest.raises(
            StoppedEarly, match=r"the daily quota \(250 requests\) is used up; the same command resumes tomorrow"
        ),
    ):
        generate_from(tiny, run, server, preset="efficient")
    assert len(server.requests) <= 10 + 4
    assert len(read_reply_keys(run)) == 10
    with GeminiServer(accept_rate=0.7) as server:
        generate_from(tiny, run, server, preset="efficient")
    assert hash_release(run) == clean["efficient"]


def test_a_permanent_error_lets_requests_in_flight_end_because_they_are_paid_for(tiny: Path, tmp_path: Path) -> None:
    def fault(request: ModelRequest, number: int) -> Response | None:
        return openai.error_response(402, "Insufficient Balance") if number == 3 else None

    with (
        OpenAIServer(latency_s=0.2, fault=fault) as server,
        pytest.raises(TeacherError, match="no credit left"),
    ):
        generate_from(tiny, tmp_path / "run", server)
    assert len(read_reply_keys(tmp_path / "run")) == len(server.requests) - 1


@pytest.mark.parametrize(
    "response",
    [
        openai.content_response(""),
        openai.content_response(None),
        openai.content_response('{"qu', finish="error"),
        JSONResponse({"error": {"message": "Provider returned error", "code": 502}}),
        openai.error_response(499, "client closed request"),
    ],
)
def test_what_may_be_different_at_the_next_attempt_is_asked_again(
    tiny: Path, tmp_path: Path, response: Response
) -> None:
    with OpenAIServer(accept_rate=0.7) as server:
        generate_from(tiny, tmp_path / "clean", server, preset="efficient")

    def fault(request: ModelRequest, number: int) -> Response | None:
        return response if number in (1, 6) else None

    with OpenAIServer(accept_rate=0.7, fault=fault) as server:
        generate_from(tiny, tmp_path / "run", server, preset="efficient")
    assert hash_release(tmp_path / "run") == hash_release(tmp_path / "clean")


def test_a_request_whose_replies_stay_empty_becomes_a_reject_after_the_last_attempt(tiny: Path, tmp_path: Path) -> None:
    empty_images: list[bytes] = []

    def fault(request: ModelRequest, number: int) -> Response | None:
        if number == 0:
            empty_images.append(request.image)
        return gemini.content_response(None) if request.image in empty_images and request.role == "teacher" else None

    with GeminiServer(fault=fault) as server:
        generate_from(tiny, tmp_path / "run", server, preset="efficient")
        empty_prompts = [request.prompt for request in server.requests if request.image in empty_images]
    assert {empty_prompts.count(prompt) for prompt in empty_prompts} == {5}
    outcomes = [outcome for outcome in read_outcomes(tmp_path / "run").values() if outcome.conversation is None]
    (outcome,) = outcomes
    assert {(reject.reason, reject.detail) for reject in outcome.rejects} >= {("declined", "empty answer")}
    with Journal.read(tmp_path / "run") as journal:
        assert sum(usage.requests for usage in journal.usage()) == len(server.requests)


def test_an_image_that_the_service_cannot_read_is_a_reject_and_the_run_is_complete(tiny: Path, tmp_path: Path) -> None:
    images: list[bytes] = []

    def fault(request: ModelRequest, number: int) -> Response | None:
        images.extend([request.image] if number == 5 else [])
        response = gemini.error_response(400, "INVALID_ARGUMENT", "Unable to process input image")
        return response if request.image in images else None

    with GeminiServer(fault=fault) as server:
        generate_from(tiny, tmp_path / "run", server, preset="efficient")
    details = {reject.detail for outcome in read_outcomes(tmp_path / "run").values() for reject in outcome.rejects}
    assert "refused by the teacher (INVALID_ARGUMENT: Unable to process input image)" in details


def test_a_run_that_keeps_nothing_is_no_success(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The replies can be read, but no question passes; `assemble` could not make a dataset of it."""
    with GeminiServer(accept_rate=0.0) as server:
        arguments = ["generate", str(tiny), "--out", str(tmp_path / "run"), "--teacher-url", server.url]
        assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "no question was accepted about any of the 8 images: run `compact status" in captured.err
    assert "next:" not in captured.err + captured.out
    with GeminiServer() as server, pytest.raises(NothingKeptError):
        generate(str(tiny), tmp_path / "run", teacher_url=server.url)  # finished: nothing is asked again


def test_assembling_says_which_images_are_missing(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with GeminiServer() as server, pytest.raises(StoppedEarly):
        generate(str(tiny), run, teacher_url=server.url, preset="efficient", max_requests=12, concurrency=2)
    notes: list[str] = []
    assemble(run, tmp_path / "release", version="1.0.0", on_note=notes.append)
    unfinished = 8 - count_journal(run)[0]
    assert notes == [
        f"{unfinished} of 8 images of {run} are not finished, and not in the dataset: the command that started the run "
        "finishes them"
    ]
    with GeminiServer() as server:
        generate(str(tiny), run, teacher_url=server.url, preset="efficient")
    notes.clear()
    assemble(run, tmp_path / "release", version="1.0.0", on_note=notes.append)
    assert notes == []
