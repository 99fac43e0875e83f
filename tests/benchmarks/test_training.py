"""benchmarks/training.py measures what it says, at sizes that take seconds."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import readme


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(readme.__file__).parent))
    return importlib.import_module("training")


# PEFT 0.21 still asks by the name that transformers 5.23 has deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_every_figure_is_measured_and_shown(training: ModuleType, tmp_path: Path) -> None:
    """In this process and the first lines only, to be quick."""
    trained = importlib.import_module("trained")
    start = trained.Asked(training.release(tmp_path, pictures=12), "tiny", steps=1, batch=4, workers=0)
    lines = dict(list(training.lines(start).items())[:4])
    found = json.loads(json.dumps({name: trained.measure(asked) for name, asked in lines.items()}))
    for figures in found.values():
        assert set(training.HEAD) <= set(figures)
        assert all(value > 0 for value in figures.values())
        assert figures["of_peak"] < 1
    apart, plain, ours = list(found.values())[:3]
    # A row is one question there, and two or three here, with one picture for all.
    assert apart["questions_per_second"] == apart["rows_per_second"]
    assert 2 <= ours["questions_per_second"] / ours["rows_per_second"] <= 3
    assert plain["tokens_per_question"] < apart["tokens_per_question"]
    gains = training.gains(found)
    assert gains["format"] == plain["questions_per_second"] / apart["questions_per_second"]
    result = {"machine": {"gpu": "", "cpu": "x", "threads": 1}, "size": "tiny", "lines": found, "gains": gains}
    assert training.table(result).count("\n| ") == len(lines)
    shown = readme.training(result)
    assert len(shown) == len(lines) + 2
    assert all(figure for _, figure, _ in shown)


def test_a_switch_that_does_not_hold_is_told_in_its_line(training: ModuleType, tmp_path: Path) -> None:
    release = training.release(tmp_path, pictures=12)
    wrong = replace(next(iter(training.lines(training.Asked(release, "tiny", 1)).values())), attention="none such")
    figures = training.measured(wrong)
    assert "none such" in figures["failed"]
    result = {"machine": {"gpu": "", "cpu": "x", "threads": 1}, "size": "tiny", "lines": {"it": figures}, "gains": {}}
    assert figures["failed"] in training.table(result)
