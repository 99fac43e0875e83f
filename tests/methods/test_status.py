"""Tests that `compact status` reports what the journal holds: counts, coverage, cost and pace, also during writes."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from compact_hf.capabilities import CAPABILITIES
from compact_hf.cli.main import main
from compact_hf.methods import tables as tables_file
from compact_hf.methods.annotate.annotation import AnnotationOutcome
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.methods.compact.status import QuestionRunStatus
from compact_hf.methods.generate import generate
from compact_hf.methods.status import status
from compact_hf.methods.tables import WIDTH, format_status
from compact_hf.records import Reject, to_json
from compact_hf.runs import journal as journal_file
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal, run_directory
from compact_hf.runs.ray import lock_ray_run
from compact_hf.teachers.base import Reply
from compact_hf.teachers.prices import lookup_price
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.openai import OpenAIServer
from compact_hf.testing.scripted_model import KEY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over scenes with planted faults, several combinations per request, all kinds of rejects, and a surplus."""
    out = tmp_path_factory.mktemp("noisy") / "run"
    generate("scenes:80", out, preset="efficient", noise=0.3)
    return out


@pytest.fixture(scope="module")
def found(run: Path) -> QuestionRunStatus:
    run_status = status(run)
    assert isinstance(run_status, QuestionRunStatus)
    return run_status


@pytest.fixture(scope="module")
def outcomes(run: Path) -> list[Outcome]:
    with Journal.read(run) as journal:
        return [parse_outcome(finished.body) for finished in journal.outcomes()]


def test_every_draft_that_was_asked_for_is_accounted_for(found: QuestionRunStatus, outcomes: list[Outcome]) -> None:
    assert found.finished == len(outcomes) == 80
    draft_results = [(outcome.k, reason) for outcome in outcomes for _, reason in outcome.drafts]
    assert found.drafts_by_k == dict(sorted(Counter(k for k, _ in draft_results).items()))
    assert found.accepted_by_k == {
        k: sum(draft_k == k and not reason for draft_k, reason in draft_results) for k in found.drafts_by_k
    }
    dropped_count = sum(entry.count for entry in found.rejects if entry.stage in ("generation", "verification"))
    assert sum(found.drafts_by_k.values()) == sum(found.accepted_by_k.values()) + dropped_count
    # Accepted questions of an image that is not kept are not counted for their combination.
    lost_count = sum(found.accepted_by_k.values()) - found.questions
    assert sum(entry.asked for entry in found.combinations) == sum(found.drafts_by_k.values()) - lost_count
    assert sum(entry.accepted for entry in found.combinations) == found.questions


def test_the_coverage_matrix_counts_the_questions_that_need_both(
    found: QuestionRunStatus, outcomes: list[Outcome]
) -> None:
    turns = [turn for outcome in outcomes if outcome.conversation for turn in outcome.conversation.turns]
    assert found.questions == len(turns)
    for capability, other_capability in product(CAPABILITIES, repeat=2):
        assert found.coverage[capability][other_capability] == sum(
            {capability, other_capability} <= set(turn.capabilities) for turn in turns
        )
        assert found.coverage[capability][other_capability] == found.coverage[other_capability][capability]
    for name, counts in found.questions_by_capability.items():
        assert sum(counts.values()) == found.coverage[name][name]


def test_the_surplus_is_what_lies_beyond_three_a_picture(found: QuestionRunStatus, outcomes: list[Outcome]) -> None:
    sizes = [len(outcome.conversation.turns) for outcome in outcomes if outcome.conversation]
    assert found.surplus == sum(max(0, size - 3) for size in sizes) > 0


def test_declined_combinations_are_told_from_other_rejects(found: QuestionRunStatus) -> None:
    (declined,) = [entry for entry in found.rejects if entry.reason == "declined"]
    assert sum(entry.declined for entry in found.combinations) == declined.count > 0
    assert all(entry.declined + entry.accepted <= entry.asked for entry in found.combinations)


def test_what_runs_here_costs_nothing_and_shows_no_money(found: QuestionRunStatus) -> None:
    assert (found.cost, found.cost_per_question) == (0, 0)
    assert "USD" not in " ".join(map(str, format_status(found)))


def test_a_service_costs_its_tokens_at_its_price(few: Path, tmp_path: Path) -> None:
    with GeminiServer(accept_rate=0.7) as server:
        generate(str(few), tmp_path / "run", teacher_url=server.url)
    run_status = status(tmp_path / "run")
    price = lookup_price("gemini:gemini-3.8-flash")
    assert price is not None
    assert run_status.input_tokens > 0
    assert run_status.cost == pytest.approx(price.cost(run_status.input_tokens, run_status.output_tokens))
    assert run_status.cost_per_question == pytest.approx(run_status.cost / run_status.questions)
    assert run_status.requests == {role: usage.requests for role, usage in run_status.spending.items()}
    assert sum(run_status.requests.values()) == server.request_count
    repriced_status = status(tmp_path / "run", price_in=10.0, price_out=10.0)
    assert repriced_status.cost == pytest.approx((run_status.input_tokens + run_status.output_tokens) / 100_000)


