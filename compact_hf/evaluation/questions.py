"""Read questions from the rows of a dataset: one question about one image, with its right answers kept apart.

A row is one of ours (`turns`: an image's questions, each asked alone), or one question (`question`, and `answer` or
`answers`). If columns have other names, they are mapped: `--columns question=query,answer=label`.

    question       a text
    answer         a text, a number, or several of them, any of which counts: a list, or VQA's [{answer: ...}, ...]
    image          an image, a list of one image, or in a local file a path beside it
    k              0 to 10; by default the number of capabilities, if those are given
    capabilities   a list of names of the ten
    id             by default the number of the row
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.images.codec import ImageError
from compact_hf.models.loading import without_progress_bars


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is asked, alone, whatever conversation it stood in.

    Attributes:
        id (`str`): unique in its dataset.
        image_id (`str`): which image it was written about; questions about one image share it.
        question (`str`): without the request for a short answer.
        answers (`tuple[str, ...]`): the right ones, at least one; any of them counts, the first is the one shown.
        k (`int | None`): how many capabilities it needs; None where the dataset does not say.
        capabilities (`tuple[str, ...]`): which.
        read_image (`Callable[[], bytes]`): gives the encoded image when its turn has come.
    """

    id: str
    image_id: str
    question: str
    answers: tuple[str, ...]
    k: int | None
    capabilities: tuple[str, ...]
    read_image: Callable[[], bytes] = field(compare=False, repr=False)


_IMAGE_COLUMNS: Final = ("image", "images")


class ImageColumn:
    """One column of images.

    Args:
        rows (`datasets.Dataset`): all rows of the dataset, in their order.
        column (`str | None`): which; by default `image` or `images`, or else the first of images.
        root (`Path | None`): where the paths of a dataset of one's own start; None for one from the Hub.
        dataset_name (`str`): what the dataset is called.

    Raises:
        EvaluationError: there is no such column.
    """

    def __init__(self, rows: Any, column: str | None, *, root: Path | None, dataset_name: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column or _find_image_column(rows)
        if column is None or column not in rows.column_names:
            raise EvaluationError(
                f"{dataset_name} has no column of pictures (it has {', '.join(rows.column_names)}); "
                "say which one it is: --columns image=COLUMN"
            )
        self._root = root
        # As Arrow an image is the bytes of its file; as a row it would be decoded.
        self._table = rows.select_columns([column]).with_format("arrow")
        self._column = column
        arrow_column = self._table.data.column(column)
        # The null mask and the lists' lengths: no image is read for them.
        is_list = pa.types.is_list(arrow_column.type) or pa.types.is_large_list(arrow_column.type)
        counts = pc.list_value_length(arrow_column) if is_list else pc.is_valid(arrow_column).cast(pa.int32())
        self._counts = pc.fill_null(counts, 0).to_pylist()

    def missing_reason(self, index: int) -> str:
        """Return why a row's image cannot be asked about, or nothing."""
        count = self._counts[index]
        return "" if count == 1 else "several pictures" if count else "no picture"

    def image_id(self, index: int) -> str:
        """Return what the row's image is called: rows that name the same file share it."""
        import pyarrow as pa

        cell = self._cell(index)
        # Names inside of Parquet files are often all the same.
        path = (None if cell["bytes"].is_valid else cell["path"]) if isinstance(cell, pa.StructScalar) else cell
        return str(path) if path else f"row {index}"

    def read(self, index: int) -> bytes:
        """Return the file of a row's image.

        Raises:
            ImageError: there is none that may be read.
        """
        cell = self._cell(index).as_py()
        data: bytes | None = cell["bytes"] if isinstance(cell, dict) else None
        if data:
            return data
        path = cell["path"] if isinstance(cell, dict) else cell
        try:
            return self._resolve_path(path).read_bytes()
        except OSError as error:
            raise ImageError("unreadable file", f"{path}: {error.strerror}") from error

    def _cell(self, index: int) -> Any:
        """Return the image as Arrow holds it: a struct of bytes and path, or a text."""
        import pyarrow as pa

        cell = self._table.data.column(self._column)[index]
        return cell.values[0] if isinstance(cell, pa.ListScalar) else cell

    def _resolve_path(self, path: Any) -> Path:
        from datasets import config

        if not isinstance(path, str) or not path:
            raise ImageError("not a picture", f"{type(path).__name__} {str(path)[:80]!r}")
        roots = [root for root in (self._root, Path(config.HF_DATASETS_CACHE).resolve()) if root]
        resolved = ((self._root or Path()) / path).resolve()
        # Somebody else's table may name any file of this machine.
        if not any(resolved.is_relative_to(root) for root in roots):
            raise ImageError("unreadable file", f"{path} does not lie beside the data set")
        return resolved


def _find_image_column(rows: Any) -> str | None:
    from datasets import Image, List

    typed_columns = [
        name
        for name, feature in rows.features.items()
        if isinstance(feature.feature if isinstance(feature, List) else feature, Image)
    ]
    return next((name for name in (*_IMAGE_COLUMNS, *typed_columns) if name in rows.column_names), None)


COMPOSITIONAL_CONFIG: Final = "compositional"
FIELDS: Final = ("question", "answer", "image", "k", "capabilities", "id")
_DEFAULT_COLUMNS: Final = {
    "question": ("question",),
    "answer": ("answer", "answers"),
    "image": ("image", "images"),
    "k": ("k",),
    "capabilities": ("capabilities",),
    "id": ("id", "question_id"),
}
_DEFAULT_SPLITS: Final = ("validation", "test")
_FILE_BUILDERS: Final = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True, slots=True)
class RowQuestions:
    """What a dataset asks.

    Attributes:
        name (`str`): what it is called: its name, its config and its split.
        questions (`list[Question]`): in the order of the rows.
        skip_counts (`dict[str, int]`): reason -> rows that cannot be asked.
    """

    name: str
    questions: list[Question]
    skip_counts: dict[str, int]


