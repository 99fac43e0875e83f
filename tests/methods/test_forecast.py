"""Tests that forecasts match what the method does, and that they say what they assume."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES
from compact_hf.cli.main import main
from compact_hf.errors import SettingsMismatchError, UsageError
from compact_hf.methods.compact.conversation import generate_conversation, parse_outcome
from compact_hf.methods.compact.forecast import (
    PassRates,
    QuestionEstimate,
    estimate_image,
    estimate_pass_rates,
    estimate_run,
)
from compact_hf.methods.compact.preset import EFFICIENT, PAPER, Preset
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.forecast import Forecast, forecast_run
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.methods.tables import Table, format_forecast
from compact_hf.records import digest
from compact_hf.runs.rate_limit import RateLimits
from compact_hf.teachers.base import EncodedImage, Reply, Request
from compact_hf.teachers.prices import Price, lookup_price
from compact_hf.testing.gemini import GeminiServer

GEMINI_TEACHERS = {"teacher": "gemini:gemini-3.8-flash", "verifier": "gemini:gemini-3.8-flash"}
PRICE = Price(1.0, 10.0, "given")
SHARES = st.floats(0.05, 1.0)


class RandomTeacher:
    """A teacher and verifier whose drafts and verdicts pass at random with given rates."""

    def __init__(self, pass_rates: PassRates) -> None:
        self.pass_rates = pass_rates
        self.requests: Counter[str] = Counter()
        self._combinations: dict[str, tuple[str, ...]] = {}
        self._rng = random.Random(0)

    def answer(self, request: Request) -> Reply:
        kind = request.role if request.encoded_image is not None else "blind"
        self.requests[kind] += 1
        if isinstance(request.subject, Task):
            items = [self._make_draft(combination) for combination in request.subject.combinations]
            name = "drafts"
        else:
            items = [
                self._make_guess() if kind == "blind" else self._make_verdict(question)
                for question in request.subject.questions
            ]
            name = "answers" if kind == "blind" else "verdicts"
        list_reply = {name: [{"number": number, **item} for number, item in enumerate(items, 1)]}
        single_reply = {field: value for field, value in items[0].items() if field != "supported"}
        return Reply(
            request.key, json.dumps(list_reply if name in request.schema.model_fields else single_reply), "coin"
        )

    def _make_draft(self, combination: tuple[str, ...]) -> dict[str, object]:
        question = " ".join(digest(self._rng.random())[start : start + 6] for start in range(0, 30, 6)) + "?"
        self._combinations[question] = combination
        confidence = 90 if self._rng.random() < self.pass_rates.generation else 10
        return {"supported": True, "question": question, "answer": "left", "confidence": confidence}

    def _make_verdict(self, question: str) -> dict[str, object]:
        capabilities = list(self._combinations[question])
        if self._rng.random() >= self.pass_rates.verification:
            capabilities.append(next(name for name in CAPABILITIES if name not in capabilities))
        return {"capabilities": capabilities, "answer": "left"}

    def _make_guess(self) -> dict[str, object]:
        return {"answer": "right" if self._rng.random() < self.pass_rates.blind else "left"}


def simulate_images(preset: Preset, k: int, pass_rates: PassRates, *, image_count: int) -> QuestionEstimate:
    """Return the average cost and yield per image, by running the method on this number of images."""
    teacher = RandomTeacher(pass_rates)
    kept_count = question_count = draft_count = 0
    encoded_image = EncodedImage(lambda: b"", ref="none", max_edge=1)
    for number in range(image_count):
        process = generate_conversation(digest(number), encoded_image, seed=0, ks=(k,), preset=preset)
        requests = next(process)
        while True:
            try:
                requests = process.send([teacher.answer(request) for request in requests])
            except StopIteration as end:
                outcome = parse_outcome(end.value.body)
                kept_count += outcome.conversation is not None
                question_count += len(outcome.conversation.turns) if outcome.conversation else 0
                draft_count += len(outcome.drafts)
                break
    requests_per_image = {kind: count / image_count for kind, count in teacher.requests.items()}
    return QuestionEstimate(
        teacher_requests=requests_per_image["teacher"],
        verifier_requests=requests_per_image["verifier"],
        blind_requests=requests_per_image.get("blind", 0.0),
        teacher_questions=draft_count / image_count,
        verifier_questions=0.0,
        blind_questions=0.0,
        kept=kept_count / image_count,
        questions=question_count / image_count,
    )


@pytest.mark.parametrize("preset", [PAPER, EFFICIENT, replace(EFFICIENT, strict=True)], ids=lambda p: p.preset_version)
@pytest.mark.parametrize(("k", "fate"), [(2, PassRates(1.0, 0.8, 0.9)), (1, PassRates(0.6, 0.5, 0.8))])
def test_the_expectation_is_what_the_method_takes(preset: Preset, k: int, fate: PassRates) -> None:
    simulation, estimate = simulate_images(preset, k, fate, image_count=400), estimate_image(preset, k, fate)
    for name in ("teacher_requests", "verifier_requests", "blind_requests", "teacher_questions", "kept", "questions"):
        assert getattr(simulation, name) == pytest.approx(getattr(estimate, name), rel=0.05), name


@given(written=SHARES, verified=SHARES, k=st.integers(1, 9), strict=st.booleans())
def test_better_drafts_never_take_more_and_never_give_less(
    written: float, verified: float, k: int, strict: bool
) -> None:
    for preset in (replace(PAPER, strict=strict), replace(EFFICIENT, strict=strict)):
        worse, better = (
            estimate_image(preset, k, PassRates(written, verified)),
            estimate_image(preset, k, PassRates(written, 1.0)),
        )
        assert better.teacher_requests <= worse.teacher_requests + 1e-9
        assert better.kept >= worse.kept - 1e-9
        assert 0 <= worse.kept <= 1 + 1e-9
        assert worse.questions <= worse.teacher_questions * written * verified + 1e-9
        assert worse.teacher_requests <= preset.max_rounds


def test_perfect_drafts_take_what_can_be_counted_on_fingers() -> None:
    assert estimate_image(PAPER, 2, PassRates(1.0, 1.0)) == QuestionEstimate(3, 3, 0, 3, 3, 0, 1, 3)
    assert estimate_image(replace(EFFICIENT, strict=True), 2, PassRates(1.0, 1.0)) == QuestionEstimate(
        1, 1, 1, 4, 4, 4, 1, 4
    )


def make_forecast(
    image_count: int = 1000, preset: Preset = EFFICIENT, price: Price | None = PRICE, **settings: object
) -> Forecast:
    defaults = {
        "teachers": GEMINI_TEACHERS,
        "prices": {"teacher": price, "verifier": price},
        "rate_limits": RateLimits(16),
    }
    return forecast_run(image_count, partial(estimate_run, preset), **(defaults | settings))  # type: ignore[arg-type]


def test_the_cost_is_that_of_the_tokens_and_a_question_costs_its_share() -> None:
    forecast = make_forecast()
    assert forecast.cost == pytest.approx(PRICE.cost(forecast.input_tokens, forecast.output_tokens))
    assert forecast.cost_per_question == pytest.approx(forecast.cost / forecast.questions)
    assert forecast.requests == sum(line.requests for line in forecast.lines)
    # Every request contains the image.
    assert forecast.input_tokens > 1120 * forecast.requests


def test_an_efficient_run_uploads_fewer_pictures_than_it_gets_questions_and_paper_more() -> None:
    efficient, paper = make_forecast(), make_forecast(preset=PAPER)
    assert efficient.requests < 0.8 * efficient.questions
    assert paper.requests > 2 * paper.questions
    assert efficient.cost is not None
    assert paper.cost is not None
    assert efficient.cost < paper.cost


def test_strict_adds_requests_that_carry_no_picture() -> None:
    forecast = make_forecast(preset=replace(EFFICIENT, strict=True))
    blind_line = forecast.lines[2]
    assert blind_line.kind == "blind"
    assert blind_line.input_tokens < 300 * blind_line.requests
    assert forecast.requests - blind_line.requests == make_forecast().requests


def test_one_unknown_price_leaves_the_cost_open_and_says_what_to_give() -> None:
    forecast = make_forecast(
        prices={"teacher": PRICE, "verifier": None}, teachers=GEMINI_TEACHERS | {"verifier": "openai:mine"}
    )
    assert forecast.cost is None
    assert forecast.lines[0].cost is not None
    assert any("openai:mine: the price is unknown: give --price-in" in line for line in forecast.basis)


def test_a_limit_on_requests_or_tokens_sets_the_pace() -> None:
    free = make_forecast()
    assert free.seconds == pytest.approx(free.requests * 5 / 16)
    slow = make_forecast(rate_limits=RateLimits(16, rpm=10))
    assert slow.seconds == pytest.approx(slow.requests * 6)
    narrow = make_forecast(rate_limits=RateLimits(16, tpm=10_000))
    assert narrow.seconds == pytest.approx(60 * (narrow.input_tokens + narrow.output_tokens) / 10_000)
    assert make_forecast(teachers=dict.fromkeys(GEMINI_TEACHERS, "gemini-batch:gemini-3.8-flash")).seconds is None


def test_ten_finished_pictures_replace_assumptions_by_what_was_measured(tmp_path: Path) -> None:
    generate("scenes:40", tmp_path / "run", noise=0.3, preset="efficient", strict=True)
    status_before = status(tmp_path / "run")
    scene_settings = {"teachers": {"teacher": "scenes:noise=0.3", "verifier": "scenes"}, "status": status_before}
    preset = replace(EFFICIENT, strict=True)
    forecast = make_forecast(110, preset, Price(0.0, 0.0, "runs here"), **scene_settings)
    assert (forecast.pictures, forecast.finished) == (70, 40)
    assert any("measured on 40 finished images" in line for line in forecast.basis)
    assert (forecast.input_tokens, forecast.cost) == (0, 0)
    assert status_before.pace is not None
    assert forecast.seconds == pytest.approx(70 / status_before.pace)
    generate("scenes:110", tmp_path / "run", noise=0.3, preset="efficient", strict=True)
    status_after = status(tmp_path / "run")
    # Real scenes vary more than independent drafts: if a scene does not support one, it often supports few others.
    request_count = sum(status_after.requests.values()) - sum(status_before.requests.values())
    assert forecast.requests == pytest.approx(request_count, rel=0.15)
    assert forecast.questions == pytest.approx(status_after.questions - status_before.questions, rel=0.15)


def test_few_finished_pictures_are_too_few_to_go_by(tmp_path: Path) -> None:
    generate("scenes:9", tmp_path / "run", preset="efficient")
    forecast = make_forecast(100, status=status(tmp_path / "run"))
    assert forecast.finished == 9
    assert any("assumed: 80% of drafts pass" in line for line in forecast.basis)
    assert estimate_pass_rates(2, None) == PassRates(1.0, 0.8)


def test_nothing_left_to_do_costs_nothing(tmp_path: Path) -> None:
    generate("scenes:12", tmp_path / "run", preset="efficient")
    forecast = make_forecast(5, status=status(tmp_path / "run"))
    assert (forecast.pictures, forecast.requests, forecast.questions, forecast.cost) == (0, 0, 0, 0)
    assert forecast.cost_per_question is None


def test_what_is_shown_fits_a_terminal_and_names_every_assumption() -> None:
    parts = list(format_forecast(make_forecast(32_000, replace(PAPER, strict=True))))
    (table,) = [part for part in parts if isinstance(part, Table)]
    assert [row[0] for row in table.rows] == ["teacher", "verifier", "verifier, without the image", "all"]
    assert sum(max(len(str(row[column])) for row in [table.head, *table.rows]) + 2 for column in range(5)) <= 102
    lines = [part for part in parts if isinstance(part, str)]
    assert all(len(line) <= 100 for line in lines)
    assert any("given" in line and "gemini-3.8-flash" in line for line in lines)


def test_a_dry_run_needs_no_key_asks_nobody_and_writes_nothing(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    forecast = dry_run(str(few), tmp_path / "run", limit=5, strict=True)
    assert (forecast.pictures, forecast.finished) == (5, 0)
    price = lookup_price("gemini:gemini-3.8-flash")
    assert price is not None
    assert forecast.cost == pytest.approx(price.cost(forecast.input_tokens, forecast.output_tokens))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_goes_on_from_what_the_run_has_done(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as server:
        generate(str(few), tmp_path / "run", teacher_url=server.url, limit=3)
        request_count = server.request_count
        forecast = dry_run(str(few), tmp_path / "run")
        assert server.request_count == request_count
    assert (forecast.pictures, forecast.finished) == (len(list(few.iterdir())) - 3, 3)


def test_a_dry_run_in_another_runs_folder_is_refused_as_the_run_would_be(tmp_path: Path) -> None:
    generate("scenes:3", tmp_path / "run")
    with pytest.raises(SettingsMismatchError, match="preset was 'paper@1', now 'efficient@1'"):
        dry_run("scenes:3", tmp_path / "run", preset="efficient")
    assert dry_run("scenes:30", tmp_path / "run").pictures == 27


def test_a_strict_run_is_not_resumed_by_other_rules_for_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate("scenes:3", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("compact_hf.methods.compact.preset.ANSWER_RULES_VERSION", "1")
        generate("scenes:3", tmp_path / "run")  # without the strict checks, no answers are compared
        generate("scenes:3", tmp_path / "strict", strict=True)
    with pytest.raises(SettingsMismatchError, match=r"preset was 'paper@1\+strict@1', now 'paper@1\+strict@2'"):
        generate("scenes:3", tmp_path / "strict", strict=True)


def test_a_dry_run_takes_planted_faults_for_the_same_run(tmp_path: Path) -> None:
    generate("scenes:3", tmp_path / "run", noise=0.5)
    assert dry_run("scenes:30", tmp_path / "run").finished == 3


def test_a_dry_run_refuses_what_the_run_would_refuse(few: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="k = 11"):
        dry_run("scenes:3", tmp_path, ks=(11,))
    with pytest.raises(UsageError, match="did you mean gemini"):
        dry_run(str(few), tmp_path, teacher="gemni")
    with pytest.raises(UsageError, match="paper"):
        dry_run(str(few), tmp_path, teacher="gemini-batch")


def test_batches_are_half_the_price_and_the_time_is_theirs(few: Path, tmp_path: Path) -> None:
    forecast = dry_run(str(few), tmp_path, teacher="gemini-batch", preset="efficient")
    assert forecast.seconds is None
    price = lookup_price("gemini:gemini-3.8-flash")
    assert price is not None
    assert forecast.cost == pytest.approx(price.cost(forecast.input_tokens, forecast.output_tokens) / 2)


def test_a_shard_takes_its_part(tmp_path: Path) -> None:
    whole, parts = dry_run("scenes:100", tmp_path), [dry_run("scenes:100", tmp_path, shard=f"{i}/3") for i in (1, 2, 3)]
    assert sum(part.pictures for part in parts) == whole.pictures == 100
    limited = [dry_run("scenes:100", tmp_path, shard=f"{index}/3", limit=10).pictures for index in (1, 2, 3)]
    assert sum(limited) == 10


def test_the_command_prints_a_forecast_and_leaves_no_folder(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    assert main(["generate", str(few), "--out", str(tmp_path / "run"), "--preset", "efficient", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    for phrase in ("teacher", "verifier", "all", "USD per question", "estimated time", "assumed"):
        assert phrase in output
    assert not (tmp_path / "run").exists()
