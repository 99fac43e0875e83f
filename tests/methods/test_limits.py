"""Tests limits of a run on requests, rates and cost; limits can be changed when the run is resumed."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from compact_hf.errors import SettingsMismatchError, StoppedEarly, TeacherError, UsageError
from compact_hf.images.codec import encode_for_teacher
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.runs.options import RunLimits
from compact_hf.runs.shards import Shard
from compact_hf.testing.gemini import GeminiServer, content_response
from compact_hf.testing.openai import OpenAIServer
from compact_hf.testing.scripted_model import ModelRequest
from compact_hf.wording import format_flag
from tests import preforked
from tests.methods.runs import PRESETS, generate_command, hash_release, read_outcomes, request_keys

# USD per million tokens; expensive, so that a few requests use up a budget.
PRICES: dict[str, Any] = {"price_in": 1000.0, "price_out": 5000.0}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_budget_of_requests_is_kept_to_over_all_sessions_and_may_be_raised(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]], preset: str
) -> None:
    run = tmp_path / "run"
    with GeminiServer(accept_rate=0.7, latency_s=0.01) as server:
        for limit in (5, 5, 12):
            with pytest.raises(StoppedEarly, match=f"the budget of {limit} requests is used up; raise --max-requests"):
                generate(str(tiny), run, teacher_url=server.url, preset=preset, max_requests=limit)
            assert len(server.requests) == limit
        generate(str(tiny), run, teacher_url=server.url, preset=preset)
        assert len(request_keys(tiny, server.requests)) == len(set(request_keys(tiny, server.requests)))
    assert hash_release(run) == clean[preset]


def test_a_budget_that_is_just_enough_lets_the_run_end(tiny: Path, tmp_path: Path) -> None:
    with GeminiServer(accept_rate=0.7) as server:
        request_count = generate(str(tiny), tmp_path / "free", teacher_url=server.url).sent
        progress = generate(str(tiny), tmp_path / "run", teacher_url=server.url, max_requests=request_count)
        assert (progress.finished, progress.sent) == (8, request_count)
        with pytest.raises(StoppedEarly):
            generate(str(tiny), tmp_path / "short", teacher_url=server.url, max_requests=request_count - 1)


def test_requests_that_fail_cost_nothing_of_the_budget(tiny: Path, tmp_path: Path) -> None:
    def fail_every_third(request: ModelRequest, number: int) -> Response | None:
        return Response("oops", status_code=500) if number % 3 == 0 else None

    with GeminiServer(fault=fail_every_third) as server, pytest.raises(StoppedEarly):
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, max_requests=10)
    assert sum(status(tmp_path / "run").requests.values()) == 10


def test_a_small_budget_is_not_given_up_before_the_first_replies_say_what_they_cost(tiny: Path, tmp_path: Path) -> None:
    """The budget is enough for one request at the estimated cost, and for four at the actual cost."""
    with GeminiServer(latency_s=0.05) as server, pytest.raises(StoppedEarly, match=r"the budget of \$4.00 is used up"):
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, max_cost=4.0, **PRICES)
    assert len(server.requests) >= 4


@pytest.mark.parametrize("preset", PRESETS)
def test_a_budget_of_money_is_kept_to_over_all_sessions_and_may_be_raised(
    tiny: Path, tmp_path: Path, clean: dict[str, dict[str, str]], preset: str
) -> None:
    run = tmp_path / "run"

    def compute_cost() -> float:
        run_status = status(run)
        return (run_status.input_tokens * 1000 + run_status.output_tokens * 5000) / 1e6

    with GeminiServer(accept_rate=0.7, latency_s=0.01) as server:
        for limit in (5.0, 5.0, 8.0):
            with pytest.raises(StoppedEarly, match=rf"the budget of \${limit:.2f} is used up .* raise --max-cost"):
                generate(str(tiny), run, teacher_url=server.url, preset=preset, max_cost=limit, **PRICES)
            # All requests cost about the same here, so the budget can only be exceeded by small differences.
            assert 0.7 * limit < compute_cost() < 1.1 * limit
        generate(str(tiny), run, teacher_url=server.url, preset=preset, max_cost=1000.0, **PRICES)
    assert hash_release(run) == clean[preset]


def test_the_command_stops_at_a_budget_with_status_3_and_one_line(tiny: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        command = generate_command(tiny, tmp_path / "run", server, "--max-requests", "4")
        result = preforked.run(command)
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "compact: the budget of 4 requests is used up; raise --max-requests and run the same command again to resume"
    ]


def test_a_limit_on_the_cost_of_a_model_without_a_price_is_refused_before_anything_is_sent(
    tiny: Path, tmp_path: Path
) -> None:
    with OpenAIServer() as server, pytest.raises(UsageError, match="give --price-in and --price-out"):
        generate(str(tiny), tmp_path / "run", teacher="openai:mine", teacher_url=server.url, max_cost=1.0)
    assert server.requests == []
    assert not (tmp_path / "run").exists()


@given(
    st.integers(1, 9),
    st.integers(9, 10**6),
    st.floats(0.1, 1e6),
    st.floats(0.1, 1e9),
    st.integers(9, 10**6),
    st.floats(0.01, 1e6),
)
def test_shards_share_out_what_the_whole_run_may_ask_and_spend(
    count: int, limit: int, rpm: float, tpm: float, max_requests: int, max_cost: float
) -> None:
    whole = RunLimits(limit=limit, rpm=rpm, tpm=tpm, max_requests=max_requests, max_cost=max_cost)
    parts = [whole.for_shard(Shard(index, count)) for index in range(1, count + 1)]
    assert sum(part.limit or 0 for part in parts) == limit
    assert sum(part.max_requests or 0 for part in parts) == max_requests
    for name in ("rpm", "tpm", "max_cost"):
        assert sum(getattr(part, name) for part in parts) == pytest.approx(getattr(whole, name))
    assert {part.concurrency for part in parts} == {16}


def test_shards_keep_to_their_part_of_the_budget(tiny: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        for shard in ("1/2", "2/2"):
            out = tmp_path / shard.replace("/", "-")
            with pytest.raises(StoppedEarly):
                generate(str(tiny), out, teacher_url=server.url, max_requests=15, shard=shard)
    assert len(server.requests) == 15


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        *(
            ({name: 0}, f"got {format_flag(name)} 0: it must be at le")
            for name in ("limit", "concurrency", "max_requests")
        ),
        *(({name: 0.0}, f"got {format_flag(name)} 0: it must be above 0") for name in ("rpm", "tpm", "max_cost")),
        ({"rpm": -3.5}, "got --rpm -3.5: it must be above 0"),
        ({"tpm": float("nan")}, "got --tpm nan: it must be above 0"),
        ({"rpm": float("inf")}, "got --rpm inf: it must be above 0 and finite"),
        ({"price_in": 1.0}, "give both"),
    ],
)
def test_terms_that_make_no_sense_are_refused_before_anything_is_sent(
    tiny: Path, tmp_path: Path, terms: dict[str, Any], told: str
) -> None:
    with GeminiServer() as server, pytest.raises(UsageError, match=told):
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, **terms)
    assert server.requests == []


# A sixtieth of the requests, or a sixth of the tokens, may be sent at once; the others follow evenly.
@pytest.mark.parametrize(
    ("terms", "at_once", "a_second"),
    [({"rpm": 1200}, 20, 1180 / 60), ({"tpm": 500_000}, 500 / 6 / 2, 500 * 5 / 6 / 60 / 2)],
)
def test_rates_hold_at_the_server(
    tiny: Path, tmp_path: Path, terms: dict[str, Any], at_once: float, a_second: float
) -> None:
    times: list[float] = []

    def record_time(request: ModelRequest, number: int) -> Response:
        times.append(time.monotonic())
        text = json.dumps(server.make_reply(request))
        # With the output tokens that the double counts, this is 2,000 tokens.
        return content_response(text, prompt_tokens=1980 - len(text) // 4)

    with GeminiServer(fault=record_time) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset="paper", concurrency=64, **terms)
    assert len(times) == 48
    assert (
        times[-1] - times[0] > (48 - at_once) / a_second * 0.85 > 1
    )  # the first request took longer, because it had to connect


@pytest.mark.parametrize("role", ["--teacher", "--verifier"])
def test_the_twenty_rounds_of_paper_are_refused_for_a_teacher_that_answers_in_batches(
    tiny: Path, tmp_path: Path, role: str
) -> None:
    with GeminiServer() as server:
        command = generate_command(tiny, tmp_path / "run", server, role, "gemini-batch", "--preset", "paper")
        result = preforked.run(command)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "the preset paper does not work with a model that replies in batches" in line
    assert "use --preset efficient" in line
    assert not os.path.exists(tmp_path / "run")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_picture_is_encoded_once_and_sent_once_with_each_request(
    tiny: Path, tmp_path: Path, preset: str, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_counts: Counter[bytes] = Counter()

    def count_and_encode(data: bytes, max_edge: int) -> bytes:
        encode_counts[data] += 1
        return encode_for_teacher(data, max_edge)

    monkeypatch.setattr("compact_hf.teachers.base.encode_for_teacher", count_and_encode)
    with GeminiServer(accept_rate=0.5) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset=preset, strict=strict)
    assert encode_counts == dict.fromkeys((file.read_bytes() for file in tiny.iterdir()), 1)
    for request in server.requests:
        parts = [part for content in request.body["contents"] for part in content["parts"]]
        assert sum("text" not in part for part in parts) == (request.role != "blind")
    images_sent = sum(bool(request.image) for request in server.requests)
    accepted_count = sum(
        len(outcome.conversation.turns) for outcome in read_outcomes(tmp_path / "run").values() if outcome.conversation
    )
    if preset == "efficient":
        assert images_sent <= accepted_count * 1.5  # although half of the drafts are rejected here


@pytest.mark.parametrize("preset", PRESETS)
def test_strict_wants_answers_confirmed_and_not_guessed(tiny: Path, tmp_path: Path, preset: str) -> None:
    """By image: all is right, the verifier gives another answer, or the question is answered without the image."""
    answers_by_question: dict[str, str] = {}
    images = sorted(encode_for_teacher(path.read_bytes()) for path in tiny.iterdir())

    def fault(request: ModelRequest, number: int) -> Response | None:
        reply = server.make_reply(request)
        if request.role == "teacher":
            for draft in reply.get("drafts", [reply]):
                answers_by_question[draft["question"]] = (
                    draft["answer"] if images.index(request.image) % 3 < 2 else "known"
                )
                draft["answer"] = answers_by_question[draft["question"]]
        elif request.role == "verifier":
            is_wrong = images.index(request.image) % 3 == 1
            for verdict, question in zip(reply.get("verdicts", [reply]), parse_questions(request), strict=True):
                verdict["answer"] = "another" if is_wrong else f"The {answers_by_question[question]}."
        else:
            for answer, question in zip(reply.get("answers", [reply]), parse_questions(request), strict=True):
                answer["answer"] = "known" if answers_by_question[question] == "known" else "no idea"
        return content_response(json.dumps(reply))

    with GeminiServer(fault=fault) as server:
        generate(str(tiny), tmp_path / "run", teacher_url=server.url, preset=preset, strict=True, ks=(2,))
    reasons = [
        {drop_reason for _, drop_reason in outcome.drafts} for outcome in read_outcomes(tmp_path / "run").values()
    ]
    assert (
        sorted(map(sorted, reasons))
        == [[""]] * 3 + [["answer not confirmed"]] * 3 + [["answerable without the picture"]] * 2
    )
    blind_requests = [request for request in server.requests if request.role == "blind"]
    assert {request.image for request in blind_requests} == {b""}
    # Blind requests are only for drafts that passed all other checks, with all questions of a round in one request.
    rounds = sum(request.role == "teacher" and images.index(request.image) % 3 != 1 for request in server.requests)
    assert len(blind_requests) == rounds


def parse_questions(request: ModelRequest) -> list[str]:
    paragraph = request.prompt.split("\n\n")[1]
    return [re.sub(r"^\d+\. ", "", line) for line in paragraph.split("\n")]


def test_a_budget_is_kept_to_in_batches_too(tiny: Path, tmp_path: Path) -> None:
    """Requests over the budget wait until the batch is finished; then the run ends."""
    settings: dict[str, Any] = {"teacher": "gemini-batch", "preset": "efficient"}
    with GeminiServer() as server:
        server.batches.polls_to_finish = 1
        for limit, batches in ((5, 1), (10, 2)):
            with pytest.raises(StoppedEarly, match=f"the budget of {limit} requests is used up"):
                generate(str(tiny), tmp_path / "run", teacher_url=server.url, max_requests=limit, **settings)
            assert (len(server.requests), len(server.batches.jobs)) == (limit, batches)


@pytest.mark.parametrize("backend", ["gemini", "gemini-batch"])
def test_after_a_misspelled_model_the_same_directory_can_be_used(tiny: Path, tmp_path: Path, backend: str) -> None:
    options: dict[str, Any] = {"preset": "efficient"}
    with GeminiServer() as server:
        server.batches.polls_to_finish = 1
        with pytest.raises(TeacherError, match="no-such-model was not found"):
            generate(str(tiny), tmp_path / "run", teacher=f"{backend}:no-such-model", teacher_url=server.url, **options)
        name = f"{backend}:gemini-3.8-flash"
        assert dry_run(str(tiny), tmp_path / "run", teacher=name, **options).pictures == 8
        progress = generate(str(tiny), tmp_path / "run", teacher=name, teacher_url=server.url, **options)
        assert progress.finished == 8
        assert status(tmp_path / "run").identity["teacher"] == name
        with pytest.raises(SettingsMismatchError, match="teacher was"):
            generate(str(tiny), tmp_path / "run", teacher=f"{backend}:other", teacher_url=server.url, **options)
