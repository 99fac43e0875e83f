"""Counts the outcomes of annotate for `compact status`.

The figures about questions with a requested k stay empty; `summarize` returns the figures about annotations.
"""

from __future__ import annotations

from typing import Any

from compact_hf.methods.compact.status import QuestionCounter
from compact_hf.methods.status import OutcomeCounter


class AnnotationCounter(QuestionCounter):
    """Counts only rejects; see `OutcomeCounter`."""

    def add_outcome(self, outcome: Any) -> None:
        """Count an outcome; see `OutcomeCounter.add_outcome`.

        No drafts are counted, because the questions of a dataset were not requested from a teacher.

        Args:
            outcome (`Any`): the outcome of one image.
        """
        OutcomeCounter.add_outcome(self, outcome)
