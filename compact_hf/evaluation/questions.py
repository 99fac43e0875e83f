"""Questions in the rows of a data set of `datasets`: a name and which column is what in, questions out.

A row is one of a release (`turns`: a picture's questions, each asked alone), or one question (`question`, and `answer`
or `answers`). Where columns have other names, they are mapped: `--columns question=query,answer=label`.

    question       a text
    answer         a text, a number, or several of them, any of which counts: a list, or VQA's [{answer: ...}, ...]
    image          a picture, a list of one picture, or in a file of one's own a path beside it
    k              0 to 10; by default the number of capabilities, where those are given
    capabilities   a list of names of the ten
    id             by default the number of the row
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.evaluation.question import Question
from compact_hf.evaluation.row_pictures import RowPictures
from compact_hf.models.loading import without_progress_bars

COMPOSITIONAL: Final = "compositional"
FIELDS: Final = ("question", "answer", "image", "k", "capabilities", "id")
_USUAL: Final = {
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
    found = {name: next((one for one in usual if one in there), "") for name, usual in _USUAL.items()} | dict(columns)
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
