"""A judged model's answers: the folder that `compact evaluate` wrote for it in, its predictions out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.scoring import Prediction
from compact_hf.records import from_json

PREDICTIONS: Final = "predictions.jsonl"


def read_predictions(folder: str | Path) -> list[Prediction]:
    """Return what one model answered, question by question.

    Args:
        folder (`str | Path`): a model's folder in what `compact evaluate` wrote, with predictions.jsonl in it.

    Raises:
        EvaluationError: there is no such file, or it was written by another version.
    """
    from pydantic import ValidationError

    path = Path(folder) / PREDICTIONS
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror or error}); give the folder of one model, DIR/NAME of compact "
            "evaluate's --out DIR"
        ) from error
    predictions = []
    for number, line in enumerate(lines, 1):
        try:
            predictions.append(from_json(Prediction, line))
        except ValidationError as error:
            wrong = error.errors()[0]
            raise EvaluationError(
                f"{path}, line {number}: {'.'.join(map(str, wrong['loc']))} {wrong['msg'].lower()}; it was written by "
                "another version or is damaged: judge the model again"
            ) from error
    return predictions
