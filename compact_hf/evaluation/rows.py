"""Reads the rows and images of an evaluation dataset.

    [hf://datasets/]org/name[@v1.0.0]    a dataset on the Hub, at a revision or the current one
    a directory; a .parquet, .jsonl, .json or .csv file

Images stay encoded, and are read only when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import EvaluationError, UsageError
from compact_hf.evaluation.questions import DataOptions, Question, QuestionSet
from compact_hf.hub.cache import CachedDataset, find_cached_dataset
from compact_hf.hub.errors import describe_wrong_name
from compact_hf.images.address import HUB_PREFIX, is_url
from compact_hf.images.codec import ImageError
from compact_hf.images.folder import MAX_BYTES
from compact_hf.images.reasons import ImageReason, RowReason
from compact_hf.models.loading import without_progress_bars
from compact_hf.records import Loss
from compact_hf.regular_files import check_regular_files, read_regular, resolve

_IMAGE_COLUMNS: Final = ("image", "images")


class ImageColumn:
    """The image column of a dataset.

    Args:
        rows (`datasets.Dataset`): all rows of the dataset, in order.
        column (`str | None`): name of the column; by default `image` or `images`, otherwise the first column of images.
        root (`Path | None`): directory that relative paths in a local dataset start from; None for a dataset on the
            Hub.
        dataset_name (`str`): display name of the dataset.

    Raises:
        EvaluationError: the column was not found.
    """

    def __init__(self, rows: Any, column: str | None, *, root: Path | None, dataset_name: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column or _find_image_column(rows)
        if column is None or column not in rows.column_names:
            raise EvaluationError(
                f"{dataset_name} has no image column (it has {', '.join(rows.column_names)}); "
                "name the column to use: --columns image=COLUMN"
            )
        self._root = root
        # In Arrow format an image is the bytes of its file; in the default format it would be decoded.
        self._table = rows.select_columns([column]).with_format("arrow")
        self._column = column
        arrow_column = self._table.data.column(column)
        # Number of images per row, from the null mask or the lengths of lists: no image is read for it.
        is_list = pa.types.is_list(arrow_column.type) or pa.types.is_large_list(arrow_column.type)
        counts = pc.list_value_length(arrow_column) if is_list else pc.is_valid(arrow_column).cast(pa.int32())
        self._counts = pc.fill_null(counts, 0).to_pylist()

    def missing_reason(self, index: int) -> str:
        """Return the reason why a row must be skipped because of its images; empty if it has exactly one image."""
        count = self._counts[index]
        # The values of RowReason.SEVERAL_IMAGES and NO_IMAGE, which are counted together with these.
        return "" if count == 1 else "several pictures" if count else "no picture"

    def image_id(self, index: int) -> str:
        """Return an id for the row's image, which is the same for all rows that name the same file."""
        import pyarrow as pa

        cell = self._cell(index)
        # The path of an image embedded in Parquet is ignored: it is often the same in all rows.
        path = (None if cell["bytes"].is_valid else cell["path"]) if isinstance(cell, pa.StructScalar) else cell
        return str(path) if path else f"row {index}"

    def read(self, index: int) -> bytes:
        """Return the encoded image of a row.

        Raises:
            ImageError: the row has no image, or its file must not or cannot be read.
        """
        cell = self._cell(index).as_py()
        # A struct can contain the bytes, the path or both; a column of strings contains paths.
        data: bytes | None = cell["bytes"] if isinstance(cell, dict) else None
        if data is not None:
            return data
        path = cell["path"] if isinstance(cell, dict) else cell
        try:
            return read_regular(self._resolve_path(path), max_bytes=MAX_BYTES)
        except OSError as error:
            raise ImageError(ImageReason.UNREADABLE, f"{path}: {error.strerror}") from error

    def _cell(self, index: int) -> Any:
        """Return the Arrow value of the image: a struct of bytes and path, or a string with a path."""
        import pyarrow as pa

        cell = self._table.data.column(self._column)[index]
        return cell.values[0] if isinstance(cell, pa.ListScalar) else cell

    def _resolve_path(self, path: Any) -> Path:
        """Return the file that a path in the dataset refers to, if it may be read."""
        from datasets import config

        if path is None:
            raise ImageError(RowReason.NO_IMAGE, "null, with neither bytes nor a path")
        if not isinstance(path, str) or not path:
            raise ImageError(ImageReason.NO_IMAGE, f"{type(path).__name__} {str(path)[:80]!r}")
        # Files that `datasets` has downloaded or extracted are in its cache.
        roots = [root for root in (self._root, Path(config.HF_DATASETS_CACHE).resolve()) if root]
        resolved = resolve((self._root or Path()) / path)
        # A dataset from someone else could name any file on this machine.
        if not any(resolved.is_relative_to(root) for root in roots):
            raise ImageError(ImageReason.UNREADABLE, f"{path} is outside the directory of the dataset")
        return resolved


