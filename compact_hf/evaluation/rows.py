"""Read the rows of a dataset that a task asks about: a dataset on the Hub, a directory, or a file, and its images.

    org/name, org/name@v1.0.0            a dataset on the Hub, at a revision or as it is now
    a directory; a .parquet, .jsonl, .json or .csv file

Images are read only when a question is asked about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.questions import DataOptions, Question, QuestionSet
from compact_hf.images.codec import ImageError
from compact_hf.images.reasons import ImageReason
from compact_hf.models.loading import without_progress_bars

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
            raise ImageError(ImageReason.UNREADABLE, f"{path}: {error.strerror}") from error

    def _cell(self, index: int) -> Any:
        """Return the image as Arrow holds it: a struct of bytes and path, or a text."""
        import pyarrow as pa

        cell = self._table.data.column(self._column)[index]
        return cell.values[0] if isinstance(cell, pa.ListScalar) else cell

    def _resolve_path(self, path: Any) -> Path:
        from datasets import config

        if not isinstance(path, str) or not path:
            raise ImageError(ImageReason.NO_IMAGE, f"{type(path).__name__} {str(path)[:80]!r}")
        roots = [root for root in (self._root, Path(config.HF_DATASETS_CACHE).resolve()) if root]
        resolved = ((self._root or Path()) / path).resolve()
        # Somebody else's table may name any file of this machine.
        if not any(resolved.is_relative_to(root) for root in roots):
            raise ImageError(ImageReason.UNREADABLE, f"{path} does not lie beside the data set")
        return resolved


def _find_image_column(rows: Any) -> str | None:
    from datasets import Image, List

    typed_columns = [
        name
        for name, feature in rows.features.items()
        if isinstance(feature.feature if isinstance(feature, List) else feature, Image)
    ]
    return next((name for name in (*_IMAGE_COLUMNS, *typed_columns) if name in rows.column_names), None)


_DEFAULT_SPLITS: Final = ("validation", "test")
_FILE_BUILDERS: Final = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True, slots=True)
class DatasetRows:
    """The rows of one split of a dataset.

    Attributes:
        name (`str`): what they are called: the dataset, its config and its split.
        rows (`datasets.Dataset`): in their order.
        images (`ImageColumn`): of the same rows.
    """

    name: str
    rows: Any
    images: ImageColumn

    def collect(self, questions: Iterable[Question], skip_counts: Mapping[str, int]) -> QuestionSet:
        """Return the rows' questions; `skip_counts` is read once they have been made.

        Args:
            questions (`Iterable[Question]`): in the order of the rows.
            skip_counts (`Mapping[str, int]`): reason -> rows that cannot be asked.

        Raises:
            EvaluationError: there are no questions.
        """
        collected = tuple(questions)
        if not collected:
            reasons = ", ".join(f"{reason} in {count}" for reason, count in skip_counts.items())
            raise EvaluationError(
                f"{self.name} has no question that can be asked ({reasons or 'it is empty'}); give another"
            )
        return QuestionSet(self.name, collected, dict(sorted(skip_counts.items())))


def read_rows(dataset: str, options: DataOptions, *, preferred_config: str = "default") -> DatasetRows:
    """Load one split of a dataset.

    Args:
        dataset (`str`): as in the module.
        options (`DataOptions`): its config, its split (by default `validation` or else `test`), and with the column
            `image` the one of the images (by default `image`, `images`, or else the first of images).
        preferred_config (`str`, *optional*): which config is read if none is given, where the dataset has it.

    Raises:
        EvaluationError: there is no such dataset, config, split or column.
    """
    source = _resolve_source(dataset)
    config = options.config or _default_config(source, preferred_config)
    split = options.split or _default_split(source, config)
    rows = _load_rows(source, config, split)
    name = f"{source.name} ({', '.join(part for part in (config, split) if part)})"
    images = ImageColumn(rows, (options.columns or {}).get("image"), root=source.root, dataset_name=name)
    return DatasetRows(name, rows, images)


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


def _default_config(source: _DatasetSource, preferred: str) -> str | None:
    from datasets import get_dataset_config_names, get_dataset_default_config_name

    if "data_files" in source.load_kwargs:
        return None
    with _translate_dataset_errors(source):
        names = get_dataset_config_names(source.path, **source.load_kwargs)
        if preferred in names:
            return preferred
        default = get_dataset_default_config_name(source.path, **source.load_kwargs)
    if default is None:
        raise EvaluationError(f"{source.name} has the configs {', '.join(names)}; choose one with --config")
    return str(default)


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
