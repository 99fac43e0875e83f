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

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.images.codec import PictureError
from compact_hf.models.loading import without_progress_bars


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is asked, alone, whatever conversation it stood in.

    Attributes:
        id (`str`): unique in its data set.
        picture (`str`): which picture it was written about; questions about one picture share it.
        question (`str`): without the request for a short answer.
        answers (`tuple[str, ...]`): the right ones, at least one; any of them counts, the first is the one shown.
        k (`int | None`): how many capabilities it needs; None where the data set does not say.
        capabilities (`tuple[str, ...]`): which.
        read_picture (`Callable[[], bytes]`): gives the encoded picture when its turn has come.
    """

    id: str
    picture: str
    question: str
    answers: tuple[str, ...]
    k: int | None
    capabilities: tuple[str, ...]
    read_picture: Callable[[], bytes] = field(compare=False, repr=False)


_IMAGE_COLUMNS: Final = ("image", "images")


class RowPictures:
    """One column of pictures.

    Args:
        rows (`datasets.Dataset`): all rows of the data set, in their order.
        column (`str | None`): which; by default `image` or `images`, or else the first of pictures.
        root (`Path | None`): where the paths of a data set of one's own start; None for one from the Hub.
        where (`str`): what the data set is called.

    Raises:
        EvaluationError: there is no such column.
    """

    def __init__(self, rows: Any, column: str | None, *, root: Path | None, where: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column or _picture_column(rows)
        if column is None or column not in rows.column_names:
            raise EvaluationError(
                f"{where} has no column of pictures (it has {', '.join(rows.column_names)}); "
                "say which one it is: --columns image=COLUMN"
            )
        self._root = root
        # As Arrow a picture is the bytes of its file; as a row it would be decoded.
        self._cells = rows.select_columns([column]).with_format("arrow")
        self._column = column
        held = self._cells.data.column(column)
        # The null mask and the lists' lengths: no picture is read for them.
        is_list = pa.types.is_list(held.type) or pa.types.is_large_list(held.type)
        counts = pc.list_value_length(held) if is_list else pc.is_valid(held).cast(pa.int32())
        self._counts = pc.fill_null(counts, 0).to_pylist()

    def lacking(self, index: int) -> str:
        """Return why a row's picture cannot be asked about, or nothing."""
        count = self._counts[index]
        return "" if count == 1 else "several pictures" if count else "no picture"

    def name(self, index: int) -> str:
        """Return what the row's picture is called: rows that name the same file share it."""
        import pyarrow as pa

        held = self._held(index)
        # Names inside of Parquet files are often all the same.
        path = (None if held["bytes"].is_valid else held["path"]) if isinstance(held, pa.StructScalar) else held
        return str(path) if path else f"row {index}"

    def read(self, index: int) -> bytes:
        """Return the file of a row's picture.

        Raises:
            PictureError: there is none that may be read.
        """
        held = self._held(index).as_py()
        data: bytes | None = held["bytes"] if isinstance(held, dict) else None
        if data:
            return data
        path = held["path"] if isinstance(held, dict) else held
        try:
            return self._path(path).read_bytes()
        except OSError as error:
            raise PictureError("unreadable file", f"{path}: {error.strerror}") from error

    def _held(self, index: int) -> Any:
        """Return the picture as Arrow holds it: a struct of bytes and path, or a text."""
        import pyarrow as pa

        cell = self._cells.data.column(self._column)[index]
        return cell.values[0] if isinstance(cell, pa.ListScalar) else cell

    def _path(self, path: Any) -> Path:
        from datasets import config

        if not isinstance(path, str) or not path:
            raise PictureError("not a picture", f"{type(path).__name__} {str(path)[:80]!r}")
        roots = [root for root in (self._root, Path(config.HF_DATASETS_CACHE).resolve()) if root]
        found = ((self._root or Path()) / path).resolve()
        # Somebody else's table may name any file of this machine.
        if not any(found.is_relative_to(root) for root in roots):
            raise PictureError("unreadable file", f"{path} does not lie beside the data set")
        return found