def test_a_price_that_nobody_knows_is_said_so_until_it_is_given(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer() as server:
        generate(str(few), tmp_path / "run", teacher="openai:mine", teacher_url=server.url, limit=2)
    run_status = status(tmp_path / "run")
    assert (run_status.cost, run_status.cost_per_question) == (None, None)
    assert any("openai:mine: the price is unknown: give --price-in" in str(part) for part in format_status(run_status))
    priced_status = status(tmp_path / "run", price_in=1.0, price_out=2.0)
    assert priced_status.cost == pytest.approx((priced_status.input_tokens + 2 * priced_status.output_tokens) / 1e6)


class Clock:
    """A clock that tests can set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(journal_file, "time", clock)
    monkeypatch.setattr(tables_file, "time", clock)
    return clock


IDENTITY = {"source": "/photos", "method": "compact", "preset": "paper@1", "k": [1], "seed": 0}
TEACHERS = {"teacher": "gemini:gemini-3.8-flash", "verifier": "gemini:gemini-3.8-flash"}


def make_empty_outcome(number: int) -> FinishedImage:
    return FinishedImage(
        f"{number:032x}", f"{number}.png", to_json(Outcome(1, None, (), (("key", "declined"),), "", "")), 0
    )


def test_the_pace_is_that_of_the_newest_pictures_since_the_last_pause(tmp_path: Path, clock: Clock) -> None:
    with Journal.open(tmp_path / "run", IDENTITY | TEACHERS) as journal:
        first_at = clock.now
        for number in range(20):
            clock.now += 60
            journal.record_outcome(make_empty_outcome(number))
        clock.now += 8 * 3600
        for number in range(20, 31):
            clock.now += 2
            journal.record_outcome(make_empty_outcome(number))
        run_status = status(tmp_path / "run")
        assert run_status.pace == pytest.approx(1 / 2)
        assert (run_status.first_at, run_status.last_at) == (first_at + 60, clock.now)


def test_a_run_is_running_as_long_as_its_process_works_on_it(tmp_path: Path, clock: Clock) -> None:
    """A batch teacher may finish no image for hours, and a run is over as soon as Ctrl-C has ended it."""
    with Journal.open(tmp_path / "run", IDENTITY | TEACHERS) as journal:
        assert "running, no image is finished yet" in list(format_status(status(tmp_path / "run")))
        journal.record_outcome(make_empty_outcome(1))
        clock.now += 8 * 3600
        run_status = status(tmp_path / "run")
        assert run_status.is_running
        assert any(str(part).startswith("running, last image 8 h") for part in format_status(run_status))
    run_status = status(tmp_path / "run")
    assert not run_status.is_running
    assert any(str(part).startswith("not running, last image 8 h") for part in format_status(run_status))


def test_a_finished_run_is_not_running(found: QuestionRunStatus) -> None:
    assert (found.left, found.is_running) == (0, False)


def test_a_run_on_ray_is_running_as_long_as_its_driver_is(tmp_path: Path) -> None:
    with lock_ray_run(tmp_path / "run", 2):
        for index in (1, 2):
            directory = tmp_path / "run" / f"shard-{index}-of-2"
            Journal.open(directory, IDENTITY | TEACHERS | {"shard": f"{index}/2"}).close()
        assert status(tmp_path / "run").is_running
    assert not status(tmp_path / "run").is_running


def test_looking_at_a_run_never_keeps_another_process_from_starting_it(tmp_path: Path) -> None:
    Journal.open(tmp_path / "run", IDENTITY | TEACHERS).close()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2000):
            pool.submit(run_directory(tmp_path / "run").is_locked)
        for _ in range(5):
            Journal.open(tmp_path / "run", IDENTITY | TEACHERS).close()
    assert not status(tmp_path / "run").is_running


def test_the_time_that_is_left_is_that_of_the_pictures_left_at_this_pace(tmp_path: Path, clock: Clock) -> None:
    with Journal.open(tmp_path / "run", IDENTITY | TEACHERS) as journal:
        assert status(tmp_path / "run").left is None
        journal.record_image_total(311)
        for number in range(11):
            clock.now += 2
            journal.record_outcome(make_empty_outcome(number))
    run_status = status(tmp_path / "run")
    assert (run_status.left, run_status.pace) == (300, pytest.approx(1 / 2))
    assert any("300 left: about 10 min" in str(part) for part in format_status(run_status))


def test_a_run_that_is_over_has_nothing_left(found: QuestionRunStatus, tmp_path: Path) -> None:
    assert found.left == 0
    generate("scenes:9", tmp_path / "run", limit=4)
    assert status(tmp_path / "run").left == 0


def test_a_run_without_a_finished_picture_has_no_pace(tmp_path: Path) -> None:
    Journal.open(tmp_path / "run", IDENTITY | TEACHERS).close()
    run_status = status(tmp_path / "run")
    assert (run_status.finished, run_status.pace, run_status.is_running, run_status.first_at) == (0, None, False, None)
    assert (run_status.cost, run_status.cost_per_question) == (0, None)
    assert "not running, no image is finished yet" in list(format_status(run_status))


def test_it_reads_what_is_there_while_a_writer_writes(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", IDENTITY | TEACHERS) as journal:
        journal.record_outcome(make_empty_outcome(1))
        writer = sqlite3.connect(tmp_path / "run" / FILE_NAME, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM outcomes")
        assert status(tmp_path / "run").finished == 1
        writer.execute("COMMIT")
        writer.close()
        assert status(tmp_path / "run").finished == 0


def test_the_shards_of_a_run_are_counted_together(tmp_path: Path) -> None:
    for index in (1, 2):
        with Journal.open(tmp_path / f"shard-{index}-of-2", IDENTITY | TEACHERS | {"shard": f"{index}/2"}) as journal:
            journal.record_reply("a", "teacher", Reply(str(index), "{}", "m", input_tokens=1_000_000))
            for number in range(index):
                journal.record_outcome(make_empty_outcome(10 * index + number))
    run_status = status(tmp_path)
    assert (run_status.finished, run_status.requests["teacher"], run_status.input_tokens) == (3, 2, 2_000_000)
    assert run_status.drafts_by_k == {1: 3}
    assert "shard" not in run_status.identity
    assert status(tmp_path / "shard-1-of-2").identity["shard"] == "1/2"


def test_a_run_of_another_method_is_counted_as_far_as_all_methods_go(tmp_path: Path) -> None:
    identity = {"source": "/data", "method": "annotate", "verifier": "openai:mine"}
    body = to_json(AnnotationOutcome((), (Reject("conversation", "odd", "row"),), "m"))
    with Journal.open(tmp_path / "run", identity) as journal:
        journal.record_reply("a", "verifier", Reply("key", "{}", "m", input_tokens=5))
        journal.record_outcome(FinishedImage("a", "a.png", body, 2))
    run_status = status(tmp_path / "run", price_in=1.0, price_out=1.0)
    assert (run_status.finished, run_status.conversations, run_status.questions) == (1, 1, 2)
    assert (run_status.requests, run_status.cost) == ({"verifier": 1}, pytest.approx(5e-6))
    assert [(reject.reason, reject.count) for reject in run_status.rejects] == [("odd", 1)]
    assert list(format_status(run_status))


def test_the_journal_of_an_evaluation_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal.open(tmp_path / "run", {"model": "openai:mine", "max_edge": 1024}).close()
    assert main(["status", str(tmp_path / "run")]) == 1
    assert "is not a run of `compact generate`" in capsys.readouterr().err


def test_every_line_fits_the_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run)]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= WIDTH
    for phrase in (
        "accepted",
        "questions that need",
        "declined by the teacher",
        "dropped at",
        "planted",
        "over the limit of three per image",
    ):
        assert phrase in output


def test_json_holds_everything(run: Path, found: QuestionRunStatus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["coverage"] == found.coverage
    assert data["combinations"][0].keys() == {"capabilities", "asked", "accepted", "declined"}
    assert data["spending"]["teacher"]["price"]["source"] == "runs here"
    assert {len(reject["examples"]) for reject in data["rejects"]} <= {1, 2, 3}
    assert data.keys() == set(QuestionRunStatus.__dataclass_fields__)


def test_each_day_is_counted_at_its_own_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(journal_file, "time", clock)
    days = [datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, 0, 1, tzinfo=UTC)]
    with Journal.open(tmp_path / "run", IDENTITY | TEACHERS) as journal:
        for number, day in enumerate(days):
            clock.now = day.timestamp()
            journal.record_reply("a", "teacher", Reply(str(number), "{}", "m", input_tokens=1_000_000))
    run_status = status(tmp_path / "run")
    # The introductory price ends at the end of the year.
    assert run_status.cost == pytest.approx(0.75 + 1.5)
    assert (run_status.requests["teacher"], run_status.input_tokens) == (2, 2_000_000)
    assert status(tmp_path / "run", price_in=3.0, price_out=0.0).cost == pytest.approx(6.0)
