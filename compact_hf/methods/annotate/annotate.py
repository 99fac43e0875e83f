"""`compact annotate`: what each question of a dataset needs (the paper's analysis of LLaVA-665K).

    compact annotate DATASET --out RUN

The run directory is like that of `compact generate`: the same call resumes, and nothing that was answered is asked
again. Beside the journal is annotations.parquet, one row a question without images. It is Parquet and not JSON lines,
because a column keeps its type there whatever the first rows hold: the capabilities of a question that needs none are
an empty list of strings, not a list of nothing.

    load_dataset("parquet", data_files="RUN/annotations.parquet")
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError, StoppedEarly, TeacherError, UsageError
from compact_hf.images.codec import MAX_EDGE, checked_edge
from compact_hf.images.questions import QuestionedPictures
from compact_hf.methods.annotate.annotation import METHOD, Annotation, annotate_picture, annotated_of
from compact_hf.methods.compact.complexity import Pair, complexity_of
from compact_hf.methods.compact.tables import Table
from compact_hf.methods.verification import judging_version
from compact_hf.records import Picture
from compact_hf.runs.image_index import read_again
from compact_hf.runs.journal import Journal
from compact_hf.runs.process import Process
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Run, Standing, Terms
from compact_hf.runs.sources import check_pictures, default_teacher, open_dataset
from compact_hf.teachers.base import Exposure
from compact_hf.teachers.registry import open_teacher

FILE_NAME: Final = "annotations.parquet"
_GROUP_ROWS: Final = 10_000


def write_table(run: Path) -> Path:
    """Write what a run found so far, and return the file; it is there whole or as it was.

    Raises:
        JournalError: the folder is not a run of annotate, or cannot be written.
    """
    import pyarrow.parquet as pq

    file, unfinished = run / FILE_NAME, run / f"{FILE_NAME}.writing"
    try:
        with pq.ParquetWriter(unfinished, _schema()) as writer:
            for table in _tables(annotations_of(run)):
                writer.write_table(table)
        os.replace(unfinished, file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
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


def _tables(found: Iterator[Annotation]) -> Iterator[Any]:
    import pyarrow as pa

    while rows := list(islice(found, _GROUP_ROWS)):
        yield pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())


@dataclass(frozen=True, slots=True)
class Summary:
    """Annotated questions in numbers (paper, section 2 and figure 2).

    Attributes:
        identity (`dict[str, Any]`): the run's settings.
        pictures (`int`): pictures that are done.
        questions (`int`): questions that were annotated.
        mean_k (`float | None`): None without any question.
        mode_k (`int | None`): the k that most questions have, the smaller in a tie.
        at_most_2, none_needed (`float | None`): shares, 0 to 1, of questions with k <= 2, and with k = 0.
        by_k (`dict[int, int]`): k -> questions, from 0 to the largest that there is.
        by_capability (`dict[str, int]`): capability -> questions that need it; all ten.
        by_pair (`tuple[Pair, ...]`): pairs that some question needs, most frequent first.
        rejects (`dict[str, int]`): reason -> rows, pictures or questions that could not be annotated.
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
    by_pair: tuple[Pair, ...]
    rejects: dict[str, int]
    verifiers: tuple[str, ...]


def annotations_of(run: str | Path) -> Iterator[Annotation]:
    """Yield what a run found, in the order of image ids and within a picture in that of the data set.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: it is a run of another command.
    """
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        for finished in journal.outcomes():
            yield from annotated_of(finished.body).annotations


