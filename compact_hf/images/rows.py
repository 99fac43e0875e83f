"""The rows of one split of a data set: what a source of pictures asks of them, and those that `datasets` has loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

BATCH: Final = 64
"""Rows that are handed out at a time."""


class Rows(Protocol):
    """Rows by their number from 0, values as Arrow holds them: a picture is `{bytes, path}`, never decoded."""

    def __len__(self) -> int: ...

    def cell(self, number: int, column: str) -> Any:
        """Return one value as a Python object; SourceError where the rows cannot be read any more."""
        ...

    def lengths(self, column: str) -> Iterator[int]:
        """Yield how many values each row's list has, 0 for none, in the order of the rows."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield all rows in their order as `pyarrow.Table` of at most `BATCH` rows."""
        ...

    def block(self, number: int) -> int | None:
        """Return which of the pieces in which rows are fetched this one lies in; None where all of them are here."""
        ...


class LoadedRows:
    """Rows in memory-mapped files.

    Args:
        rows (`datasets.Dataset`): as loaded.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def cell(self, number: int, column: str) -> Any:
        """See `Rows.cell`."""
        return self._rows[number][column][0].as_py()

    def lengths(self, column: str) -> Iterator[int]:
        """See `Rows.lengths`."""
        import pyarrow.compute as pc

        for batch in self._rows.select_columns([column]).iter(1000):
            yield from (length or 0 for length in pc.list_value_length(batch[column]).to_pylist())

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Rows.batches`."""
        yield from self._rows.select_columns(list(columns)).iter(BATCH)

    def block(self, number: int) -> None:  # noqa: ARG002 (the protocol names it)
        """Return None: every row is here."""
        return
