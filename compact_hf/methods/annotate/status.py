"""What `compact status` says of annotations: `summarize` has their figures, those of questions with a k stay empty."""

from __future__ import annotations

from typing import Any

from compact_hf.methods.compact.status import QuestionCounter
from compact_hf.methods.status import OutcomeCounter


class AnnotationCounter(QuestionCounter):
    """Counts rejects; see `OutcomeCounter`."""

    def add_outcome(self, outcome: Any) -> None:
        """See `OutcomeCounter.add_outcome`: an annotated question was not asked for, so no draft is counted."""
        OutcomeCounter.add_outcome(self, outcome)
