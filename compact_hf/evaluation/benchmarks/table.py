"""Builds the paper's table with additional rows from lmms-eval's results files.

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
    """One row of the table.

    Attributes:
        name (`str`): the training data for a row of the paper; the name of the model for a row of your own.
        own (`bool`): whether the row is from your results files, not from the paper.
        scores (`dict[str, float]`): benchmark -> score, for benchmarks with a score.
        relative (`float`, *optional*): relative performance in percent over `BenchmarkTable.shared_benchmarks`; None if
            there are none.
        printed (`float`, *optional*): relative performance as printed in the paper, if `relative` is over all eight
            benchmarks.
        heldout (`HeldoutScores`, *optional*): accuracy on our held-out questions, for rows of your own.
    """

    name: str
    own: bool
    scores: dict[str, float]
    relative: float | None
    printed: float | None = None
    heldout: HeldoutScores | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkTable(NotebookSummary):
    """The paper's table, followed by rows of your own.

    Attributes:
        rows (`tuple[BenchmarkRow, ...]`): the rows, in the order in which they are shown.
        shared_benchmarks (`tuple[str, ...]`): the benchmarks for which every row has a score. Relative performance is
            computed over these in every row.
        reference (`str`): the row that counts as 100% for your own rows. For the paper's rows it is always the paper's
            LLaVA-665K.
        notes (`tuple[str, ...]`): remarks about the scores.
    """

    rows: tuple[BenchmarkRow, ...]
    shared_benchmarks: tuple[str, ...]
    reference: str
    notes: tuple[str, ...]

    def cells(self) -> list[list[str]]:
        """Return the header and rows as text, with a dash for a missing score; empty if no own row has a score."""
        if not any(row.scores for row in self.rows if row.own):
            return []
        lines = [[_DATA_HEADER, *BENCHMARKS, _RELATIVE_HEADER]]
        for row in self.rows:
            scores = [f"{row.scores[name]:.2f}" if name in row.scores else "-" for name in BENCHMARKS]
            relative = "-" if row.relative is None else f"{row.relative:.1f}"
            # Two rows of the paper do not follow from its scores; both values are shown.
            if row.printed is not None and relative != f"{row.printed:.1f}":
                relative += f" (printed: {row.printed:.1f})"
            lines.append([row.name, *scores, relative])
        return lines

    def heldout_cells(self) -> list[list[str]]:
        """Return the table of held-out questions: n, accuracy and accuracy by k; empty if none were asked."""
        heldout_rows = [(row.name, row.heldout) for row in self.rows if row.heldout]
        if not heldout_rows:
            return []
        ks = sorted({k for _, heldout in heldout_rows for k in heldout.by_k})
        lines = [["held-out questions", "n", "accuracy", *(f"k = {k}" for k in ks)]]
        for name, heldout in heldout_rows:
            # Models can be evaluated on different datasets, which need not have the same ks.
            by_k = [f"{heldout.by_k[k]:.3f}" if k in heldout.by_k else "-" for k in ks]
            count = "-" if heldout.n is None else str(heldout.n)
            lines.append([name, count, f"{heldout.accuracy:.3f}", *by_k])
        return lines

    def summary(self) -> Iterator[str | Table]:
        """Yield the table of benchmarks, the table of held-out questions, and the notes."""
        # The first line of each table is its header; empty tables are left out.
        for head, *rows in filter(None, (self.cells(), self.heldout_cells())):
            yield Table(head, rows, is_numeric=True)
        yield from self.notes

    def to_json(self) -> dict[str, Any]:
        """Return the table with unrounded values, as JSON values."""
        return {"over": self.shared_benchmarks, "reference": self.reference, "rows": [asdict(row) for row in self.rows]}


def benchmark_table(
    results: str | Path | Sequence[str | Path], *, reference: str | Path | None = None
) -> BenchmarkTable:
    """Return the paper's table with an additional row for each model that was evaluated with lmms-eval.

    Args:
        results (`str | Path | Sequence[str | Path]`): results files of lmms-eval, or directories that are searched for
            such files.
        reference (`str | Path`, *optional*): results of the model that counts as 100% instead of the paper's
            LLaVA-665K. It should be trained on the full data and evaluated with the same versions of lmms-eval and of
            the judge.

    Raises:
        EvaluationError: a file cannot be read or has another format, the reference has results of several models, or a
            reference score is 0.
    """
    own_results = read_harness_scores([results] if isinstance(results, str | Path) else results)
    reference_result = _single_result(read_harness_scores([reference]), str(reference)) if reference else None
    # The reference is included, because its scores divide those of all own rows.
    all_results = [*own_results, reference_result] if reference_result else own_results
    # Means over different benchmarks would not be comparable, so only benchmarks that all models have are averaged.
    shared_benchmarks = tuple(name for name in BENCHMARKS if all(name in result.scores for result in all_results))
    reference_scores = reference_result.scores if reference_result else REFERENCE.scores
    # The reference is the first of the own rows, and appears once even if `results` also contains it.
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
    """Return the rows of the paper; the printed relative performance is only valid over all of its benchmarks."""
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
    """Yield a note for each model with missing scores, and one about their effect on relative performance."""
    for row in rows:
        missing = [benchmark for benchmark in BENCHMARKS if benchmark not in row.scores]
        if missing and row.scores:
            yield f"{row.name} has no score on {', '.join(missing)}"
    if 0 < len(shared_benchmarks) < len(BENCHMARKS):
        yield (
            f"relative performance is over the {len(shared_benchmarks)} of {len(BENCHMARKS)} benchmarks that every row "
            "has"
        )


def _single_result(results: Sequence[HarnessScores], source: str) -> HarnessScores:
    if len(results) > 1:
        raise EvaluationError(
            f"{source} has results of {len(results)} models ({', '.join(result.model for result in results)}); "
            "give the results of one model as --reference"
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
    """Return the last part of each model's path, or the whole path if two models have the same last part."""
    short = [Path(model).name for model in models]
    return [model if short.count(name) > 1 else name for name, model in zip(short, models, strict=True)]
