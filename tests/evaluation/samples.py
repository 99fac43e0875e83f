"""What the tests of evaluation ask and score by the task `compact`, in fewer words."""

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
    """Return what `compact` asks about a dataset."""
    return read_questions(COMPACT, dataset, DataOptions(config, split, columns), limit=limit)


def score(
    predictions: Sequence[CompactPrediction], *, model: str, dataset: str, matching: str = "exact"
) -> CompactResults:
    """Return the scores of predictions by `compact`."""
    return Compact(DEFAULT_TASK).score(predictions, model=model, dataset=dataset, matching=matching)
