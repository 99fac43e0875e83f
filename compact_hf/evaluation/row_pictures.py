"""The pictures of a data set's rows: which rows have one, and each one's file as it lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.images.codec import PictureError

_USUAL: Final = ("image", "images")


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
    return next((name for name in (*_USUAL, *of_pictures) if name in rows.column_names), None)
