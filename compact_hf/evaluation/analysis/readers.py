"""Read the questions to analyze as a stream, image by image: of a dataset or of a run, without decoding images.

A dataset is what `load_dataset` would load: a directory or a repository of Parquet files, by its card's configs and
splits. Of its columns only those of text are read; from the Hub these are a hundredth of the bytes. A row is one of
ours (`image_id`, `turns`) or a question, as `compact annotate` writes them (`image_id`, `question`, `answer`,
`capabilities`). Of a run it is what it kept or annotated; its journal may still be written to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.images.address import HUB, Address
from compact_hf.images.hub_repository import commit_of, listing_of, readable
from compact_hf.methods.annotate.annotation import METHOD as ANNOTATE
from compact_hf.methods.annotate.annotation import annotated_of
from compact_hf.methods.compact.conversation import outcome_of
from compact_hf.methods.compact.preset import CONVERSING
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.shards import runs_in

Kind = Literal["asked", "judged"]
"""How k is known. `asked`: a teacher was to ask for these capabilities, and a verifier found the very same ones.
`judged`: questions were there, and a verifier said what they need."""


class Asked(NamedTuple):
    """A question as it stands; `answer` is empty where there is none."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


class Row(NamedTuple):
    """Questions about one picture; none where nobody said what they need, as in instruction rows."""

    picture: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Readable:
    """Something whose questions can be read.

    Attributes:
        name (`str`): what people call it.
        k_is (`str`): `asked` or `judged`.
        total (`int`): rows of a data set, finished pictures of a run.
        rows (`Callable[[], Iterator[Row]]`): reads them, in their order.
    """

    name: str
    k_is: Kind
    total: int
    rows: Callable[[], Iterator[Row]]


_TURNS: Final = ("image_id", "turns.question", "turns.answer", "turns.capabilities")
_QUESTIONS: Final = ("image_id", "question", "answer", "capabilities")
_CHUNK_ROWS: Final = 10_000
_BATCH_ROWS: Final = 1000
_FILES_AT_ONCE: Final = 8  # of the Hub: its answers take longer than our work


def of_dataset(dataset: str, *, config: str | None, split: str | None) -> Readable:
    """Return a data set's questions.

    Args:
        dataset (`str`): a folder, or `org/name[@revision][/config]`, with or without `hf://datasets/` before it.
        config, split (`str`, *optional*): the default config, all splits where not given.

    Raises:
        UsageError: it is neither, or names two configs.
        SourceError: there is no such data set, config or split, or it cannot be read.
        EvaluationError: it is not in Parquet, has no rows, or not the columns that are needed.
    """
    address = _address(dataset, config, split)
    files = _files(address)
    of_split = [file for name in sorted(files) if address.split in ("", name) for file in files[name]]
    if not of_split:
        raise EvaluationError(f"{address.told} has the splits {', '.join(sorted(files))}; give one of them, or none")
    with readable(address), ThreadPoolExecutor(_ahead(address)) as pool:
        footers = list(pool.map(partial(_footer, address), of_split))
    columns = {_columns(address, footer.schema.to_arrow_schema()) for footer in footers}
    if len(columns) > 1:
        raise EvaluationError(f"{address.told} has files of different columns; give one --config of it")
    total = sum(footer.num_rows for footer in footers)
    if not total:
        raise EvaluationError(f"{address.told} has no rows; give another data set, --config or --split")
    (wanted,) = columns
    chunks = [
        (file, footer, groups) for file, footer in zip(of_split, footers, strict=True) for groups in _chunks(footer)
    ]
    k_is: Kind = "asked" if "turns" in wanted else "judged"
    return Readable(_name(address, dataset), k_is, total, partial(_dataset_rows, address, chunks, wanted))


def _address(dataset: str, config: str | None, split: str | None) -> Address:
    path = Path(dataset)
    if path.is_dir():
        address = Address(str(path.resolve()), on_hub=False)
    elif path.exists() or path.is_absolute() or "/" not in dataset:
        what = "a file" if path.exists() else "not there"
        raise UsageError(
            f"{dataset} is {what}; give the folder of a data set or a run, or org/name[@revision] on the Hub"
        )
    else:
        address = Address.parse(f"{HUB}{dataset.removeprefix(HUB)}")
        address = replace(address, revision=commit_of(address))
    for name, given in (("config", config), ("split", split)):
        if given and getattr(address, name) not in ("", given):
            raise UsageError(f"{dataset!r} and --{name} {given} name two {name}s; leave one out")
    return replace(address, config=config or address.config, split=split or address.split)


def _name(address: Address, dataset: str) -> str:
    """The folder's name, or what was given for the Hub, with what was chosen of it."""
    name = dataset.removeprefix(HUB).partition("?")[0] if address.on_hub else Path(address.path).name
    chosen = [part for part in (address.config, address.split) if part and not name.endswith(f"/{part}")]
    return f"{name} ({', '.join(chosen)})" if chosen else name


def _files(address: Address) -> dict[str, tuple[str, ...]]:
    """Return split -> the paths or `hf://` addresses of its Parquet files."""
    if address.on_hub:
        listing = listing_of(address)
        found = None if listing is None else listing.files
    else:
        found = _local_files(address)
    if not found:
        raise EvaluationError(f"{address.told} is not in Parquet; `load_dataset(...).to_parquet` writes it so")
    return found


