"""What judging gives: one data set, the scores of every model on it, and how the others differ from the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from compact_hf.evaluation.matching import Matching
from compact_hf.evaluation.scoring import Results
from compact_hf.records import RESULTS_SCHEMA

if TYPE_CHECKING:
    from compact_hf.evaluation.significance import Comparison


@dataclass(frozen=True, slots=True)
class Judged:
    """Some models on the same questions.

    Attributes:
        dataset (`str`): what it is called.
        matching (`str`): when an answer counts as right, `exact` or `relaxed`.
        results (`tuple[Results, ...]`): one for each model, in the order in which they were judged first. No two have
            the same name.
        folders (`tuple[str, ...]`): of each of them, inside the judging's folder; predictions.jsonl lies there.
        comparisons (`tuple[Comparison, ...]`): of each further model with the first: `comparisons[i]` is
            `compare(predictions of results[i + 1], predictions of results[0])`.
        notes (`tuple[str, ...]`): what a reader has to know of the questions, such as how many rows were left out.
        picture_of (`Callable[[str], bytes]`): gives the encoded picture that the question of that id was asked about.
    """

    dataset: str
    matching: Matching
    results: tuple[Results, ...]
    folders: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    picture_of: Callable[[str], bytes] = field(compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return what results.json of a judging holds; `models` has each model's results.json."""
        first = self.results[0].model
        return {
            "schema": RESULTS_SCHEMA,
            "dataset": self.dataset,
            "matching": self.matching,
            "models": [results.to_json() for results in self.results],
            "comparisons": [
                {"baseline": first, "model": results.model, **asdict(comparison)}
                for results, comparison in zip(self.results[1:], self.comparisons, strict=True)
            ],
            "notes": list(self.notes),
        }
