"""Annotates each question of a dataset with the capabilities it needs (the paper's analysis of LLaVA-665K).

    compact annotate DATASET --out RUN

The run directory is like that of `compact generate`: the same call resumes the run, and no request that was answered is
sent again. Beside the journal it contains annotations.parquet, with one row per question and without images:

    load_dataset("parquet", data_files="RUN/annotations.parquet")

The file is Parquet and not JSON lines, because Parquet stores the type of each column: if the first questions need no
capability, their empty lists are still lists of strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError, UsageError
from compact_hf.methods.annotate.annotation import METHOD, Annotation, parse_annotation_outcome
from compact_hf.methods.annotate.method import Annotate
from compact_hf.methods.base import DatasetOptions
from compact_hf.methods.compact.complexity import CapabilityPair, measure_complexity
from compact_hf.methods.generate import MethodCall
from compact_hf.records import Loss, Reject
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.runs.identity import RunIdentity
from compact_hf.runs.journal import Journal
from compact_hf.runs.options import RunOptions, keywords_of
from compact_hf.storage import atomic_file, translate_disk_errors
from compact_hf.wording import format_count

ANNOTATIONS_FILE: Final = "annotations.parquet"
# Rows per Parquet row group, and in memory at a time.
_ROW_GROUP_SIZE: Final = 10_000


def write_annotations(run: Path) -> Path:
    """Write annotations.parquet from the outcomes in a run's journal so far. The file is replaced atomically.

    Args:
        run (`Path`): the run directory.

    Returns:
        The path of the file.

    Raises:
        UsageError: the directory is not a run of annotate.
        JournalError: the run cannot be read, or the file cannot be written.
    """
    import pyarrow.parquet as pq

    file = run / ANNOTATIONS_FILE
    with (
        translate_disk_errors(JournalError, file, "free disk space and run the command again"),
        # Shared: the end of a second session may write the file at the same time.
        atomic_file(file, is_shared=True) as temp_file,
        pq.ParquetWriter(temp_file, _schema()) as writer,
    ):
        for table in _iter_tables(iter_annotations(run)):
            writer.write_table(table)
    return file


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    # The fields of `Annotation` in their order; `list<string>` even if the first lists are empty.
    return pa.schema(
        {
            "row": text,
            "row_id": text,
            "turn": number,
            "image_id": text,
            "question": text,
            "answer": text,
            "capabilities": pa.list_(text),
            "k": number,
            "verifier_answer": text,
        }
    )


def _iter_tables(annotations: Iterator[Annotation]) -> Iterator[Any]:
    import pyarrow as pa

    # One table per row group, so that memory does not grow with the run.
    while rows := list(islice(annotations, _ROW_GROUP_SIZE)):
        yield pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())


MAX_PAIRS: Final = 10
"""Number of pairs that are printed; `--json` has all of them."""


@dataclass(frozen=True, slots=True)
class AnnotationSummary(NotebookSummary):
    """Figures about annotated questions (paper, section 2 and figure 2).

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures (`int`): images that are finished.
        questions (`int`): questions that were annotated.
        mean_k (`float | None`): None if there is no question.
        mode_k (`int | None`): the most frequent k, the smaller one in a tie; None if there is no question.
        at_most_2, none_needed (`float | None`): shares, 0 to 1, of questions with k <= 2, and with k = 0.
        by_k (`dict[int, int]`): k -> number of questions, from 0 to the largest k that occurs.
        by_capability (`dict[str, int]`): capability -> number of questions that need it; all ten capabilities.
        by_pair (`tuple[CapabilityPair, ...]`): pairs of capabilities that a question needs, the most frequent first.
        rejects (`dict[str, int]`): reason -> number of images, rows and questions that could not be annotated.
        losses (`dict[str, Loss]`): reason -> the rows and questions that are not annotated because of it.
        verifiers (`tuple[str, ...]`): the model versions that judged.
    """

    identity: dict[str, Any]
    pictures: int
    questions: int
    mean_k: float | None
    mode_k: int | None
    at_most_2: float | None
    none_needed: float | None
    by_k: dict[int, int]
    by_capability: dict[str, int]
    by_pair: tuple[CapabilityPair, ...]
    rejects: dict[str, int]
    losses: dict[str, Loss]
    verifiers: tuple[str, ...]

    def summary(self) -> Iterator[str | Table]:
        """Yield the output of `compact annotate`: the paper's figures, then what could not be annotated."""
        verifiers = ", ".join(self.verifiers) or "no model yet"
        yield (
            f"{format_count(self.questions, 'question')} about {format_count(self.pictures, 'image')}, judged by "
            f"{verifiers}"
        )
        if self.mean_k is not None and self.at_most_2 is not None and self.none_needed is not None:
            yield (
                f"mean k {self.mean_k:.2f}, mode {self.mode_k}; {self.at_most_2:.1%} with k <= 2, "
                f"{self.none_needed:.1%} with k = 0"
            )
        # In all tables: name, count, share of all questions. Tables without rows are not printed.
        yield Table(
            ("k", "questions", "share"),
            [(k, count, _format_share(count, self.questions)) for k, count in self.by_k.items()],
        )
        yield Table(
            ("capability needed", "questions", "share"),
            [(name, count, _format_share(count, self.questions)) for name, count in self.by_capability.items()],
        )
        yield Table(
            ("needed together", "questions", "share"),
            [
                (f"{pair.one}, {pair.other}", pair.questions, _format_share(pair.questions, self.questions))
                for pair in self.by_pair[:MAX_PAIRS]
            ],
        )
        if self.losses:
            yield f"not annotated: {sum(self.losses.values(), start=Loss())}"
        yield Table(
            ("not annotated because", "rows", "questions"),
            [(reason, loss.rows, loss.questions) for reason, loss in self.losses.items()],
        )


