"""Reads the questions of a dataset or a run as a stream, image by image, without reading images.

A dataset is a directory or a repository of Parquet files, with configs and splits as `load_dataset` finds them. Only
text columns are read; on the Hub they are about a hundredth of the bytes. A row has an `image_id`, questions in one of
the formats that images/question_rows.py reads, and `capabilities`: in each turn of our own datasets, otherwise in a
column, as `compact annotate` writes it. The questions of a run come from its method. The run may still be in progress.
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
from compact_hf.hub.download import open_hub_file
from compact_hf.images.address import HUB_PREFIX, Address, is_url
from compact_hf.images.conversations import Defect
from compact_hf.images.hub_repository import (
    get_cache_directory,
    list_parquet_files,
    resolve_address,
    translate_source_errors,
)
from compact_hf.images.hub_rows import HubParquetFile
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
from compact_hf.records import digest
from compact_hf.regular_files import check_regular_files, open_regular
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.shards import find_runs
from compact_hf.storage import atomic_file


class LabelledQuestion(NamedTuple):
    """A question with its original text and answer, which is empty if there is none, and the capabilities it needs."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


class QuestionRow(NamedTuple):
    """The questions about one image; empty if their capabilities are unknown, as in instruction rows."""

    image_id: str
    questions: tuple[LabelledQuestion, ...]


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """A dataset or run whose questions can be read.

    Attributes:
        name (`str`): display name.
        k_is (`str`): where k comes from: `asked` if a teacher was asked for k capabilities and a verifier confirmed
            them, `judged` if a verifier determined them for given questions.
        total (`int`): number of rows of a dataset, or of finished images of a run.
        iter_rows (`Callable[[], Iterator[QuestionRow]]`): yields the rows in order.
    """

    name: str
    k_is: KSource
    total: int
    iter_rows: Callable[[], Iterator[QuestionRow]]


_TURN_COLUMNS: Final = ("turns.question", "turns.answer", "turns.capabilities")
# Rows that are read at once, rounded up to whole row groups.
_CHUNK_ROWS: Final = 10_000
_BATCH_ROWS: Final = 1000
_MAX_OPEN_FILES: Final = 8  # files read from the Hub in parallel, because latency exceeds processing time


def read_dataset(dataset: str, *, config: str | None, split: str | None) -> QuestionSource:
    """Open a dataset for reading its questions.

    Args:
        dataset (`str`): a directory, or `org/name[@revision][/config]`, optionally with the prefix `hf://datasets/`.
        config (`str | None`): config to read; by default the default config.
        split (`str | None`): split to read; by default all splits.

    Raises:
        UsageError: `dataset` is neither a directory nor a repository, or names another config or split.
        SourceError: the dataset cannot be downloaded or read.
        EvaluationError: the dataset is not in Parquet, has no rows, or lacks columns.
    """
    address = _parse_address(dataset, config, split)
    files = _find_files(address)
    split_files = [file for name in sorted(files) if address.split in ("", name) for file in files[name]]
    if not split_files:
        raise UsageError(
            f"{address.display_name} has the splits {', '.join(sorted(files))}; give one of them as --split, or omit it"
        )
    # A footer has the columns, the number of rows and the row groups, so all files are checked before one is read.
    with translate_source_errors(address), ThreadPoolExecutor(_worker_count(address)) as pool:
        footers = list(pool.map(partial(_read_footer, address), split_files))
    columns = {_select_columns(address, footer.schema.to_arrow_schema()) for footer in footers}
    if len(columns) > 1:
        raise EvaluationError(f"{address.display_name} has files with different columns; choose a config with --config")
    total = sum(footer.num_rows for footer in footers)
    if not total:
        raise EvaluationError(f"{address.display_name} has no rows; give another dataset, --config or --split")
    (column_names,) = columns
    # (file, footer, row groups): what one task of the pool reads.
    chunks = [
        (file, footer, groups)
        for file, footer in zip(split_files, footers, strict=True)
        for groups in _iter_chunks(footer)
    ]
    row_format = detect_labelled_format(column_names) or "turns"
    # Only our own datasets have `turns`, whose k was requested. Other labels are from a verifier.
    k_is: KSource = "asked" if row_format == "turns" else "judged"
    return QuestionSource(
        _display_name(address, dataset),
        k_is,
        total,
        partial(_iter_dataset_rows, address, chunks, column_names, row_format),
    )