def _find_image_column(rows: Any) -> str | None:
    """Return the column `image` or `images`, otherwise the first column of type Image; None if there is none."""
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
        name (`str`): display name: the dataset with its config and split.
        rows (`datasets.Dataset`): the rows, in order.
        images (`ImageColumn`): the images of these rows.
    """

    name: str
    rows: Any
    images: ImageColumn

    def collect(self, questions: Iterable[Question], losses: Mapping[str, Loss]) -> QuestionSet:
        """Return the questions as a `QuestionSet`.

        Args:
            questions (`Iterable[Question]`): the questions, in the order of the rows.
            losses (`Mapping[str, Loss]`): reason -> the rows and questions that were skipped. It is read after
                `questions` is exhausted, so that their iterator can fill it.

        Raises:
            EvaluationError: there are no questions.
        """
        collected = tuple(questions)
        if not collected:
            reasons = ", ".join(f"{reason}: {loss}" for reason, loss in losses.items())
            raise EvaluationError(
                f"{self.name} has no question that can be asked ({reasons or 'it is empty'}); give another dataset"
            )
        return QuestionSet(self.name, collected, dict(sorted(losses.items())))


def read_rows(dataset: str, options: DataOptions, *, preferred_config: str = "default") -> DatasetRows:
    """Load one split of a dataset.

    Args:
        dataset (`str`): a Hub repository, a directory or a file; see the module docstring.
        options (`DataOptions`): config; split (by default `validation`, otherwise `test`); and in `columns` the name of
            the image column under `image` (by default `image` or `images`, otherwise the first column of images).
        preferred_config (`str`, *optional*, defaults to `"default"`): config to read if none is given and the dataset
            has it.

    Raises:
        UsageError: the dataset, config or split does not exist.
        EvaluationError: the dataset cannot be downloaded or read, or the column was not found.
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
    """Arguments of `load_dataset`, a display name, the directory of a local dataset, and offline what is cached."""

    path: str
    name: str
    load_kwargs: dict[str, Any]
    root: Path | None
    cached: CachedDataset | None = None


def _resolve_source(dataset: str) -> _DatasetSource:
    """Return how to load a dataset: as a file, a directory or a repository."""
    from huggingface_hub import constants

    path = Path(dataset)
    if path.is_file():
        builder = _FILE_BUILDERS.get(path.suffix.lower())
        if builder is None:
            raise UsageError(f"{dataset} is not a dataset; supported files are {', '.join(_FILE_BUILDERS)}")
        return _DatasetSource(builder, path.name, {"data_files": str(path)}, path.parent.resolve())
    if path.is_dir():
        return _DatasetSource(dataset, path.resolve().name, {}, path.resolve())
    if path.is_absolute() or (is_url(dataset) and not dataset.startswith(HUB_PREFIX)):
        raise UsageError(
            f"{dataset!r} is neither a file, a directory nor the name of a dataset: write org/name or org/name@revision"
        )
    # Not a RepoRef, because names without an owner exist, such as `squad`.
    name, _, revision = dataset.removeprefix(HUB_PREFIX).partition("@")
    source = _DatasetSource(name, dataset, {"revision": revision} if revision else {}, None)
    if not constants.is_offline_mode():
        return source
    # Offline, `load_dataset` knows neither configs nor revisions.
    with _translate_dataset_errors(source):
        return replace(source, cached=find_cached_dataset(name, revision or None))


def _default_config(source: _DatasetSource, preferred: str) -> str | None:
    """Return the preferred config if the dataset has it, otherwise its default config; None for a single file."""
    from datasets import get_dataset_config_names, get_dataset_default_config_name

    if "data_files" in source.load_kwargs:
        return None
    with _translate_dataset_errors(source):
        if source.root is not None:
            check_regular_files(source.root)
        # `datasets` names the config of a dataset that declares none `default`.
        names = (
            list(source.cached.config_names)
            if source.cached
            else get_dataset_config_names(source.path, **source.load_kwargs)
        )
        if preferred in names:
            return preferred
        default = (
            source.cached.default_config
            if source.cached
            else get_dataset_default_config_name(source.path, **source.load_kwargs)
        )
    if default is None:
        raise UsageError(f"{source.name} has the configs {', '.join(names)}; choose one with --config")
    return str(default)


def _default_split(source: _DatasetSource, config: str | None) -> str:
    """Return `validation` or `test`, whichever exists first; for a single file its only split."""
    from datasets import get_dataset_split_names

    with _translate_dataset_errors(source):
        names: list[str] = list(
            source.cached.load(config)
            if source.cached
            else get_dataset_split_names(source.path, config, **source.load_kwargs)
        )
    # `datasets` gives a single file its only split, whatever its contents.
    for name in (*_DEFAULT_SPLITS, *(names if "data_files" in source.load_kwargs else ())):
        if name in names:
            return str(name)
    raise UsageError(
        f"{source.name} has no split {' or '.join(_DEFAULT_SPLITS)} (it has {', '.join(names)}); choose one "
        "with --split"
    )


def _load_rows(source: _DatasetSource, config: str | None, split: str) -> Any:
    from datasets import load_dataset

    with _translate_dataset_errors(source):
        if not source.cached:
            return load_dataset(source.path, config, split=split, **source.load_kwargs)
        splits = source.cached.load(config)
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}')  # as `datasets` says it
        return splits[split]


@contextmanager
def _translate_dataset_errors(source: _DatasetSource) -> Iterator[None]:
    """Convert errors of `datasets` to an EvaluationError of one line."""
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with without_progress_bars():
            yield
    # The message of DatasetGenerationError is always the same; its cause says what is wrong with the file.
    except OfflineModeIsEnabled as error:
        raise EvaluationError(
            f"{source.name} is not a local dataset, and cannot be read from the Hub's cache ({error}): "
            "check the name, or unset HF_HUB_OFFLINE once to download it"
        ) from error
    except (OSError, ValueError, RecursionError, DatasetGenerationError) as error:
        message = " ".join(str(error.__cause__ or error).split())
        reason = describe_wrong_name(error, config_option="--config", split_option="--split")
        if reason is not None:
            raise UsageError(f"{source.name} {reason}") from error
        raise EvaluationError(f"{source.name} cannot be read as a dataset: {message}") from error