def read_row_questions(
    dataset: str, *, config: str | None, split: str | None, columns: Mapping[str, str] | None
) -> RowQuestions:
    """Read a dataset; see `datasets.load_questions` for the arguments and for what is raised."""
    if unknown := [name for name in columns or () if name not in FIELDS]:
        raise UsageError(
            f"got the column {unknown[0]!r}; {', '.join(FIELDS)} can be mapped{did_you_mean(unknown[0], FIELDS)}"
        )
    source = _resolve_source(dataset)
    config = config or _default_config(source)
    split = split or _default_split(source, config)
    rows = _load_rows(source, config, split)
    dataset_name = f"{source.name} ({', '.join(name for name in (config, split) if name)})"
    images = ImageColumn(rows, (columns or {}).get("image"), root=source.root, dataset_name=dataset_name)
    skip_counts: Counter[str] = Counter()
    if "turns" in rows.column_names and not columns:
        questions = list(_iter_release_questions(rows, images, skip_counts, dataset_name))
    else:
        questions = list(
            _iter_flat_questions(
                rows, _map_columns(rows, columns or {}, dataset_name), images, skip_counts, dataset_name
            )
        )
    if not questions:
        reasons = ", ".join(f"{reason} in {count}" for reason, count in skip_counts.items())
        raise EvaluationError(
            f"{dataset_name} has no question that can be asked ({reasons or 'it is empty'}); give another"
        )
    return RowQuestions(dataset_name, questions, dict(sorted(skip_counts.items())))


@dataclass(frozen=True, slots=True)
class _DatasetSource:
    """What `load_dataset` takes, what to call it, and the folder where a dataset of one's own lies."""

    path: str
    name: str
    load_kwargs: dict[str, Any]
    root: Path | None


def _resolve_source(dataset: str) -> _DatasetSource:
    path = Path(dataset)
    if path.is_file():
        if path.suffix not in _FILE_BUILDERS:
            raise EvaluationError(f"{dataset} is no data set; of files {', '.join(_FILE_BUILDERS)} are read")
        return _DatasetSource(_FILE_BUILDERS[path.suffix], path.name, {"data_files": str(path)}, path.parent.resolve())
    if path.is_dir():
        return _DatasetSource(dataset, path.resolve().name, {}, path.resolve())
    name, _, revision = dataset.partition("@")  # no RepoRef: a name without an owner is one too, such as `squad`
    return _DatasetSource(name, dataset, {"revision": revision} if revision else {}, None)


def _default_config(source: _DatasetSource) -> str | None:
    from datasets import get_dataset_config_names

    if "data_files" in source.load_kwargs:
        return None
    with _translate_dataset_errors(source):
        names = get_dataset_config_names(source.path, **source.load_kwargs)
    if COMPOSITIONAL_CONFIG in names:
        return COMPOSITIONAL_CONFIG
    if len(names) > 1 and "default" not in names:
        raise EvaluationError(f"{source.name} has the configs {', '.join(names)}; choose one with --config")
    return names[0] if len(names) == 1 else "default"


def _default_split(source: _DatasetSource, config: str | None) -> str:
    from datasets import get_dataset_split_names

    with _translate_dataset_errors(source):
        names: list[str] = list(get_dataset_split_names(source.path, config, **source.load_kwargs))
    # What lies in one file has no other name.
    for name in (*_DEFAULT_SPLITS, *(names if "data_files" in source.load_kwargs else ())):
        if name in names:
            return str(name)
    raise EvaluationError(
        f"{source.name} has no split {' or '.join(_DEFAULT_SPLITS)} (it has {', '.join(names)}); choose one "
        "with --split"
    )


