"""Computes statistics of the questions in a dataset or a run, and compares two of them.

    compact analyze release
    compact analyze annotated-llava release --out analysis

    DIR/analysis.json    the statistics; stats.py describes the schema
    DIR/analysis.html    the same as a page, in one file

Counts are over all questions. Statistics of the text (near duplicates, answers by type, the text-only baseline) use a
sample of whole images with at most 100,000 questions. In a comparison both samples have about the same number of
questions, because these statistics depend on the sample size.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, UnknownCapabilityError, UsageError
from compact_hf.evaluation.analysis.compare import DatasetComparison, compare_datasets
from compact_hf.evaluation.analysis.counting import QuestionCounts
from compact_hf.evaluation.analysis.readers import QuestionSource, is_run, read_dataset, read_run
from compact_hf.evaluation.analysis.report import render_page
from compact_hf.evaluation.analysis.stats import SCHEMA, Analysis, compute_analysis
from compact_hf.evaluation.analysis.tables import iter_tables
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.storage import translate_disk_errors, write_atomically
from compact_hf.wording import format_count

DatasetOption = str | tuple[str, str] | None

ANALYSIS_FILE: Final = "analysis.json"
REPORT_FILE: Final = "analysis.html"
_PROGRESS_EVERY: Final = 500


@dataclass(frozen=True, slots=True)
class AnalysisResult(NotebookSummary):
    """The statistics of one dataset, or of two datasets with a comparison.

    Attributes:
        data (`tuple[Analysis, ...]`): one per dataset, in the order given.
        comparison (`DatasetComparison | None`): comparison of two datasets; None for a single one.
    """

    data: tuple[Analysis, ...]
    comparison: DatasetComparison | None = None

    def summary(self) -> Iterator[str | Table]:
        """Yield the tables that the command prints."""
        yield from iter_tables(self.data, self.comparison)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of analysis.json; stats.py describes the schema."""
        return {
            "schema": SCHEMA,
            "data": [analysis.to_json() for analysis in self.data],
            "comparison": None if self.comparison is None else asdict(self.comparison),
        }


def analyze(
    dataset: str | Path,
    other: str | Path | None = None,
    *,
    out: str | Path | None = None,
    config: DatasetOption = None,
    split: DatasetOption = None,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> AnalysisResult:
    """Measure which capabilities a dataset's questions need, how often they repeat, and what their wording gives away.

    If the dataset is on the Hub, only its text columns are downloaded.

    Args:
        dataset (`str | Path`): a directory with a dataset in Parquet; a repository `org/name[@revision][/config]`; or
            the directory of a run of `generate`, or of `annotate`, which determines the capabilities for any dataset.
        other (`str | Path`, *optional*): a second dataset or run to compare with the first.
        out (`str | Path`, *optional*): directory for analysis.json and analysis.html; existing files are replaced.
        config (`str | tuple[str, str]`, *optional*): config of the dataset, by default its default config; for two
            datasets a single value for both, or one for each.
        split (`str | tuple[str, str]`, *optional*): split of the dataset, by default all splits; for two datasets a
            single value for both, or one for each.
        on_progress (`Callable[[str, int, int], None]`, *optional*): called with the name of the dataset, the number of
            rows read so far, and the number of all rows (for a run: images).
        on_wait (`Callable[[str], None]`, *optional*): called with a message before a step that takes long.

    Raises:
        UsageError: an argument is invalid.
        SourceError: the dataset was not found, or cannot be read.
        JournalError: the run cannot be read.
        EvaluationError: there are no questions, columns are missing, or `out` cannot be written.
    """
    datasets = [str(dataset)] if other is None else [str(dataset), str(other)]
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"--out {out} is a file; give a directory")
    source_args = zip(
        datasets,
        _expand_option("config", config, len(datasets)),
        _expand_option("split", split, len(datasets)),
        strict=True,
    )
    # Both are opened before rows are counted, so that a wrong second name fails early.
    sources = [_open_source(*item) for item in source_args]
    counts = [_count_questions(item, on_progress) for item in sources]
    # The smaller sample decides. Whole images are kept, so the other can be a little larger.
    max_questions = min(len(item.sample.sorted_questions()) for item in counts)
    samples = [item.sample.sorted_questions(max_questions) for item in counts]
    analyses = []
    for name, item, dataset_counts, sample in zip(
        _display_names(sources, datasets), sources, counts, samples, strict=True
    ):
        on_wait(f"measuring {format_count(len(sample), 'question')} of {name}")
        analyses.append(compute_analysis(name, item.k_is, dataset_counts, sample))
    comparison = compare_datasets(analyses, counts, samples) if len(analyses) == 2 else None
    result = AnalysisResult(tuple(analyses), comparison)
    if out is not None:
        _write_files(Path(out), result, _format_command(datasets, out, config, split))
    return result