def iter_annotations(run: str | Path) -> Iterator[Annotation]:
    """Yield the annotations of a run, by image id, and for each image in the order of the dataset.

    Args:
        run (`str | Path`): the run directory.

    Raises:
        UsageError: the directory is not a run, or one of another method.
        JournalError: the run cannot be read.
    """
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        for finished_image in journal.outcomes():
            yield from parse_annotation_outcome(finished_image.body).annotations


def summarize(run: str | Path) -> AnnotationSummary:
    """Return figures about a run's annotations, also while it is running.

    Args:
        run (`str | Path`): the run directory.

    Raises:
        UsageError: the directory is not a run, or one of another method.
        JournalError: the run cannot be read.
    """
    combination_counts: Counter[tuple[str, ...]] = Counter()
    verifiers: set[str] = set()
    image_count = 0
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        # One pass over the journal; in memory there are only counts by combination, reason and model.
        rejects: Counter[str] = Counter()
        losses: dict[str, Loss] = {}

        def add_reject(reject: Reject) -> None:
            rejects[reject.reason] += 1
            losses[reject.reason] = losses.get(reject.reason, Loss()) + (Annotate.count_loss(reject) or Loss())

        for reject in journal.image_rejects():
            add_reject(reject)
        for finished_image in journal.outcomes():
            image_count += 1
            outcome = parse_annotation_outcome(finished_image.body)
            for reject in outcome.rejects:
                add_reject(reject)
            # Empty if all questions of the image were rejected before they were sent.
            verifiers.update(filter(None, [outcome.verifier]))
            combination_counts.update(annotation.capabilities for annotation in outcome.annotations)
        identity = journal.identity
    complexity = measure_complexity(combination_counts)
    return AnnotationSummary(
        identity=identity,
        pictures=image_count,
        questions=complexity.questions,
        mean_k=complexity.mean_k,
        mode_k=complexity.mode_k,
        at_most_2=complexity.at_most_2,
        none_needed=complexity.none_needed,
        by_k=complexity.by_k,
        by_capability=complexity.by_capability,
        by_pair=complexity.by_pair,
        rejects=dict(sorted(rejects.items(), key=lambda item: (-item[1], item[0]))),
        losses={
            reason: loss
            for reason, loss in sorted(losses.items(), key=lambda item: (-item[1].questions, -item[1].rows, item[0]))
            if loss != Loss()
        },
        verifiers=tuple(sorted(verifiers)),
    )


def check_method(journal: Journal) -> None:
    """Check that a journal belongs to a run of annotate.

    Args:
        journal (`Journal`): the journal of a run.

    Raises:
        UsageError: it is a run of another method.
    """
    # The outcomes of other methods have other fields, and would fail to parse with an unclear message.
    method = RunIdentity.of(journal).method
    if method != METHOD:
        raise UsageError(f"{journal.run} is a run of {method}, not of {METHOD}: use `compact status` to show it")


def _format_share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else ""


@dataclass(frozen=True, kw_only=True)
class AnnotateKeywords(DatasetOptions, RunOptions):
    """The options of `annotate`."""


@keywords_of(AnnotateKeywords)
def annotate(dataset: str, out: str | Path, **options: Any) -> AnnotationSummary:
    """Ask a verifier which capabilities the questions of a dataset need; it does not see the dataset's answers.

    This also works in a notebook. Ctrl-C lets requests in flight finish and stops; the same call resumes the run. What
    was annotated until then is written to `out`/annotations.parquet.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a directory such as a dataset of this package, or a
            .json or .jsonl file in the format of LLaVA, ShareGPT or TRL. Questions about the same image are sent
            together.
        out (`str | Path`): the run directory: new, empty, or that of the same run.
        options: the fields of `DatasetOptions` and of `RunOptions`. There is no teacher; the verifier defaults to
            `scenes` for drawn scenes and to `gemini` otherwise.

    Returns:
        Figures about what the questions need.

    Raises:
        UsageError: an argument is invalid, or `out` holds another run.
        SourceError: the dataset was not found, or it has no images or no questions.
        TeacherError: the verifier refuses the requests, or cannot be reached.
        JournalError: the run directory cannot be used.
        StoppedEarly: Ctrl-C, the budget, or images that could not be finished; the same call resumes the run.
    """
    # annotations.parquet was written by `Annotate.finish`, also if the run stops early; then this raises.
    MethodCall.parse(METHOD, options).execute(dataset, Path(out))
    return summarize(out)