def _load_rows(source: _DatasetSource, config: str | None, split: str) -> Any:
    from datasets import load_dataset

    with _translate_dataset_errors(source):
        return load_dataset(source.path, config, split=split, **source.load_kwargs)


@contextmanager
def _translate_dataset_errors(source: _DatasetSource) -> Iterator[None]:
    """Tell in one line what keeps `datasets` from reading."""
    from datasets.exceptions import DatasetGenerationError

    try:
        with without_progress_bars():
            yield
    except (OSError, ValueError, DatasetGenerationError) as error:
        message = " ".join(str(error.__cause__ or error).split())
        raise EvaluationError(f"{source.name} cannot be read as a data set: {message}") from error


def _map_columns(rows: Any, columns: Mapping[str, str], dataset_name: str) -> dict[str, str]:
    """Return what is what -> its column, as mapped or by its usual name; a question and an answer there must be."""
    column_names = rows.column_names
    for name, column in columns.items():
        if column not in column_names:
            raise EvaluationError(
                f"{dataset_name} has no column {column!r} for {name} (it has "
                f"{', '.join(column_names)}){did_you_mean(column, column_names)}"
            )
    mapping = {
        name: next((candidate for candidate in candidates if candidate in column_names), "")
        for name, candidates in _DEFAULT_COLUMNS.items()
    } | dict(columns)
    if missing := [name for name in ("question", "answer") if not mapping[name]]:
        raise EvaluationError(
            f"{dataset_name} has no column {missing[0]!r} (it has {', '.join(column_names)}); say which one it is: "
            f"--columns {','.join(f'{name}=COLUMN' for name in missing)}"
        )
    return {name: column for name, column in mapping.items() if column and name != "image"}


def _iter_release_questions(
    rows: Any, images: ImageColumn, skip_counts: Counter[str], dataset_name: str
) -> Iterator[Question]:
    columns = [name for name in ("id", "image_id", "k", "turns") if name in rows.column_names]
    for index, row in enumerate(rows.select_columns(columns)):
        if reason := images.missing_reason(index):
            skip_counts[reason] += 1
            continue
        id = str(row.get("id") or index)
        for number, turn in enumerate(row["turns"]):
            names = canonicalize(turn["capabilities"])
            yield Question(
                id=f"{id}#{number}",
                image_id=row.get("image_id") or id,
                question=turn["question"],
                answers=(turn["answer"],),
                k=_parse_k(row.get("k"), names, id, dataset_name),
                capabilities=names,
                read_image=partial(images.read, index),
            )


def _iter_flat_questions(
    rows: Any, columns: Mapping[str, str], images: ImageColumn, skip_counts: Counter[str], dataset_name: str
) -> Iterator[Question]:
    seen: Counter[str] = Counter()
    for index, row in enumerate(rows.select_columns(list(dict.fromkeys(columns.values())))):
        values = {name: row[column] for name, column in columns.items()}
        id = str(index if values.get("id") is None else values["id"])
        seen[id] += 1
        if seen[id] > 1:
            raise EvaluationError(
                f"{dataset_name} has two rows of the id {id!r}; map id to a column that differs, or to none"
            )
        answers = _parse_answers(values["answer"])
        reason = (
            images.missing_reason(index)
            or ("" if answers else "no answer")
            or ("" if values["question"] else "no question")
        )
        if reason:
            skip_counts[reason] += 1
            continue
        names = _parse_capabilities(values.get("capabilities"), id, dataset_name)
        yield Question(
            id=id,
            image_id=images.image_id(index),
            question=str(values["question"]),
            answers=answers,
            k=_parse_k(values.get("k"), names, id, dataset_name),
            capabilities=names,
            read_image=partial(images.read, index),
        )


def _parse_answers(value: Any) -> tuple[str, ...]:
    """Return the different right answers, none where there is no answer; those most people gave come first."""
    values = value if isinstance(value, list) else [value]
    texts = (item.get("answer") if isinstance(item, Mapping) else item for item in values)
    counts = Counter(str(text) for text in texts if text is not None and str(text).strip())
    return tuple(text for text, _ in counts.most_common())


def _parse_capabilities(value: Any, id: str, dataset_name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise EvaluationError(
            f"row {id} of {dataset_name} has capabilities {value!r}; a list of names is needed, of "
            f"{', '.join(CAPABILITIES)}"
        )
    return canonicalize(value)


def _parse_k(value: Any, names: tuple[str, ...], id: str, dataset_name: str) -> int | None:
    if value is None:
        return len(names) or None
    if isinstance(value, bool) or value not in range(len(CAPABILITIES) + 1):
        raise EvaluationError(
            f"row {id} of {dataset_name} has k {value!r}; a number from 0 to {len(CAPABILITIES)} is needed"
        )
    return int(value)
