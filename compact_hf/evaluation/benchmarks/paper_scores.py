"""Holds the scores of the paper's main table, and computes relative performance over several benchmarks. No I/O.

For two rows the printed relative performance does not follow from the printed scores. `PaperRow.relative` is computed
from the scores; `PaperRow.printed` is the value in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from compact_hf.errors import EvaluationError

BENCHMARKS: Final = (
    "InfoVQA",
    "SEED-Bench-2-Plus",
    "MME",
    "TextVQA",
    "MM-Vet",
    "CV-Bench",
    "MMStar",
    "LLaVA-in-the-Wild",
)
"""The eight benchmarks, in the order of the paper's columns. MME's scores are points, all others percentages."""


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of the paper's table: LLaVA-v1.5-7B-LoRA tuned on one dataset.

    Attributes:
        data (`str`): name of the dataset.
        size (`int`): number of training conversations, in thousands.
        scores (`dict[str, float]`): benchmark -> score.
        printed (`float`): relative performance in percent, as printed in the paper.
    """

    data: str
    size: int
    scores: dict[str, float]
    printed: float

    @property
    def relative(self) -> float:
        """Relative performance in percent, computed from the scores of this row and of LLaVA-665K."""
        return relative_performance(self.scores, REFERENCE.scores)

    def format_relative(self) -> str:
        """Return the computed value, followed by the printed one if it differs: `96.1 (printed: 97.1)`."""
        computed, printed = f"{self.relative:.1f}", f"{self.printed:.1f}"
        return computed if computed == printed else f"{computed} (printed: {printed})"


def relative_performance(scores: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Return the mean over the benchmarks of score / reference score, in percent (paper, section 4).

    Args:
        scores (`Mapping[str, float]`): benchmark -> score, in any unit in which higher is better.
        reference (`Mapping[str, float]`): benchmark -> score that counts as 100%, for the same benchmarks and units.

    Raises:
        EvaluationError: the benchmarks differ, there are none, or a reference score is not above 0.
    """
    if scores.keys() != reference.keys():
        differences = [
            ("without a reference", scores.keys() - reference.keys()),
            ("missing", reference.keys() - scores.keys()),
        ]
        message = "; ".join(f"{label}: {', '.join(sorted(names))}" for label, names in differences if names)
        raise EvaluationError(f"scores and reference must have the same benchmarks ({message})")
    if not reference:
        raise EvaluationError("no benchmark has a score; there is nothing to average")
    for name, score in reference.items():
        # Also true for NaN, in contrast to `score <= 0`.
        if not score > 0:
            raise EvaluationError(f"the reference score of {name} is {score}; it must be above 0")
    return 100 * sum(scores[name] / reference[name] for name in reference) / len(reference)


def _row(data: str, size: int, scores: tuple[float, ...], printed: float) -> PaperRow:
    return PaperRow(data, size, dict(zip(BENCHMARKS, scores, strict=True)), printed)


REFERENCE: Final = _row("LLaVA-665K", 665, (20.80, 41.72, 1478.48, 46.99, 29.22, 60.92, 35.11, 68.50), 100.0)
"""The full LLaVA-665K, which counts as 100%."""

TABLE: Final = (
    REFERENCE,
    _row("random", 65, (20.05, 41.85, 1327.70, 42.88, 30.46, 54.71, 34.13, 64.30), 95.4),
    _row("EL2N", 65, (20.52, 42.95, 1350.10, 42.41, 33.53, 50.92, 33.82, 62.30), 97.1),
    _row("D2-Pruning", 65, (20.90, 43.70, 1362.30, 41.82, 31.61, 48.49, 36.63, 61.80), 97.1),
    _row("ICONS", 65, (21.00, 42.03, 1402.75, 43.12, 31.23, 55.96, 35.96, 61.80), 97.5),
    _row("COMPACT", 65, (23.68, 43.13, 1379.94, 44.37, 31.74, 55.28, 36.13, 64.50), 100.2),
)
"""The rows of the paper's main table, in its order."""