def _expand_option(name: str, option: DatasetOption, count: int) -> tuple[str | None, ...]:
    """Return the value of an option for each dataset."""
    if option is None or isinstance(option, str):
        return (option,) * count
    if len(option) != count:
        raise UsageError(
            f"got {len(option)} values of --{name} for {count} datasets; give one value for all, or one for each"
        )
    return option


def _open_source(dataset: str, config: str | None, split: str | None) -> QuestionSource:
    if not is_run(Path(dataset)):
        return read_dataset(dataset, config=config, split=split)
    if option := next((name for name, value in (("config", config), ("split", split)) if value), None):
        raise UsageError(f"{dataset} is a run, which has no {option}s; omit --{option}")
    return read_run(Path(dataset))


def _count_questions(source: QuestionSource, on_progress: Callable[[str, int, int], None]) -> QuestionCounts:
    """Return the counts over all questions of a dataset or run."""
    counts = QuestionCounts()
    try:
        for done, row in enumerate(source.iter_rows(), 1):
            counts.add_row(row)
            if done % _PROGRESS_EVERY == 0 or done == source.total:
                on_progress(source.name, done, source.total)
    except UnknownCapabilityError as error:
        raise EvaluationError(f"{source.name}: {error}") from error
    if not counts.question_count:
        raise EvaluationError(
            f"{source.name} has no questions with known capabilities, in "
            f"{format_count(counts.unlabelled_rows, 'row')}; give "
            "other data, or let a verifier label them: compact annotate DATASET --out RUN, then compact analyze RUN"
        )
    return counts


def _display_names(sources: list[QuestionSource], datasets: list[str]) -> list[str]:
    """Return different names for the datasets; if their names and paths are equal, add `first` and `second`."""
    for names in ([source.name for source in sources], datasets):
        if len(set(names)) == len(names):
            return names
    return [f"{name}, {position}" for name, position in zip(datasets, ("first", "second"), strict=True)]


def _format_command(datasets: list[str], out: str | Path, config: DatasetOption, split: DatasetOption) -> str:
    """Return the command line that does the same."""
    options = [("--config", config), ("--split", split), ("--out", str(out))]
    # A pair of values, one for each dataset, is written A,B.
    arguments = [[name, value if isinstance(value, str) else ",".join(value)] for name, value in options if value]
    return shlex.join(["compact", "analyze", *datasets, *chain.from_iterable(arguments)])


def _write_files(out: Path, result: AnalysisResult, command: str) -> None:
    analysis_json = json.dumps(result.to_json(), ensure_ascii=False, indent=2) + "\n"
    files = {ANALYSIS_FILE: analysis_json, REPORT_FILE: render_page(result.data, result.comparison, command=command)}
    with translate_disk_errors(EvaluationError, out, "give another --out"):
        for name, text in files.items():
            # Texts of a dataset may contain lone surrogates, which UTF-8 cannot encode.
            write_atomically(out / name, text.encode(errors="backslashreplace"))
