"""Reads the questions of a dataset: one made by compact_hf, or any other with questions about one image per row.

A row has one of the formats that images/question_rows.py reads: the `turns` of our datasets, a conversation, or a
single question (`question`, and `answer` or `answers`). Each question is asked alone. If the columns of the last format
have other names, map them: `--columns question=query,answer=label`.

    question       a string
    answer         a string, a number, or several of them, any of which is right: a list, or VQA's [{answer: ...}, ...]
    image          an image, a list with one image, or in a local file a path relative to that file
    k              0 to 10; by default the number of capabilities, if they are given
    capabilities   a list of capability names
    id             by default the index of the row
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from compact_hf.capabilities import CAPABILITIES, canonicalize
from compact_hf.errors import EvaluationError, UsageError, did_you_mean
from compact_hf.evaluation.questions import DataOptions, QuestionSet
from compact_hf.evaluation.rows import DatasetRows, read_rows
from compact_hf.evaluation.tasks.compact.records import CompactQuestion
from compact_hf.images.conversations import Defect
from compact_hf.images.question_rows import (
    ANSWER_COLUMNS,
    RowFormat,
    detect_labelled_format,
    question_columns,
    read_exchanges,
)
from compact_hf.records import Loss

_COMPOSITIONAL_CONFIG: Final = "compositional"
_FIELDS: Final = ("question", "answer", "image", "k", "capabilities", "id")
_ID_COLUMNS: Final = ("id", "question_id")


def read_dataset(dataset: str, options: DataOptions) -> QuestionSet:
    """Return the questions of a dataset.

    Args:
        dataset (`str`): a Hub repository, a directory or a file.
        options (`DataOptions`): config, split and column mapping.

    Raises:
        UsageError: `options` maps an unknown field, or the dataset, config or split does not exist.
        EvaluationError: the dataset cannot be read, columns are missing, or there are no questions.
        UnknownCapabilityError: a capability is not one of the ten.
    """
    columns = options.columns or {}
    if unknown := [name for name in columns if name not in _FIELDS]:
        raise UsageError(
            f"unknown field {unknown[0]!r}; {', '.join(_FIELDS)} can be mapped{did_you_mean(unknown[0], _FIELDS)}"
        )
    data = read_rows(dataset, options, preferred_config=_COMPOSITIONAL_CONFIG)
    losses: dict[str, Loss] = {}
    row_format, mapping = _map_columns(data.rows.column_names, columns, data.name)
    return data.collect(_iter_questions(data, row_format, mapping, losses), losses)


def _map_columns(
    column_names: Sequence[str], columns: Mapping[str, str], dataset_name: str
) -> tuple[RowFormat, dict[str, str]]:
    """Return the format of the rows and field -> column, for mapped fields and for the id column."""
    for name, column in columns.items():
        if column not in column_names:
            raise EvaluationError(
                f"{dataset_name} has no column {column!r} for {name} (it has "
                f"{', '.join(column_names)}){did_you_mean(column, column_names)}"
            )
    id_column = next((name for name in _ID_COLUMNS if name in column_names), None)
    # Columns that the user named replace the default id column.
    mapping = ({"id": id_column} if id_column else {}) | dict(columns)
    # Mapping one of these means that a row is a single question, even if it also has conversations.
    mapped = {"question", "answer"} & columns.keys()
    row_format = "question" if mapped else detect_labelled_format(column_names) or "question"
    # A mapped field has a column of another name, which was checked above.
    known = {*column_names, *mapped}
    missing = [
        name
        for name, candidates in (("question", {"question"}), ("answer", {*ANSWER_COLUMNS}))
        if row_format == "question" and not known & candidates
    ]
    if missing:
        raise EvaluationError(
            f"{dataset_name} has no column {missing[0]!r} (it has {', '.join(column_names)}); name the column to use: "
            f"--columns {','.join(f'{name}=COLUMN' for name in missing)}"
        )
    return row_format, mapping


def _iter_questions(
    data: DatasetRows, row_format: RowFormat, mapping: Mapping[str, str], losses: dict[str, Loss]
) -> Iterator[CompactQuestion]:
    """Yield the questions row by row, and count in `losses` why rows and questions are skipped."""

    def add_loss(reason: str, loss: Loss) -> None:
        losses[reason] = losses.get(reason, Loss()) + loss

    seen: Counter[str] = Counter()
    for index, row in enumerate(_select_columns(data.rows, row_format, mapping)):
        value = row.get(mapping.get("id", "id"))
        id = str(index if value in (None, "") else value)
        # Models are compared question by question, matched by id, so a repeated id is refused.
        seen[id] += 1
        if seen[id] > 1:
            raise EvaluationError(f"{data.name} has two rows with the id {id!r}; map id to a column with unique values")
        exchanges = read_exchanges(row, row_format, mapping)
        if reason := data.images.missing_reason(index):
            add_loss(reason, Loss(rows=1, questions=0 if isinstance(exchanges, Defect) else len(exchanges)))
            continue
        if isinstance(exchanges, Defect):
            add_loss(exchanges.reason, Loss(rows=1))
            continue
        # Our datasets have an `image_id` column; in other datasets only the file identifies the image.
        image_id = row.get("image_id") or id if row_format == "turns" else data.images.image_id(index)
        for number, exchange in enumerate(exchanges):
            if not (exchange.question and exchange.answers):
                # Only this question is skipped; the others in the row are asked.
                add_loss("no question" if exchange.answers else "no answer", Loss(questions=1))
                continue
            names = _parse_capabilities(exchange.capabilities, id, data.name)
            yield CompactQuestion(
                # `ROW#0`, `ROW#1`, ...; the numbers do not change if a question in between is skipped.
                id=id if row_format == "question" else f"{id}#{number}",
                image_id=image_id,
                question=exchange.question,
                answers=exchange.answers,
                k=_parse_k(exchange.k, names, id, data.name),
                capabilities=names,
                read_image=partial(data.images.read, index),
            )


def _select_columns(rows: Any, row_format: RowFormat, mapping: Mapping[str, str]) -> Any:
    """Return the rows with only the columns that are read; otherwise `datasets` would decode the images."""
    names = [
        *question_columns(row_format, rows.column_names, mapping),
        *(mapping.get(name, name) for name in ("id", "image_id", "k", "capabilities")),
    ]
    return rows.select_columns([name for name in dict.fromkeys(names) if name in rows.column_names])


def _parse_capabilities(value: Any, id: str, dataset_name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise EvaluationError(
            f"row {id} of {dataset_name} has capabilities {value!r}; it must be a list of names from "
            f"{', '.join(CAPABILITIES)}"
        )
    return canonicalize(value)


def _parse_k(value: Any, names: tuple[str, ...], id: str, dataset_name: str) -> int | None:
    if value is None:
        # Without capabilities k is unknown, not 0.
        return len(names) or None
    # True equals 1, but is not a k. A float such as 2.0, from a column with missing values, is in the range.
    if isinstance(value, bool) or value not in range(len(CAPABILITIES) + 1):
        raise EvaluationError(
            f"row {id} of {dataset_name} has k {value!r}; it must be a number from 0 to {len(CAPABILITIES)}"
        )
    return int(value)
