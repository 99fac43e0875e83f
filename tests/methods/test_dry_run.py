"""Tests the forecast of a run before any request is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.errors import SettingsMismatchError, UsageError
from compact_hf.methods.dry_run import dry_run
from compact_hf.methods.generate import generate


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)


def test_a_plan_needs_no_key_and_leaves_nothing_behind(few: Path, tmp_path: Path) -> None:
    forecast = dry_run(str(few), tmp_path / "run", preset="efficient")
    assert (forecast.pictures, forecast.finished) == (7, 0)
    assert forecast.cost is not None
    assert forecast.cost > 0
    assert not (tmp_path / "run").exists()


def test_efficient_costs_less_than_paper_and_a_batch_half_of_that(few: Path, tmp_path: Path) -> None:
    paper = dry_run(str(few), tmp_path)
    efficient = dry_run(str(few), tmp_path, preset="efficient")
    batch = dry_run(str(few), tmp_path, preset="efficient", teacher="gemini-batch")
    costs = [forecast.cost_per_question for forecast in (paper, efficient, batch)]
    assert costs[0] > costs[1] > 1.9 * costs[2]


def test_limits_and_shards_are_planned_for(few: Path, tmp_path: Path) -> None:
    assert dry_run(str(few), tmp_path, limit=4).pictures == 4
    assert [dry_run(str(few), tmp_path, shard=f"{index}/2").pictures for index in (1, 2)] == [4, 3]
    assert [dry_run(str(few), tmp_path, shard=f"{index}/2", limit=3).pictures for index in (1, 2)] == [2, 1]


def test_a_run_that_began_is_planned_from_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "run"
    generate("scenes:60", out, limit=20, preset="efficient")
    forecast = dry_run("scenes:60", out, preset="efficient")
    assert (forecast.pictures, forecast.finished) == (40, 20)
    assert any("measured on 20" in line for line in forecast.basis)
    progress = generate("scenes:60", out, preset="efficient")
    assert forecast.requests == pytest.approx(progress.sent, rel=0.25)


@pytest.mark.parametrize("other", [{"seed": 7}, {"max_edge": 100}], ids=["seed", "max_edge"])
def test_a_plan_refuses_another_runs_folder_as_the_run_would(other: dict[str, Any], tmp_path: Path) -> None:
    generate("scenes:3", tmp_path / "run")
    dry_run("scenes:3", tmp_path / "run")
    with pytest.raises(SettingsMismatchError, match=f"{next(iter(other))} was"):
        dry_run("scenes:3", tmp_path / "run", **other)


def test_the_command_prints_a_table_and_asks_nothing(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(few), "--out", str(tmp_path / "run"), "--preset", "efficient", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "7 images" in output
    assert "USD per question" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [{"ks": (10,)}, {"ks": (0,)}, {"max_edge": 0}, {"max_cost": -1.0}, {"max_requests": 0}, {"teacher": "scenes"}],
)
def test_what_the_run_would_refuse_is_refused_before(
    few: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as dry_run_error:
        dry_run(str(few), tmp_path / "run", **settings)
    monkeypatch.setenv("GEMINI_API_KEY", "test-key")
    with pytest.raises(UsageError) as run_error:
        generate(str(few), tmp_path / "run", **settings)
    assert str(dry_run_error.value) == str(run_error.value)


def test_drawn_scenes_have_questions_up_to_five(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="k = 1 to 5"):
        dry_run("scenes:5", tmp_path / "run", ks=(6,))
