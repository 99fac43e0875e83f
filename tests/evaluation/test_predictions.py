"""Tests reading the predictions of a model from its directory, and the errors for other directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from compact_hf import compare, read_predictions
from compact_hf.errors import EvaluationError
from compact_hf.evaluation.tasks.compact.records import CompactPrediction as Prediction

PREDICTIONS = [
    Prediction(
        id=f"a#{turn}",
        picture="a",
        k=2,
        capabilities=("color", "counting"),
        question="How many are “red”?\u2028",
        answers=("2", "two"),
        prediction="2",
        right=turn == 0,
    )
    for turn in range(3)
]


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    text = "".join(f"{prediction.to_line()}\n" for prediction in PREDICTIONS)
    (tmp_path / "predictions.jsonl").write_text(text, encoding="utf-8")
    assert read_predictions(tmp_path) == PREDICTIONS
    assert compare(read_predictions(str(tmp_path)), PREDICTIONS).difference == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"predictions.jsonl cannot be read \(No such file or directory\); give the directory of one model"),
        (
            PREDICTIONS[0].to_line() + '\n{"id": "a#1", "answer": "2"}\n',
            r"predictions.jsonl, line 2: picture field required; the file",
        ),
        ('{"id": "a', r"predictions.jsonl, line 1:"),
    ],
)
def test_what_holds_no_predictions_is_told_in_one_line(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "predictions.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=told) as excinfo:
        read_predictions(tmp_path)
    assert "\n" not in str(excinfo.value)
