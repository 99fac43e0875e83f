"""Makes sampled questions, and Parquet directories with questions in the format of `compact annotate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compact_hf.evaluation.analysis.counting import SampledQuestion

Question = tuple[str, str, str, list[str]]
"""Image id, question, answer, capabilities."""


def make_question(image_hash: int, question: str, answer: str, *capabilities: str) -> SampledQuestion:
    return SampledQuestion(image_hash, question, answer, capabilities or ("color",))


def write_questions(directory: Path, questions: Sequence[Question], *, name: str = "train-00000-of-00001") -> Path:
    """Write questions to a Parquet file in a directory, three per row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema({"image_id": text, "question": text, "answer": text, "capabilities": pa.list_(text)})
    directory.mkdir(parents=True, exist_ok=True)
    columns = dict(zip(schema.names, map(list, zip(*questions, strict=True)), strict=True)) if questions else {}
    table = pa.table(columns, schema=schema) if questions else schema.empty_table()
    pq.write_table(table, directory / f"{name}.parquet", row_group_size=3)
    return directory
