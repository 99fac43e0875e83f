"""Read the questions of a dataset: one of ours, or any other of one question a row.

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
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.evaluation.questions import DataOptions, QuestionSet
from compact_hf.evaluation.rows import DatasetRows, parse_answers, read_rows
from compact_hf.evaluation.tasks.compact.records import CompactQuestion

_COMPOSITIONAL_CONFIG: Final = "compositional"
_FIELDS: Final = ("question", "answer", "image", "k", "capabilities", "id")
_DEFAULT_COLUMNS: Final = {
    "question": ("question",),
    "answer": ("answer", "answers"),
    "image": ("image", "images"),
    "k": ("k",),
    "capabilities": ("capabilities",),
    "id": ("id", "question_id"),
}


def read_dataset(dataset: str, options: DataOptions) -> QuestionSet:
    """Read a dataset's questions.

    Raises:
        UsageError: `options` map a field that there is not.
        EvaluationError: there is no such dataset or split, it lacks columns, or it has no questions.
        UnknownCapabilityError: a capability is not one of the ten.
    """
    columns = options.columns or {}
    if unknown := [name for name in columns if name not in _FIELDS]:
        raise UsageError(
            f"got the column {unknown[0]!r}; {', '.join(_FIELDS)} can be mapped{did_you_mean(unknown[0], _FIELDS)}"
        )
    data = read_rows(dataset, options, preferred_config=_COMPOSITIONAL_CONFIG)
    skip_counts: Counter[str] = Counter()
    if "turns" in data.rows.column_names and not columns:
        return data.collect(_iter_release_questions(data, skip_counts), skip_counts)
    mapping = _map_columns(data.rows, columns, data.name)
    return data.collect(_iter_flat_questions(data, mapping, skip_counts), skip_counts)


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


def _iter_release_questions(data: DatasetRows, skip_counts: Counter[str]) -> Iterator[CompactQuestion]:
    columns = [name for name in ("id", "image_id", "k", "turns") if name in data.rows.column_names]
    for index, row in enumerate(data.rows.select_columns(columns)):
        if reason := data.images.missing_reason(index):
            skip_counts[reason] += 1
            continue
        id = str(row.get("id") or index)
        for number, turn in enumerate(row["turns"]):
            names = canonicalize(turn["capabilities"])
            yield CompactQuestion(
                id=f"{id}#{number}",
                image_id=row.get("image_id") or id,
                question=turn["question"],
                answers=(turn["answer"],),
                k=_parse_k(row.get("k"), names, id, data.name),
                capabilities=names,
                read_image=partial(data.images.read, index),
            )


def _iter_flat_questions(
    data: DatasetRows, columns: Mapping[str, str], skip_counts: Counter[str]
) -> Iterator[CompactQuestion]:
    seen: Counter[str] = Counter()
    for index, row in enumerate(data.rows.select_columns(list(dict.fromkeys(columns.values())))):
        values = {name: row[column] for name, column in columns.items()}
        id = str(index if values.get("id") is None else values["id"])
        seen[id] += 1
        if seen[id] > 1:
            raise EvaluationError(
                f"{data.name} has two rows of the id {id!r}; map id to a column that differs, or to none"
            )
        answers = parse_answers(values["answer"])
        reason = (
            data.images.missing_reason(index)
            or ("" if answers else "no answer")
            or ("" if values["question"] else "no question")
        )
        if reason:
            skip_counts[reason] += 1
            continue
        names = _parse_capabilities(values.get("capabilities"), id, data.name)
        yield CompactQuestion(
            id=id,
            image_id=data.images.image_id(index),
            question=str(values["question"]),
            answers=answers,
            k=_parse_k(values.get("k"), names, id, data.name),
            capabilities=names,
            read_image=partial(data.images.read, index),
        )


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
