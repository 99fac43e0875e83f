"""Read the questions to analyze as a stream, image by image: of a dataset or of a run, without decoding images.

A dataset is what `load_dataset` would load: a directory or a repository of Parquet files, by its card's configs and
splits. Of its columns only those of text are read; from the Hub these are a hundredth of the bytes. A row has an
`image_id`, questions in one of the shapes that images/question_rows.py reads, and `capabilities`: of each turn in one
of ours, else a column, as `compact annotate` writes them. What a run's questions are, its method says; its journal may
still be written to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.images.address import HUB_PREFIX, Address
from compact_hf.images.conversations import Defect
from compact_hf.images.hub_repository import list_parquet_files, resolve_commit, translate_source_errors
from compact_hf.images.question_rows import (
    ANSWER_COLUMNS,
    Exchange,
    RowFormat,
    detect_labelled_format,
    question_columns,
    read_exchanges,
)
from compact_hf.methods.base import KSource
from compact_hf.methods.registry import get_method
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.shards import find_runs


class LabelledQuestion(NamedTuple):
    """A question as it stands; `answer` is empty where there is none."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


class QuestionRow(NamedTuple):
    """Questions about one image; none where nobody said what they need, as in instruction rows."""

    image_id: str
    questions: tuple[LabelledQuestion, ...]


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """Something whose questions can be read.

    Attributes:
        name (`str`): what people call it.
        k_is (`str`): `asked` or `judged`.
        total (`int`): rows of a dataset, finished images of a run.
        iter_rows (`Callable[[], Iterator[Row]]`): reads them, in their order.
    """

    name: str
    k_is: KSource
    total: int
    iter_rows: Callable[[], Iterator[QuestionRow]]


_TURN_COLUMNS: Final = ("turns.question", "turns.answer", "turns.capabilities")
_CHUNK_ROWS: Final = 10_000
_BATCH_ROWS: Final = 1000
_MAX_OPEN_FILES: Final = 8  # of the Hub: its answers take longer than our work


def read_dataset(dataset: str, *, config: str | None, split: str | None) -> QuestionSource:
    """Return a dataset's questions.

    Args:
        dataset (`str`): a folder, or `org/name[@revision][/config]`, with or without `hf://datasets/` before it.
        config, split (`str`, *optional*): the default config, all splits where not given.

    Raises:
        UsageError: it is neither, or names two configs.
        SourceError: there is no such dataset, config or split, or it cannot be read.
        EvaluationError: it is not in Parquet, has no rows, or not the columns that are needed.
    """
    address = _parse_address(dataset, config, split)
    files = _find_files(address)
    split_files = [file for name in sorted(files) if address.split in ("", name) for file in files[name]]
    if not split_files:
        raise EvaluationError(
            f"{address.display_name} has the splits {', '.join(sorted(files))}; give one of them, or none"
        )
    with translate_source_errors(address), ThreadPoolExecutor(_worker_count(address)) as pool:
        footers = list(pool.map(partial(_read_footer, address), split_files))
    columns = {_select_columns(address, footer.schema.to_arrow_schema()) for footer in footers}
    if len(columns) > 1:
        raise EvaluationError(f"{address.display_name} has files of different columns; give one --config of it")
    total = sum(footer.num_rows for footer in footers)
    if not total:
        raise EvaluationError(f"{address.display_name} has no rows; give another data set, --config or --split")
    (column_names,) = columns
    chunks = [
        (file, footer, groups)
        for file, footer in zip(split_files, footers, strict=True)
        for groups in _iter_chunks(footer)
    ]
    row_format = detect_labelled_format(column_names) or "turns"
    k_is: KSource = "asked" if row_format == "turns" else "judged"
    return QuestionSource(
        _display_name(address, dataset),
        k_is,
        total,
        partial(_iter_dataset_rows, address, chunks, column_names, row_format),
    )


