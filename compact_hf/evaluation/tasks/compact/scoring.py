"""Computes accuracy by k, by capability and by pair of capabilities, without I/O.

They are in results.json as `by_k`, `by_capability` and `by_pair`:

    "by_k": {"1": SCORE, ...}, "by_capability": {"color": SCORE, ...}, "by_pair": {"color+shape": SCORE, ...}

A question counts once under its k if k is known, once under each of its capabilities and once under each pair of them.
Values of k are in ascending order, capabilities and pairs in the paper's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.evaluation.scoring import AccuracyResults, Rule, Score, score_answers
from compact_hf.evaluation.tasks.compact.records import CompactPrediction
from compact_hf.reports.page_parts import Fact
from compact_hf.reports.pair_charts import PAIRS


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactResults(AccuracyResults):
    """The scores of one model by k, capability and pair of capabilities."""

    @property
    def by_k(self) -> dict[int, Score]:
        """Scores as k -> score, in ascending order of k."""
        return {int(k): score for k, score in self.parts["k"].items()}

    @property
    def by_capability(self) -> dict[str, Score]:
        """Scores as capability -> score, in the paper's order."""
        return self.parts["capability"]

    @property
    def by_pair(self) -> dict[str, Score]:
        """Scores as pair (such as `color+shape`) -> score of the questions that need both, in the paper's order."""
        return self.parts["pair"]

    def rows(self) -> Iterator[tuple[str, Score]]:
        """Yield (label, score) for all questions, for each k and for each capability."""
        yield "all", self.overall
        yield from ((f"k = {k}", score) for k, score in self.by_k.items())
        yield from self.by_capability.items()

    def baselines(self) -> tuple[Fact, ...]:
        """Return the accuracy of the majority answers."""
        note = "always giving the most frequent right answer of each k, chosen in hindsight"
        return (Fact("majority answer", f"{self.overall.majority.accuracy:.1%}", note),)


def score_by_k(predictions: Sequence[CompactPrediction], rule: Rule) -> tuple[Score, dict[str, dict[str, Score]]]:
    """Return the accuracy of all `predictions`, and grouping (`k`, `capability` or `pair`) -> part -> accuracy.

    Raises:
        UnknownCapabilityError: a capability is not one of the ten.
    """
    overall, parts = score_answers(predictions, rule, get_stratum=get_stratum, get_parts=iter_parts)
    # `score_answers` sorts parts by name, which would put k = 10 before k = 2.
    orders = {
        "k": sorted(parts.get("k", ()), key=int),
        "capability": list(CAPABILITIES),
        "pair": ["+".join(pair) for pair in PAIRS],
    }
    ordered = {
        grouping: {part: parts[grouping][part] for part in order if part in parts.get(grouping, ())}
        for grouping, order in orders.items()
    }
    return overall, ordered


def get_stratum(prediction: CompactPrediction) -> tuple[bool, int]:
    """Return a sort key for the prediction's k; predictions without k come last."""
    return prediction.k is None, prediction.k or 0


def iter_parts(prediction: CompactPrediction) -> Iterator[tuple[str, str]]:
    """Yield the k, the capabilities and the pairs of capabilities that the prediction counts under."""
    if prediction.k is not None:
        yield "k", str(prediction.k)
    # In the paper's order, so that a pair has one name whatever the order in the dataset.
    names = canonicalize(prediction.capabilities)
    yield from (("capability", name) for name in names)
    yield from (("pair", "+".join(pair)) for pair in combinations(names, 2))