def _parse_address(dataset: str, config: str | None, split: str | None) -> Address:
    """Return the address of a dataset; a revision on the Hub is resolved to a commit, so that all files match."""
    path = Path(dataset)
    if path.is_dir():
        address = Address(str(path.resolve()), on_hub=False)
    # Without a slash it cannot be a repository.
    elif path.exists() or path.is_absolute() or "/" not in dataset:
        problem = "is a file" if path.exists() else "was not found"
        raise UsageError(
            f"{dataset} {problem}; give the directory of a dataset or a run, or org/name[@revision] on the Hub"
        )
    else:
        address = Address.parse(dataset if is_url(dataset) else f"{HUB_PREFIX}{dataset}")
        address = resolve_address(address)
    for name, option in (("config", config), ("split", split)):
        if option and getattr(address, name) not in ("", option):
            raise UsageError(f"{dataset!r} and --{name} {option} name different {name}s; omit one of them")
    return replace(address, config=config or address.config, split=split or address.split)


def _display_name(address: Address, dataset: str) -> str:
    """Return the directory name or the repository as given, with the chosen config and split in parentheses."""
    name = dataset.removeprefix(HUB_PREFIX).partition("?")[0] if address.on_hub else Path(address.path).name
    parts = [part for part in (address.config, address.split) if part and not name.endswith(f"/{part}")]
    return f"{name} ({', '.join(parts)})" if parts else name


def _find_files(address: Address) -> dict[str, tuple[str, ...]]:
    """Return split -> paths or `hf://` URLs of its Parquet files."""
    if address.on_hub:
        listing = list_parquet_files(address)
        files = None if listing is None else listing.files
    else:
        files = _find_local_files(address)
    if not files:
        raise EvaluationError(f"{address.display_name} is not in Parquet; convert it by `load_dataset(...).to_parquet`")
    return files


def _find_local_files(address: Address) -> dict[str, tuple[str, ...]] | None:
    """Return split -> paths as `datasets` resolves them from the card and the file names; None if not in Parquet."""
    from datasets import get_dataset_config_names, load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import Parquet

    with translate_source_errors(address):
        check_regular_files(address.path)
        configs = get_dataset_config_names(address.path)
    if address.config and address.config not in configs:
        raise UsageError(
            f"{address.display_name} has the configs {', '.join(configs)}; give one of them as --config, or omit it"
        )
    with translate_source_errors(address):
        # Resolves the file names; no data is prepared.
        builder = load_dataset_builder(address.path, address.config or None)
    if not isinstance(builder, Parquet):
        return None
    return {str(split): tuple(map(str, files)) for split, files in (builder.config.data_files or {}).items()}


def _select_columns(address: Address, schema: Any) -> tuple[str, ...]:
    """Return the names of the columns to read, having checked that they exist and that capabilities are a list."""
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
            "dataset made by compact assemble, or let a verifier label the questions: "
            f"compact annotate DATASET --out RUN, then compact analyze RUN"
        )
    # The last column is that of the capabilities.
    if not hasattr(types[columns[-1]], "value_type"):
        raise EvaluationError(
            f"{address.display_name} has the type {types[columns[-1]]} for {columns[-1]}; it must be a list of names"
        )
    # `turns` once, instead of each of its fields.
    return tuple(dict.fromkeys(name.partition(".")[0] for name in columns))


def _worker_count(address: Address) -> int:
    return _MAX_OPEN_FILES if address.on_hub else 1


def _open_file(address: Address, file: str) -> AbstractContextManager[Any]:
    return open_hub_file(file) if address.on_hub else open_regular(file)


