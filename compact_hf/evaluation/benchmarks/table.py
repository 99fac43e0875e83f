"""The paper's table with rows of one's own: lmms-eval's results files in, scores and relative performance out.

compact benchmarks table benchmarks/results
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, REFERENCE, TABLE, relative_performance
from compact_hf.evaluation.benchmarks.results import HarnessScores, Heldout, read_results

_DATA: Final = "training data"
_RELATIVE: Final = "rel. %"


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One row.

    Attributes:
        name (`str`): what the paper's model was tuned on; the model's own name for a row of one's own.
        own (`bool`): whether it is one.
        scores (`dict[str, float]`): benchmark -> score, for those that have one.
        relative (`float`, *optional*): relative performance in per cent over `BenchmarkTable.over`; None where that is
            empty.
        printed (`float`, *optional*): what the paper prints for it, where it stands over all eight.
        heldout (`Heldout`, *optional*): of a row of one's own.
    """

    name: str
    own: bool
    scores: dict[str, float]
    relative: float | None
    printed: float | None = None
    heldout: Heldout | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkTable:
    """The paper's rows, then one's own.

    Attributes:
        rows (`tuple[BenchmarkRow, ...]`): in the order in which they are shown.
        over (`tuple[str, ...]`): the benchmarks that every row has; relative performance is over these, in every row.
        reference (`str`): what counts as 100% in one's own rows; in the paper's it is LLaVA-665K as the paper has it.
        notes (`tuple[str, ...]`): what a reader has to know.
    """

    rows: tuple[BenchmarkRow, ...]
    over: tuple[str, ...]
    reference: str
    notes: tuple[str, ...]

    def cells(self) -> list[list[str]]:
        """Return the table's head and lines as text, a dash for a missing score; empty without a score of one's own."""
        if not any(row.scores for row in self.rows if row.own):
            return []
        lines = [[_DATA, *BENCHMARKS, _RELATIVE]]
        for row in self.rows:
            scores = [f"{row.scores[name]:.2f}" if name in row.scores else "-" for name in BENCHMARKS]
            relative = "-" if row.relative is None else f"{row.relative:.1f}"
            if row.printed is not None and relative != f"{row.printed:.1f}":
                relative += f" (printed: {row.printed:.1f})"
            lines.append([row.name, *scores, relative])
        return lines

    def heldout_cells(self) -> list[list[str]]:
        """Return the same of the held-out questions: how many, accuracy over all and by k; empty without any."""
        asked = [(row.name, row.heldout) for row in self.rows if row.heldout]
        if not asked:
            return []
        ks = sorted({k for _, heldout in asked for k in heldout.by_k})
        lines = [["held-out questions", "n", "accuracy", *(f"k = {k}" for k in ks)]]
        for name, heldout in asked:
            by_k = [f"{heldout.by_k[k]:.3f}" if k in heldout.by_k else "-" for k in ks]
            lines.append([name, str(heldout.n), f"{heldout.accuracy:.3f}", *by_k])
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the table with its figures unrounded."""
        return {"over": self.over, "reference": self.reference, "rows": [asdict(row) for row in self.rows]}


def benchmark_table(results: Sequence[str | Path], *, reference: str | Path | None = None) -> BenchmarkTable:
    """Return the paper's table with a row for each model that lmms-eval has judged.

    Args:
        results (`Sequence[str | Path]`): results files of lmms-eval, or folders with such files anywhere below.
        reference (`str | Path`, *optional*): those of the model that is to count as 100% instead of the paper's
            LLaVA-665K: trained on the full data, and judged by the same version and the same judge.

    Raises:
        EvaluationError: a file cannot be read, or is not what it should be; or the reference is of several models, or
            has a score of 0.
    """
    own = read_results(results)
    base = _one(read_results([reference]), str(reference)) if reference else None
    everyone = [*own, base] if base else own
    over = tuple(name for name in BENCHMARKS if all(name in one.scores for one in everyone))
    whole = len(over) == len(BENCHMARKS)
    rows = [
        BenchmarkRow(
            row.data, False, row.scores, _relative(row.scores, REFERENCE.scores, over), row.printed if whole else None
        )
        for row in TABLE
    ]
    hundred = base.scores if base else REFERENCE.scores
    shown = [base, *(one for one in own if one.model != base.model)] if base else own
    names = _names([one.model for one in shown])
    rows += [
        BenchmarkRow(name, True, one.scores, _relative(one.scores, hundred, over), heldout=one.heldout)
        for name, one in zip(names, shown, strict=True)
    ]
    notes = [note for one in everyone for note in one.notes]
    for name, one in zip(names, shown, strict=True):
        missing = [benchmark for benchmark in BENCHMARKS if benchmark not in one.scores]
        if missing and one.scores:
            notes.append(f"{name} has no score on {', '.join(missing)}")
    if over and not whole:
        notes.append(f"relative performance is over the {len(over)} of {len(BENCHMARKS)} that every row has")
    return BenchmarkTable(tuple(rows), over, names[0] if base else REFERENCE.data, tuple(dict.fromkeys(notes)))


def _one(found: Sequence[HarnessScores], place: str) -> HarnessScores:
    if len(found) > 1:
        raise EvaluationError(
            f"{place} has results of {len(found)} models ({', '.join(one.model for one in found)}); "
            "give those of one as --reference"
        )
    return found[0]


def _relative(scores: Mapping[str, float], hundred: Mapping[str, float], over: Sequence[str]) -> float | None:
    if not over:
        return None
    return relative_performance({name: scores[name] for name in over}, {name: hundred[name] for name in over})


def _names(models: Sequence[str]) -> list[str]:
    """Return the last parts of where models lie, or all of it where two have the same."""
    short = [Path(model).name for model in models]
    return [model if short.count(name) > 1 else name for name, model in zip(short, models, strict=True)]
