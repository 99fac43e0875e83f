"""Helpers that read questions and score predictions with the task `compact`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compact_hf.evaluation.questions import DataOptions, QuestionSet
from compact_hf.evaluation.task import DEFAULT_TASK, load_task, read_questions
from compact_hf.evaluation.tasks.compact.records import CompactPrediction
from compact_hf.evaluation.tasks.compact.scoring import CompactResults
from compact_hf.evaluation.tasks.compact.task import Compact

COMPACT = load_task(DEFAULT_TASK)


def load_questions(
    dataset: str,
    *,
    config: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> QuestionSet:
    """Return the questions that `compact` asks about a dataset."""
    return read_questions(COMPACT, dataset, DataOptions(config, split, columns), limit=limit)


def score(
    predictions: Sequence[CompactPrediction], *, model: str, dataset: str, matching: str = "exact"
) -> CompactResults:
    """Return the scores that `compact` gives to predictions."""
    return Compact(DEFAULT_TASK).score(predictions, model=model, dataset=dataset, matching=matching)