def _picture_column(rows: Any) -> str | None:
    from datasets import Image, List

    of_pictures = [
        name
        for name, kind in rows.features.items()
        if isinstance(kind.feature if isinstance(kind, List) else kind, Image)
    ]
    return next((name for name in (*_IMAGE_COLUMNS, *of_pictures) if name in rows.column_names), None)


COMPOSITIONAL: Final = "compositional"
FIELDS: Final = ("question", "answer", "image", "k", "capabilities", "id")
_COLUMNS: Final = {
    "question": ("question",),
    "answer": ("answer", "answers"),
    "image": ("image", "images"),
    "k": ("k",),
    "capabilities": ("capabilities",),
    "id": ("id", "question_id"),
}
_SPLITS: Final = ("validation", "test")
_FILES: Final = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True, slots=True)
class AskedRows:
    """What a data set asks.

    Attributes:
        name (`str`): what it is called: its name, its config and its split.
        questions (`list[Question]`): in the order of the rows.
        left_out (`dict[str, int]`): reason -> rows that cannot be asked.
    """

    name: str
    questions: list[Question]
    left_out: dict[str, int]


def of_rows(dataset: str, *, config: str | None, split: str | None, columns: Mapping[str, str] | None) -> AskedRows:
    """Read a data set; see `dataset.questions_of` for the arguments and for what is raised."""
    if unknown := [name for name in columns or () if name not in FIELDS]:
        raise UsageError(
            f"got the column {unknown[0]!r}; {', '.join(FIELDS)} can be mapped{did_you_mean(unknown[0], FIELDS)}"
        )
    source = _source_of(dataset)
    config = config or _default_config(source)
    split = split or _default_split(source, config)
    rows = _loaded(source, config, split)
    where = f"{source.name} ({', '.join(name for name in (config, split) if name)})"
    pictures = RowPictures(rows, (columns or {}).get("image"), root=source.root, where=where)
    left_out: Counter[str] = Counter()
    if "turns" in rows.column_names and not columns:
        questions = list(_of_release(rows, pictures, left_out, where))
    else:
        questions = list(_of_flat(rows, _mapped(rows, columns or {}, where), pictures, left_out, where))
    if not questions:
        told = ", ".join(f"{reason} in {count}" for reason, count in left_out.items())
        raise EvaluationError(f"{where} has no question that can be asked ({told or 'it is empty'}); give another")
    return AskedRows(where, questions, dict(sorted(left_out.items())))


@dataclass(frozen=True, slots=True)
class _Source:
    """What `load_dataset` takes, what to call it, and the folder where a data set of one's own lies."""

    path: str
    name: str
    arguments: dict[str, Any]
    root: Path | None


def _source_of(dataset: str) -> _Source:
    here = Path(dataset)
    if here.is_file():
        if here.suffix not in _FILES:
            raise EvaluationError(f"{dataset} is no data set; of files {', '.join(_FILES)} are read")
        return _Source(_FILES[here.suffix], here.name, {"data_files": str(here)}, here.parent.resolve())
    if here.is_dir():
        return _Source(dataset, here.resolve().name, {}, here.resolve())
    name, _, revision = dataset.partition("@")
    return _Source(name, dataset, {"revision": revision} if revision else {}, None)


def _default_config(source: _Source) -> str | None:
    from datasets import get_dataset_config_names

    if "data_files" in source.arguments:
        return None
    with _readable(source):
        names = get_dataset_config_names(source.path, **source.arguments)
    if COMPOSITIONAL in names:
        return COMPOSITIONAL
    if len(names) > 1 and "default" not in names:
        raise EvaluationError(f"{source.name} has the configs {', '.join(names)}; choose one with --config")
    return names[0] if len(names) == 1 else "default"


def _default_split(source: _Source, config: str | None) -> str:
    from datasets import get_dataset_split_names

    with _readable(source):
        names: list[str] = list(get_dataset_split_names(source.path, config, **source.arguments))
    # What lies in one file has no other name.
    for name in (*_SPLITS, *(names if "data_files" in source.arguments else ())):
        if name in names:
            return str(name)
    raise EvaluationError(
        f"{source.name} has no split {' or '.join(_SPLITS)} (it has {', '.join(names)}); choose one with --split"
    )


