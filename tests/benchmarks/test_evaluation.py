"""Tests benchmarks/evaluation.py with few questions, so that it takes seconds."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import tables
from compact_hf import copy_student
from compact_hf.evaluation.inference import Student
from tests.evaluation.samples import load_questions


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(tables.__file__).parent))
    return importlib.import_module("evaluation")


def test_every_way_answers_the_same_and_is_shown(
    evaluation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_SIZES", (1, 16))
    monkeypatch.setattr(evaluation, "ROUNDS", 1)
    _, student = copy_student(tmp_path / "student")
    questions = evaluation.load_images(load_questions("scenes:2").questions)
    result = json.loads(json.dumps(evaluation.measure(Student(str(student)), questions)))
    assert list(result["lines"]) == ["loop", "batch 1", "batch 16"]
    assert result["questions"] == len(questions) > result["pictures"] == 2
    assert all(0 < line["least"] <= line["median"] <= line["most"] for line in result["lines"].values())
    table = evaluation.format_table({"machine": {"cpu": "a processor", "torch": "2.0", "load": 0.5}, **result})
    assert "| batch 16 | " in table
    assert "a processor" in table


def test_other_answers_than_the_loops_end_it(
    evaluation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "answer_in_loop", lambda student, questions: (["no"] * len(questions), 1.0))
    monkeypatch.setattr(
        evaluation, "answer_in_batches", lambda student, questions, size: (["yes"] * len(questions), 1.0)
    )
    with pytest.raises(SystemExit, match="batch 1 differs from the loop in 3 of 3 answers"):
        evaluation.measure("any", [None] * 3)
