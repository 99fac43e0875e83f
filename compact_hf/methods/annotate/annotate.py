"""`compact annotate`: what each question of a dataset needs (the paper's analysis of LLaVA-665K).

    compact annotate DATASET --out RUN

The run directory is like that of `compact generate`: the same call resumes, and nothing that was answered is asked
again. Beside the journal is annotations.parquet, one row a question without images. It is Parquet and not JSON lines,
because a column keeps its type there whatever the first rows hold: the capabilities of a question that needs none are
an empty list of strings, not a list of nothing.

    load_dataset("parquet", data_files="RUN/annotations.parquet")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError, StoppedEarly, TeacherError, UsageError
from compact_hf.images.codec import MAX_EDGE, check_max_edge
from compact_hf.images.questions import VqaSource
from compact_hf.methods.annotate.annotation import METHOD, Annotation, annotate_image, parse_annotation_outcome
from compact_hf.methods.compact.complexity import CapabilityPair, measure_complexity
from compact_hf.methods.verification import verification_prompts_version
from compact_hf.records import ImageInfo
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.process import Process
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Run, RunLimits, RunProgress
from compact_hf.runs.sources import check_source_type, default_teacher, open_dataset_source
from compact_hf.storage import atomic_file
from compact_hf.teachers.base import EncodedImage
from compact_hf.teachers.registry import open_teacher

ANNOTATIONS_FILE: Final = "annotations.parquet"
_ROW_GROUP_SIZE: Final = 10_000


def write_annotations(run: Path) -> Path:
    """Write what a run found so far, and return the file; it is there whole or as it was.

    Raises:
        JournalError: the folder is not a run of annotate, or cannot be written.
    """
    import pyarrow.parquet as pq

    file = run / ANNOTATIONS_FILE
    try:
        with atomic_file(file, is_shared=True) as temp_file, pq.ParquetWriter(temp_file, _schema()) as writer:
            for table in _iter_tables(iter_annotations(run)):
                writer.write_table(table)
    except OSError as error:
        raise JournalError(f"cannot write {file} ({error.strerror or error}); make room and run it again") from error
    return file


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
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

    while rows := list(islice(annotations, _ROW_GROUP_SIZE)):
        yield pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())


MAX_PAIRS: Final = 10
"""Pairs that are shown; the rest are in `--json`."""


@dataclass(frozen=True, slots=True)
class AnnotationSummary(NotebookSummary):
    """Annotated questions in numbers (paper, section 2 and figure 2).

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures (`int`): images that are done.
        questions (`int`): questions that were annotated.
        mean_k (`float | None`): None without any question.
        mode_k (`int | None`): the k that most questions have, the smaller in a tie.
        at_most_2, none_needed (`float | None`): shares, 0 to 1, of questions with k <= 2, and with k = 0.
        by_k (`dict[int, int]`): k -> questions, from 0 to the largest that there is.
        by_capability (`dict[str, int]`): capability -> questions that need it; all ten.
        by_pair (`tuple[CapabilityPair, ...]`): pairs that some question needs, most frequent first.
        rejects (`dict[str, int]`): reason -> rows, images or questions that could not be annotated.
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
    verifiers: tuple[str, ...]

    def summary(self) -> Iterator[str | Table]:
        """Yield what `compact annotate` says, from the figures that the paper gives to what could not be annotated."""
        verifiers = ", ".join(self.verifiers) or "nobody yet"
        yield f"{self.questions:,} questions about {self.pictures:,} pictures, judged by {verifiers}"
        if self.mean_k is not None and self.at_most_2 is not None and self.none_needed is not None:
            yield (
                f"mean k {self.mean_k:.2f}, mode {self.mode_k}; {self.at_most_2:.1%} with k <= 2, "
                f"{self.none_needed:.1%} with k = 0"
            )
        yield Table(
            ("k", "questions", "share"),
            [(k, count, _format_share(count, self.questions)) for k, count in self.by_k.items()],
        )
        yield Table(
            ("needed", "questions", "share"),
            [(name, count, _format_share(count, self.questions)) for name, count in self.by_capability.items()],
        )
        yield Table(
            ("needed together", "questions", "share"),
            [
                (f"{pair.one}, {pair.other}", pair.questions, _format_share(pair.questions, self.questions))
                for pair in self.by_pair[:MAX_PAIRS]
            ],
        )
        yield Table(("not annotated because of", "count"), list(self.rejects.items()))