def _read_footer(address: Address, file: str) -> Any:
    import pyarrow.parquet as pq
    from datasets import Features

    if address.on_hub:
        return HubParquetFile(file, address, Features()).footer
    with open_regular(file) as stream:
        return pq.read_metadata(stream)


def _iter_chunks(footer: Any) -> Iterator[list[int]]:
    """Yield lists of consecutive row groups that have at least `_CHUNK_ROWS` rows together."""
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
    """Yield the rows chunk by chunk. A few chunks are read ahead, so memory is bounded by their text."""
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
            # If the caller stops early or a chunk cannot be read, chunks that have not started are not read.
            pool.shutdown(cancel_futures=True)


def _read_table(address: Address, columns: tuple[str, ...], file: str, footer: Any, groups: list[int]) -> Any:
    """Return the columns of some row groups; those of a file on the Hub are cached, for later calls and offline."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cache_file = get_cache_directory(address) / f"{digest(file, columns, groups, length=16)}.arrow"
    with translate_source_errors(address):
        if address.on_hub and cache_file.exists():
            with pa.memory_map(str(cache_file)) as source:
                return pa.ipc.open_file(source).read_all()
        with _open_file(address, file) as stream:
            parquet_file = pq.ParquetFile(stream, metadata=footer, pre_buffer=True)
            # Without threads of its own: the pool already reads several chunks in parallel.
            table = parquet_file.read_row_groups(groups, columns=list(columns), use_threads=False)
        if address.on_hub:
            with atomic_file(cache_file, is_shared=True) as temp_file, pa.ipc.new_file(temp_file, table.schema) as sink:
                sink.write_table(table)
        return table


def _iter_table_rows(address: Address, table: Any, row_format: RowFormat) -> Iterator[QuestionRow]:
    """Yield the rows of an Arrow table with their questions."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for record in batch.to_pylist():
            image_id = record["image_id"]
            exchanges = read_exchanges(record, row_format)
            if isinstance(exchanges, Defect):  # for example an instruction row, which has no turns
                exchanges = ()
            if image_id is None and exchanges:
                raise EvaluationError(
                    f"{address.display_name} has a row with questions but without image_id; add an image_id to each row"
                )
            yield QuestionRow(image_id or "", tuple(map(_label_question, exchanges)))


def _label_question(exchange: Exchange) -> LabelledQuestion:
    return LabelledQuestion(exchange.question, exchange.answer, tuple(exchange.capabilities or ()))


def is_run(directory: Path) -> bool:
    """Return whether `directory` contains a journal, itself or in its shards."""
    return directory.is_dir() and any((run / FILE_NAME).is_file() for run in find_runs(directory))


def read_run(directory: Path) -> QuestionSource:
    """Open a run for reading its questions: those of kept conversations, or for `compact annotate` all labelled ones.

    Raises:
        JournalError: the run cannot be read.
        EvaluationError: no image of the run is finished yet.
        UsageError: the method of the run has no questions.
    """
    runs = find_runs(directory)
    total, k_sources = 0, set()
    for run in runs:
        with Journal.read(run) as journal:
            name = journal.identity["method"]
            if (k_source := get_method(name).k_source) is None:
                raise UsageError(f"{directory} is a run of the method {name}, which has no questions; give another run")
            k_sources.add(k_source)
            # The number of finished images.
            total += journal.counts()[0]
    if not total:
        raise EvaluationError(
            f"{directory} has no finished image yet; resume the command that made it, then run this command again"
        )
    # With runs of both kinds, some k were requested.
    k_is: KSource = "judged" if k_sources == {"judged"} else "asked"
    return QuestionSource(directory.resolve().name, k_is, total, partial(_iter_run_rows, runs))


def _iter_run_rows(runs: list[Path]) -> Iterator[QuestionRow]:
    for run in runs:
        with Journal.read(run) as journal:
            method = get_method(journal.identity["method"])
            for outcome in journal.outcomes():
                exchanges = method.iter_questions(outcome.body)
                yield QuestionRow(outcome.image_id, tuple(map(_label_question, exchanges)))