def _parse_address(dataset: str, config: str | None, split: str | None) -> Address:
    path = Path(dataset)
    if path.is_dir():
        address = Address(str(path.resolve()), on_hub=False)
    elif path.exists() or path.is_absolute() or "/" not in dataset:
        problem = "a file" if path.exists() else "not there"
        raise UsageError(
            f"{dataset} is {problem}; give the folder of a data set or a run, or org/name[@revision] on the Hub"
        )
    else:
        address = Address.parse(f"{HUB_PREFIX}{dataset.removeprefix(HUB_PREFIX)}")
        address = replace(address, revision=resolve_commit(address))
    for name, option in (("config", config), ("split", split)):
        if option and getattr(address, name) not in ("", option):
            raise UsageError(f"{dataset!r} and --{name} {option} name two {name}s; leave one out")
    return replace(address, config=config or address.config, split=split or address.split)


def _display_name(address: Address, dataset: str) -> str:
    """The folder's name, or what was given for the Hub, with what was chosen of it."""
    name = dataset.removeprefix(HUB_PREFIX).partition("?")[0] if address.on_hub else Path(address.path).name
    parts = [part for part in (address.config, address.split) if part and not name.endswith(f"/{part}")]
    return f"{name} ({', '.join(parts)})" if parts else name


def _find_files(address: Address) -> dict[str, tuple[str, ...]]:
    """Return split -> the paths or `hf://` addresses of its Parquet files."""
    if address.on_hub:
        listing = list_parquet_files(address)
        files = None if listing is None else listing.files
    else:
        files = _find_local_files(address)
    if not files:
        raise EvaluationError(f"{address.display_name} is not in Parquet; `load_dataset(...).to_parquet` writes it so")
    return files


def _find_local_files(address: Address) -> dict[str, tuple[str, ...]] | None:
    """As `datasets` tells them, which knows how cards and names say what belongs together."""
    from datasets import get_dataset_config_names, load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import Parquet

    with translate_source_errors(address):
        configs = get_dataset_config_names(address.path)
    if address.config and address.config not in configs:
        raise EvaluationError(f"{address.display_name} has the configs {', '.join(configs)}; give one of them, or none")
    with translate_source_errors(address):
        builder = load_dataset_builder(address.path, address.config or None)
    if not isinstance(builder, Parquet):
        return None
    return {str(split): tuple(map(str, files)) for split, files in (builder.config.data_files or {}).items()}


def _select_columns(address: Address, schema: Any) -> tuple[str, ...]:
    """Return the columns to read of a file."""
    import pyarrow as pa

    types = {name: schema.field(name).type for name in schema.names}
    turn_type: Any = getattr(types.get("turns"), "value_type", None)
    if turn_type is not None and pa.types.is_struct(turn_type):
        types |= {f"turns.{field.name}": field.type for field in turn_type.fields}
    row_format = detect_labelled_format(schema.names) or "turns"
    if row_format == "turns":
        columns = ["image_id", *_TURN_COLUMNS]
    else:
        has_answers = row_format != "question" or any(name in types for name in ANSWER_COLUMNS)
        answer_columns = () if has_answers else ANSWER_COLUMNS[:1]
        columns = ["image_id", *question_columns(row_format, types), *answer_columns, "capabilities"]
    if missing := [name for name in columns if name not in types]:
        raise EvaluationError(
            f"{address.display_name} lacks {', '.join(missing)} (it has {', '.join(schema.names)}); give a "
            "release, or have a "
            f"verifier say what its questions need: compact annotate DATASET --out RUN, then compact analyze RUN"
        )
    if not hasattr(types[columns[-1]], "value_type"):
        raise EvaluationError(
            f"{address.display_name} has {types[columns[-1]]} as {columns[-1]}; a list of names is needed"
        )
    return tuple(dict.fromkeys(name.partition(".")[0] for name in columns))


def _worker_count(address: Address) -> int:
    return _MAX_OPEN_FILES if address.on_hub else 1


def _open_file(address: Address, file: str) -> AbstractContextManager[Any]:
    if not address.on_hub:
        return open(file, "rb")
    from huggingface_hub import HfFileSystem

    # No reading ahead: between the columns that are wanted lie the images, which are a hundred times larger.
    stream: AbstractContextManager[Any] = HfFileSystem().open(file, "rb", cache_type="none")
    return stream


