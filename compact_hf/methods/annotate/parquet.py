"""Annotations as a file that people load: RUN/annotations.parquet, one row a question, without pictures.

    load_dataset("parquet", data_files="RUN/annotations.parquet")

Parquet and not JSON lines, because a column keeps its type there whatever the first rows hold: the capabilities of a
question that needs none are an empty list of strings, not a list of nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import JournalError
from compact_hf.methods.annotate.annotation import Annotation
from compact_hf.methods.annotate.summary import annotations_of

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