def iter_annotations(run: str | Path) -> Iterator[Annotation]:
    """Yield what a run found, in the order of image ids and within an image in that of the dataset.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: it is a run of another command.
    """
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        for finished_image in journal.outcomes():
            yield from parse_annotation_outcome(finished_image.body).annotations


def summarize(run: str | Path) -> AnnotationSummary:
    """Return a run's annotations in numbers, also while it goes on.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: it is a run of another command.
    """
    combination_counts: Counter[tuple[str, ...]] = Counter()
    verifiers: set[str] = set()
    image_count = 0
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        rejects = Counter(reject.reason for reject in journal.image_rejects())
        for finished_image in journal.outcomes():
            image_count += 1
            outcome = parse_annotation_outcome(finished_image.body)
            rejects.update(reject.reason for reject in outcome.rejects)
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
        verifiers=tuple(sorted(verifiers)),
    )


def check_method(journal: Journal) -> None:
    """Do nothing for a run of `compact annotate`.

    Raises:
        UsageError: it is a run of another command.
    """
    method = journal.identity["method"]
    if method != METHOD:
        raise UsageError(f"{journal.run} is a run of {method}, not of {METHOD}; `compact status` shows it")


def _format_share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else ""


def annotate(
    dataset: str,
    out: str | Path,
    *,
    split: str | None = None,
    image_root: str | None = None,
    verifier: str | None = None,
    verifier_url: str | None = None,
    max_edge: int = MAX_EDGE,
    seed: int = 0,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> AnnotationSummary:
    """Ask a verifier which capabilities the questions of a dataset need; it sees neither answers nor any expectation.

    Works in a notebook too. Ctrl-C finishes what is in flight and stops; the same call goes on. What is there by then
    is in `out`/annotations.parquet.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a folder such as a release, or a JSON file in
            LLaVA's format. Rows about one image are asked about together.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        split (`str`, *optional*): one split of it; all of them by default.
        image_root (`str`, *optional*, defaults to the JSON file's folder): where its image paths start.
        verifier (`str`, *optional*): `NAME[:MODEL]`; defaults to `scenes` for drawn scenes and to `gemini` otherwise.
        verifier_url (`str`, *optional*): another server.
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the image that is sent.
        seed (`int`, *optional*, defaults to 0): decides which images come first.
        limit (`int`, *optional*): work on so many images, drawn at random by the seed; a larger limit adds to them.
        concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out (*optional*): as for `generate`.
        on_progress (`Callable[[RunProgress], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what is waited for: a verifier that answers in
            batches, or a dataset that has to be loaded first.

    Returns:
        What the questions need, in numbers.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there is no such dataset, or it has no images or no questions.
        TeacherError: the verifier refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, a budget, or images that could not be finished; the same call goes on.
    """
    limits = RunLimits(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    check_max_edge(max_edge)
    source = open_dataset_source(dataset, split=split, image_root=image_root, on_wait=on_wait)
    verifier_backend = open_teacher(
        verifier or default_teacher(source),
        url=verifier_url,
        seed=seed,
        batch_size=concurrency,
        state_dir=Path(out),
        on_wait=on_wait,
    )
    check_source_type(verifier_backend.name, verifier_backend.source_type, source)
    run = Run(
        source,
        {"verifier": verifier_backend},
        partial(_process_image, source, max_edge),
        {
            "method": METHOD,
            "rows": source.content_hash,
            "prompts": verification_prompts_version(),
            "max_edge": max_edge,
        },
        seed,
        None,
        limits,
        on_progress,
    )
    try:
        run.run(Path(out))
    except (StoppedEarly, TeacherError, KeyboardInterrupt):
        if (Path(out) / FILE_NAME).exists():  # else it ended before there was a run
            write_annotations(Path(out))
        raise
    write_annotations(Path(out))
    return summarize(out)


def _process_image(source: VqaSource, max_edge: int, image: ImageInfo) -> Process:
    encoded_image = EncodedImage(partial(reread_verified, source, image), ref=image.ref, max_edge=max_edge)
    return annotate_image(image.image_id, encoded_image, source.read_rows(image.ref))