def _read_footer(address: Address, file: str) -> Any:
    import pyarrow.parquet as pq

    with _open_file(address, file) as stream:
        return pq.read_metadata(stream)


def _iter_chunks(footer: Any) -> Iterator[list[int]]:
    """Yield the file's row groups, as many together as make a chunk of rows."""
    groups: list[int] = []
    rows = 0
    for group in range(footer.num_row_groups):
        groups.append(group)
        rows += footer.row_group(group).num_rows
        if rows >= _CHUNK_ROWS:
            yield groups
            groups, rows = [], 0
    if groups:
        yield groups


def _iter_dataset_rows(
    address: Address, chunks: list[tuple[str, Any, list[int]]], columns: tuple[str, ...], row_format: RowFormat
) -> Iterator[QuestionRow]:
    """Read chunk by chunk, from the Hub some ahead: what is in memory are so many chunks of text."""
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(_worker_count(address), thread_name_prefix="read") as pool:
        try:
            for chunk in chunks:
                pending.append(pool.submit(_read_table, address, columns, *chunk))
                if len(pending) > _worker_count(address):
                    yield from _iter_table_rows(address, pending.popleft().result(), row_format)
            while pending:
                yield from _iter_table_rows(address, pending.popleft().result(), row_format)
        finally:
            pool.shutdown(cancel_futures=True)


def _read_table(address: Address, columns: tuple[str, ...], file: str, footer: Any, groups: list[int]) -> Any:
    import pyarrow.parquet as pq

    with translate_source_errors(address), _open_file(address, file) as stream:
        parquet_file = pq.ParquetFile(stream, metadata=footer, pre_buffer=True)
        return parquet_file.read_row_groups(groups, columns=list(columns), use_threads=False)


def _iter_table_rows(address: Address, table: Any, row_format: RowFormat) -> Iterator[QuestionRow]:
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for record in batch.to_pylist():
            image_id = record["image_id"]
            exchanges = read_exchanges(record, row_format)
            if isinstance(exchanges, Defect):  # such as a row of instruction data, which has no turns
                exchanges = ()
            if image_id is None and exchanges:
                raise EvaluationError(
                    f"{address.display_name} has a row with questions and no image_id; give each its own"
                )
            yield QuestionRow(image_id or "", tuple(map(_label_question, exchanges)))


def _label_question(exchange: Exchange) -> LabelledQuestion:
    return LabelledQuestion(exchange.question, exchange.answer, tuple(exchange.capabilities or ()))


def is_run(directory: Path) -> bool:
    """Whether there is a journal in `directory`, or in the shards below it."""
    return directory.is_dir() and any((run / FILE_NAME).is_file() for run in find_runs(directory))


def read_run(directory: Path) -> QuestionSource:
    """Return a run's questions: those of kept conversations, or of `compact annotate` all that were judged.

    Raises:
        JournalError: it cannot be read.
        EvaluationError: no image of it is finished yet.
        UsageError: it is a run of a method that has no questions.
    """
    runs = find_runs(directory)
    total, k_sources = 0, set()
    for run in runs:
        with Journal.read(run) as journal:
            name = journal.identity["method"]
            if (k_source := get_method(name).k_source) is None:
                raise UsageError(f"{directory} is a run of {name}, which keeps no questions; give another run")
            k_sources.add(k_source)
            total += journal.counts()[0]
    if not total:
        raise EvaluationError(
            f"{directory} has no finished picture yet; run the command that made it on, then this again"
        )
    k_is: KSource = "judged" if k_sources == {"judged"} else "asked"
    return QuestionSource(directory.resolve().name, k_is, total, partial(_iter_run_rows, runs))


def _iter_run_rows(runs: list[Path]) -> Iterator[QuestionRow]:
    for run in runs:
        with Journal.read(run) as journal:
            method = get_method(journal.identity["method"])
            for outcome in journal.outcomes():
                exchanges = method.iter_questions(outcome.body)
                yield QuestionRow(outcome.image_id, tuple(map(_label_question, exchanges)))