def summary(run: str | Path) -> Summary:
    """Return a run's annotations in numbers, also while it goes on.

    Raises:
        JournalError: the folder is not a run, or cannot be read.
        UsageError: it is a run of another command.
    """
    needed: Counter[tuple[str, ...]] = Counter()
    verifiers: set[str] = set()
    pictures = 0
    with Journal.read(Path(run)) as journal:
        check_method(journal)
        rejects = Counter(reject.reason for reject in journal.picture_rejects())
        for finished in journal.outcomes():
            pictures += 1
            outcome = annotated_of(finished.body)
            rejects.update(reject.reason for reject in outcome.rejects)
            verifiers.update(filter(None, [outcome.verifier]))
            needed.update(annotation.capabilities for annotation in outcome.annotations)
        identity = journal.identity
    found = complexity_of(needed)
    return Summary(
        identity=identity,
        pictures=pictures,
        questions=found.questions,
        mean_k=found.mean_k,
        mode_k=found.mode_k,
        at_most_2=found.at_most_2,
        none_needed=found.none_needed,
        by_k=found.by_k,
        by_capability=found.by_capability,
        by_pair=found.by_pair,
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


MOST_PAIRS: Final = 10
"""Pairs that are shown; the rest are in `--json`."""


def summary_parts(found: Summary) -> Iterator[str | Table]:
    """Yield what `compact annotate` says, from the figures that the paper gives to what could not be annotated."""
    judges = ", ".join(found.verifiers) or "nobody yet"
    yield f"{found.questions:,} questions about {found.pictures:,} pictures, judged by {judges}"
    if found.mean_k is not None and found.at_most_2 is not None and found.none_needed is not None:
        yield (
            f"mean k {found.mean_k:.2f}, mode {found.mode_k}; {found.at_most_2:.1%} with k <= 2, "
            f"{found.none_needed:.1%} with k = 0"
        )
    yield Table(
        ("k", "questions", "share"), [(k, count, _share(count, found.questions)) for k, count in found.by_k.items()]
    )
    yield Table(
        ("needed", "questions", "share"),
        [(name, count, _share(count, found.questions)) for name, count in found.by_capability.items()],
    )
    yield Table(
        ("needed together", "questions", "share"),
        [
            (f"{pair.one}, {pair.other}", pair.questions, _share(pair.questions, found.questions))
            for pair in found.by_pair[:MOST_PAIRS]
        ],
    )
    yield Table(("not annotated because of", "count"), list(found.rejects.items()))


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else ""


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
    on_progress: Callable[[Standing], None] = lambda standing: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Ask a verifier which capabilities the questions of a data set need; it sees neither answers nor any expectation.

    Works in a notebook too. Ctrl-C finishes what is in flight and stops; the same call goes on. What is there by then
    is in `out`/annotations.parquet.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a folder such as a release, or a JSON file in
            LLaVA's format. Rows about one picture are asked about together.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        split (`str`, *optional*): one split of it; all of them by default.
        image_root (`str`, *optional*, defaults to the JSON file's folder): where its image paths start.
        verifier (`str`, *optional*): `NAME[:MODEL]`; defaults to `scenes` for drawn scenes and to `gemini` otherwise.
        verifier_url (`str`, *optional*): another server.
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the picture that is sent.
        seed (`int`, *optional*, defaults to 0): decides which pictures come first.
        limit (`int`, *optional*): work on so many pictures, drawn at random by the seed; a larger limit adds to them.
        concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out (*optional*): as for `generate`.
        on_progress (`Callable[[Standing], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what is waited for: a verifier that answers in
            batches, or a data set that has to be loaded first.

    Returns:
        What the questions need, in numbers.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there is no such data set, or it has no pictures or no questions.
        TeacherError: the verifier refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, a budget, or pictures that could not be finished; the same call goes on.
    """
    terms = Terms(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    checked_edge(max_edge)
    asked = open_dataset(dataset, split=split, image_root=image_root, on_wait=on_wait)
    judge = open_teacher(
        verifier or default_teacher(asked),
        url=verifier_url,
        seed=seed,
        batch_size=concurrency,
        state_dir=Path(out),
        on_wait=on_wait,
    )
    check_pictures(judge.name, judge.sources, asked)
    run = Run(
        asked,
        {"verifier": judge},
        partial(_process, asked, max_edge),
        {"method": METHOD, "rows": asked.content, "prompts": judging_version(), "max_edge": max_edge},
        seed,
        None,
        terms,
        on_progress,
    )
    try:
        run.to_end(Path(out))
    except (StoppedEarly, TeacherError, KeyboardInterrupt):
        write_table(Path(out))
        raise
    write_table(Path(out))
    return summary(out)


def _process(asked: QuestionedPictures, max_edge: int, picture: Picture) -> Process:
    exposure = Exposure(partial(read_again, asked, picture), ref=picture.ref, max_edge=max_edge)
    return annotate_picture(picture.image_id, exposure, asked.asked(picture.ref))
