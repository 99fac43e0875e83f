"""The paper's table with rows of one's own: lmms-eval's results files in, scores and relative performance out.

compact benchmarks table benchmarks/results
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, REFERENCE, TABLE, relative_performance
from compact_hf.evaluation.benchmarks.results import HarnessScores, HeldoutScores, read_harness_scores
from compact_hf.reports.table import NotebookSummary, Table

_DATA_HEADER: Final = "training data"
_RELATIVE_HEADER: Final = "rel. %"


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One row.

    Attributes:
        name (`str`): what the paper's model was tuned on; the model's own name for a row of one's own.
        own (`bool`): whether it is one.
        scores (`dict[str, float]`): benchmark -> score, for those that have one.
        relative (`float`, *optional*): relative performance in per cent over `BenchmarkTable.shared_benchmarks`;
            None if that is empty.
        printed (`float`, *optional*): what the paper prints for it, where it stands over all eight.
        heldout (`HeldoutScores`, *optional*): of a row of one's own.
    """

    name: str
    own: bool
    scores: dict[str, float]
    relative: float | None
    printed: float | None = None
    heldout: HeldoutScores | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkTable(NotebookSummary):
    """The paper's rows, then one's own.

    Attributes:
        rows (`tuple[BenchmarkRow, ...]`): in the order in which they are shown.
        shared_benchmarks (`tuple[str, ...]`): the benchmarks that every row has; relative performance is over these,
            in every row.
        reference (`str`): what counts as 100% in one's own rows; in the paper's it is LLaVA-665K as the paper has it.
        notes (`tuple[str, ...]`): what a reader has to know.
    """

    rows: tuple[BenchmarkRow, ...]
    shared_benchmarks: tuple[str, ...]
    reference: str
    notes: tuple[str, ...]

    def cells(self) -> list[list[str]]:
        """Return the table's head and lines as text, a dash for a missing score; empty without a score of one's own."""
        if not any(row.scores for row in self.rows if row.own):
            return []
        lines = [[_DATA_HEADER, *BENCHMARKS, _RELATIVE_HEADER]]
        for row in self.rows:
            scores = [f"{row.scores[name]:.2f}" if name in row.scores else "-" for name in BENCHMARKS]
            relative = "-" if row.relative is None else f"{row.relative:.1f}"
            if row.printed is not None and relative != f"{row.printed:.1f}":
                relative += f" (printed: {row.printed:.1f})"
            lines.append([row.name, *scores, relative])
        return lines

    def heldout_cells(self) -> list[list[str]]:
        """Return the same of the held-out questions: how many, accuracy over all and by k; empty without any."""
        heldout_rows = [(row.name, row.heldout) for row in self.rows if row.heldout]
        if not heldout_rows:
            return []
        ks = sorted({k for _, heldout in heldout_rows for k in heldout.by_k})
        lines = [["held-out questions", "n", "accuracy", *(f"k = {k}" for k in ks)]]
        for name, heldout in heldout_rows:
            by_k = [f"{heldout.by_k[k]:.3f}" if k in heldout.by_k else "-" for k in ks]
            lines.append([name, str(heldout.n), f"{heldout.accuracy:.3f}", *by_k])
        return lines

    def summary(self) -> Iterator[str | Table]:
        """Yield the table, that of the held-out questions, and the notes."""
        for head, *rows in filter(None, (self.cells(), self.heldout_cells())):
            yield Table(head, rows, is_numeric=True)
        yield from self.notes

    def to_json(self) -> dict[str, Any]:
        """Return the table with its figures unrounded."""
        return {"over": self.shared_benchmarks, "reference": self.reference, "rows": [asdict(row) for row in self.rows]}


def benchmark_table(
    results: str | Path | Sequence[str | Path], *, reference: str | Path | None = None
) -> BenchmarkTable:
    """Return the paper's table with a row for each model that lmms-eval has judged.

    Args:
        results (`str | Path | Sequence[str | Path]`): results files of lmms-eval, or directories with such files
            anywhere below.
        reference (`str | Path`, *optional*): those of the model that is to count as 100% instead of the paper's
            LLaVA-665K: trained on the full data, and judged by the same version and the same judge.

    Raises:
        EvaluationError: a file cannot be read, or is not what it should be; or the reference is of several models, or
            has a score of 0.
    """
    own_results = read_harness_scores([results] if isinstance(results, str | Path) else results)
    reference_result = _single_result(read_harness_scores([reference]), str(reference)) if reference else None
    all_results = [*own_results, reference_result] if reference_result else own_results
    shared_benchmarks = tuple(name for name in BENCHMARKS if all(name in result.scores for result in all_results))
    reference_scores = reference_result.scores if reference_result else REFERENCE.scores
    row_results = (
        [reference_result, *(result for result in own_results if result.model != reference_result.model)]
        if reference_result
        else own_results
    )
    row_names = _short_names([result.model for result in row_results])
    own_rows = [
        BenchmarkRow(
            name,
            True,
            result.scores,
            _relative_over(result.scores, reference_scores, shared_benchmarks),
            heldout=result.heldout,
        )
        for name, result in zip(row_names, row_results, strict=True)
    ]
    notes = [note for result in all_results for note in result.notes]
    return BenchmarkTable(
        (*_paper_rows(shared_benchmarks), *own_rows),
        shared_benchmarks,
        row_names[0] if reference_result else REFERENCE.data,
        tuple(dict.fromkeys([*notes, *_describe_gaps(own_rows, shared_benchmarks)])),
    )


def _paper_rows(shared_benchmarks: tuple[str, ...]) -> list[BenchmarkRow]:
    """Return the published rows; what the paper prints as relative performance holds for all its benchmarks only."""
    is_complete = len(shared_benchmarks) == len(BENCHMARKS)
    return [
        BenchmarkRow(
            row.data,
            False,
            row.scores,
            _relative_over(row.scores, REFERENCE.scores, shared_benchmarks),
            row.printed if is_complete else None,
        )
        for row in TABLE
    ]


def _describe_gaps(rows: Sequence[BenchmarkRow], shared_benchmarks: tuple[str, ...]) -> Iterator[str]:
    """Yield a sentence for each model without some score, and one for what that does to relative performance."""
    for row in rows:
        missing = [benchmark for benchmark in BENCHMARKS if benchmark not in row.scores]
        if missing and row.scores:
            yield f"{row.name} has no score on {', '.join(missing)}"
    if 0 < len(shared_benchmarks) < len(BENCHMARKS):
        yield f"relative performance is over the {len(shared_benchmarks)} of {len(BENCHMARKS)} that every row has"


def _single_result(results: Sequence[HarnessScores], source: str) -> HarnessScores:
    if len(results) > 1:
        raise EvaluationError(
            f"{source} has results of {len(results)} models ({', '.join(result.model for result in results)}); "
            "give those of one as --reference"
        )
    return results[0]


def _relative_over(
    scores: Mapping[str, float], reference: Mapping[str, float], benchmarks: Sequence[str]
) -> float | None:
    if not benchmarks:
        return None
    return relative_performance(
        {name: scores[name] for name in benchmarks}, {name: reference[name] for name in benchmarks}
    )


def _short_names(models: Sequence[str]) -> list[str]:
    """Return the last parts of where models lie, or all of it where two have the same."""
    short = [Path(model).name for model in models]
    return [model if short.count(name) > 1 else name for name, model in zip(short, models, strict=True)]