def _loaded(source: _Source, config: str | None, split: str) -> Any:
    from datasets import load_dataset

    with _readable(source):
        return load_dataset(source.path, config, split=split, **source.arguments)


@contextmanager
def _readable(source: _Source) -> Iterator[None]:
    """Tell in one line what keeps `datasets` from reading."""
    from datasets.exceptions import DatasetGenerationError

    try:
        with without_progress_bars():
            yield
    except (OSError, ValueError, DatasetGenerationError) as error:
        told = " ".join(str(error.__cause__ or error).split())
        raise EvaluationError(f"{source.name} cannot be read as a data set: {told}") from error


def _mapped(rows: Any, columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Return what is what -> its column, as mapped or by its usual name; a question and an answer there must be."""
    there = rows.column_names
    for name, column in columns.items():
        if column not in there:
            raise EvaluationError(
                f"{where} has no column {column!r} for {name} (it has {', '.join(there)}){did_you_mean(column, there)}"
            )
    found = {name: next((one for one in usual if one in there), "") for name, usual in _COLUMNS.items()} | dict(columns)
    if missing := [name for name in ("question", "answer") if not found[name]]:
        raise EvaluationError(
            f"{where} has no column {missing[0]!r} (it has {', '.join(there)}); say which one it is: "
            f"--columns {','.join(f'{name}=COLUMN' for name in missing)}"
        )
    return {name: column for name, column in found.items() if column and name != "image"}


def _of_release(rows: Any, pictures: RowPictures, left_out: Counter[str], where: str) -> Iterator[Question]:
    wanted = [name for name in ("id", "image_id", "k", "turns") if name in rows.column_names]
    for index, row in enumerate(rows.select_columns(wanted)):
        if reason := pictures.lacking(index):
            left_out[reason] += 1
            continue
        id = str(row.get("id") or index)
        for number, turn in enumerate(row["turns"]):
            names = canonical(turn["capabilities"])
            yield Question(
                id=f"{id}#{number}",
                picture=row.get("image_id") or id,
                question=turn["question"],
                answers=(turn["answer"],),
                k=_k(row.get("k"), names, id, where),
                capabilities=names,
                read_picture=partial(pictures.read, index),
            )


def _of_flat(
    rows: Any, columns: Mapping[str, str], pictures: RowPictures, left_out: Counter[str], where: str
) -> Iterator[Question]:
    seen: Counter[str] = Counter()
    for index, row in enumerate(rows.select_columns(list(dict.fromkeys(columns.values())))):
        held = {name: row[column] for name, column in columns.items()}
        id = str(index if held.get("id") is None else held["id"])
        seen[id] += 1
        if seen[id] > 1:
            raise EvaluationError(f"{where} has two rows of the id {id!r}; map id to a column that differs, or to none")
        answers = _answers(held["answer"])
        reason = (
            pictures.lacking(index) or ("" if answers else "no answer") or ("" if held["question"] else "no question")
        )
        if reason:
            left_out[reason] += 1
            continue
        names = _capabilities(held.get("capabilities"), id, where)
        yield Question(
            id=id,
            picture=pictures.name(index),
            question=str(held["question"]),
            answers=answers,
            k=_k(held.get("k"), names, id, where),
            capabilities=names,
            read_picture=partial(pictures.read, index),
        )


def _answers(value: Any) -> tuple[str, ...]:
    """Return the different right answers, none where there is no answer; those most people gave come first."""
    given = value if isinstance(value, list) else [value]
    texts = (one.get("answer") if isinstance(one, Mapping) else one for one in given)
    counts = Counter(str(text) for text in texts if text is not None and str(text).strip())
    return tuple(text for text, _ in counts.most_common())


def _capabilities(value: Any, id: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise EvaluationError(
            f"row {id} of {where} has capabilities {value!r}; a list of names is needed, of {', '.join(CAPABILITIES)}"
        )
    return canonical(value)


def _k(value: Any, names: tuple[str, ...], id: str, where: str) -> int | None:
    if value is None:
        return len(names) or None
    if isinstance(value, bool) or value not in range(len(CAPABILITIES) + 1):
        raise EvaluationError(f"row {id} of {where} has k {value!r}; a number from 0 to {len(CAPABILITIES)} is needed")
    return int(value)