def _local_files(address: Address) -> dict[str, tuple[str, ...]] | None:
    """As `datasets` tells them, which knows how cards and names say what belongs together."""
    from datasets import get_dataset_config_names, load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import Parquet

    with readable(address):
        configs = get_dataset_config_names(address.path)
    if address.config and address.config not in configs:
        raise EvaluationError(f"{address.told} has the configs {', '.join(configs)}; give one of them, or none")
    with readable(address):
        builder = load_dataset_builder(address.path, address.config or None)
    if not isinstance(builder, Parquet):
        return None
    return {str(split): tuple(map(str, files)) for split, files in (builder.config.data_files or {}).items()}


def _columns(address: Address, schema: Any) -> tuple[str, ...]:
    """Return the columns to read of a file."""
    import pyarrow as pa

    there = {name: schema.field(name).type for name in schema.names}
    turn: Any = getattr(there.get("turns"), "value_type", None)
    if turn is not None and pa.types.is_struct(turn):
        there |= {f"turns.{field.name}": field.type for field in turn.fields}
    wanted = _QUESTIONS if "question" in there and "turns" not in there else _TURNS
    if missing := [name for name in wanted if name not in there]:
        raise EvaluationError(
            f"{address.told} lacks {', '.join(missing)} (it has {', '.join(schema.names)}); give a release, or have a "
            f"verifier say what its questions need: compact annotate DATASET --out RUN, then compact analyze RUN"
        )
    if not hasattr(there[wanted[-1]], "value_type"):
        raise EvaluationError(f"{address.told} has {there[wanted[-1]]} as {wanted[-1]}; a list of names is needed")
    return tuple(dict.fromkeys(name.partition(".")[0] for name in wanted))


def _ahead(address: Address) -> int:
    return _FILES_AT_ONCE if address.on_hub else 1


def _opened(address: Address, file: str) -> AbstractContextManager[Any]:
    if not address.on_hub:
        return open(file, "rb")
    from huggingface_hub import HfFileSystem

    # No reading ahead: between the columns that are wanted lie the pictures, which are a hundred times larger.
    opened: AbstractContextManager[Any] = HfFileSystem().open(file, "rb", cache_type="none")
    return opened


def _footer(address: Address, file: str) -> Any:
    import pyarrow.parquet as pq

    with _opened(address, file) as raw:
        return pq.read_metadata(raw)


def _chunks(footer: Any) -> Iterator[list[int]]:
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


def _dataset_rows(
    address: Address, chunks: list[tuple[str, Any, list[int]]], columns: tuple[str, ...]
) -> Iterator[Row]:
    """Read chunk by chunk, from the Hub some ahead: what is in memory are so many chunks of text."""
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(_ahead(address), thread_name_prefix="read") as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_table, address, columns, *chunk))
                if len(waiting) > _ahead(address):
                    yield from _rows_in(address, waiting.popleft().result())
            while waiting:
                yield from _rows_in(address, waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def _table(address: Address, columns: tuple[str, ...], file: str, footer: Any, groups: list[int]) -> Any:
    import pyarrow.parquet as pq

    with readable(address), _opened(address, file) as raw:
        parquet = pq.ParquetFile(raw, metadata=footer, pre_buffer=True)
        return parquet.read_row_groups(groups, columns=list(columns), use_threads=False)


def _rows_in(address: Address, table: Any) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for record in batch.to_pylist():
            picture = record["image_id"]
            asked = record["turns"] or () if "turns" in record else (record,)
            if picture is None and asked:
                raise EvaluationError(f"{address.told} has a row with questions and no image_id; give each its own")
            yield Row(picture or "", tuple(map(_asked, asked)))


def _asked(turn: dict[str, Any]) -> Asked:
    return Asked(turn["question"] or "", turn["answer"] or "", tuple(turn["capabilities"] or ()))


def is_run(folder: Path) -> bool:
    """Whether there is a journal in `folder`, or in the shards below it."""
    return folder.is_dir() and any((run / FILE_NAME).is_file() for run in runs_in(folder))


def of_run(folder: Path) -> Readable:
    """Return a run's questions: those of kept conversations, or of `compact annotate` all that were judged.

    Raises:
        JournalError: it cannot be read.
        EvaluationError: no picture of it is finished yet.
        UsageError: it is a run of a method that has no questions.
    """
    runs = runs_in(folder)
    total, methods = 0, set()
    for run in runs:
        with Journal.read(run) as journal:
            methods.add(journal.identity["method"])
            total += journal.counts()[0]
    if unknown := methods - {ANNOTATE, *CONVERSING}:
        raise UsageError(f"{folder} is a run of {sorted(unknown)[0]}, which keeps no questions; give another run")
    if not total:
        raise EvaluationError(f"{folder} has no finished picture yet; run the command that made it on, then this again")
    k_is: Kind = "judged" if methods == {ANNOTATE} else "asked"
    return Readable(folder.resolve().name, k_is, total, partial(_run_rows, runs))


def _run_rows(runs: list[Path]) -> Iterator[Row]:
    for run in runs:
        with Journal.read(run) as journal:
            asked = _annotated if journal.identity["method"] == ANNOTATE else _kept
            for finished in journal.outcomes():
                yield Row(finished.image_id, asked(finished.body))


def _annotated(body: str) -> tuple[Asked, ...]:
    return tuple(Asked(one.question, one.answer, one.capabilities) for one in annotated_of(body).annotations)


def _kept(body: str) -> tuple[Asked, ...]:
    conversation = outcome_of(body).conversation
    turns = conversation.turns if conversation is not None else ()
    return tuple(Asked(turn.question, turn.answer, turn.capabilities) for turn in turns)
