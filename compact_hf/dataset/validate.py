"""Validates a release in a directory or a repository, and reports every defect.

    compact validate release
    compact validate org/compact@v1.0.0

Files are checked in parallel, each as a stream of row groups. Only the ids of all rows stay in memory, because they
must be unique. The checks of single rows are in row_checks.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.card import (
    header_configs,
    iter_figure_defects,
    iter_text_defects,
    list_foreign_files,
    read_header,
)
from compact_hf.dataset.row_checks import iter_defects
from compact_hf.dataset.schema import (
    COMMON_COLUMNS,
    card_features,
    configs_from_subsets,
    data_path,
    features,
    find_column_sources,
    find_unknown_columns,
    parse_data_path,
    subset_order,
)
from compact_hf.dataset.stats import DatasetStats, RowCounter, SplitSize
from compact_hf.dataset.writer import MAX_GROUP_ROWS
from compact_hf.errors import UsageError
from compact_hf.hub.card import CARD
from compact_hf.hub.download import download_snapshot
from compact_hf.hub.ref import RepoRef
from compact_hf.images.address import HUB_PREFIX
from compact_hf.records import split_image_ids
from compact_hf.regular_files import check_regular, read_regular_text
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.wording import format_count

MAX_PROBLEMS: Final = 10
"""Number of problems per check that a report lists; further ones are only counted."""


SplitKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A defect of a release.

    Attributes:
        check (`str`): name of the check.
        file (`str`): path inside the release.
        row (`str`): id of the row; empty if the defect concerns the whole file or directory.
        detail (`str`): what was found.
    """

    check: str
    file: str
    row: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ValidationReport(NotebookSummary):
    """The result of a validation.

    Attributes:
        problems (`tuple[Problem, ...]`): the first `MAX_PROBLEMS` problems of each check.
        counts (`dict[str, int]`): number of problems by check; empty for a valid release.
        rows (`dict[tuple[str, str], int]`): number of rows by (subset, split).
    """

    problems: tuple[Problem, ...]
    counts: dict[str, int]
    rows: dict[SplitKey, int]

    @property
    def is_valid(self) -> bool:
        return not self.counts

    def summary(self) -> Iterator[str | Table]:
        """Yield a sentence that says whether the release is valid, and a table of the listed problems."""
        rows = sum(self.rows.values())
        problems = sum(self.counts.values())
        yield (
            f"valid: {format_count(rows, 'row')}"
            if self.is_valid
            else f"not valid: {format_count(problems, 'problem')}"
        )
        yield Table(
            ("check", "where", "detail"),
            [(item.check, " ".join(filter(None, (item.file, item.row))), item.detail) for item in self.problems],
        )


@dataclass(slots=True)
class _Findings:
    """Problems found so far, and the data that has to be compared between files."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    rows: Counter[SplitKey] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    image_ids: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "validation": set()})
    row_counter: RowCounter = field(default_factory=RowCounter)

    def add(self, problem: Problem) -> None:
        self.counts[problem.check] += 1
        if self.counts[problem.check] <= MAX_PROBLEMS:
            self.problems.append(problem)

    def merge(self, other: _Findings) -> None:
        """Add the findings in another file; of each check, only the first `MAX_PROBLEMS` problems are kept."""
        # Files are merged in their order, so that the listed problems are the same in every validation.
        running_counts = self.counts.copy()
        self.counts += other.counts
        for problem in other.problems:
            running_counts[problem.check] += 1
            if running_counts[problem.check] <= MAX_PROBLEMS:
                self.problems.append(problem)
        self.rows += other.rows
        self.ids += other.ids
        for split, image_ids in other.image_ids.items():
            self.image_ids[split] |= image_ids
        self.row_counter.merge(other.row_counter)


def validate(path: str | Path) -> ValidationReport:
    """Check a release.

    Args:
        path (`str | Path`): the directory of the release; or, if there is no such directory, `org/name[@revision]` on
            the Hub, with or without the prefix `hf://datasets/`. A repository is downloaded to the Hub's cache.

    Returns:
        A report of all problems.

    Raises:
        UsageError: `path` is neither a directory nor the name of a repository.
        HubUnavailableError: the Hub cannot be reached, or keeps failing.
        HubError: the repository or revision was not found, or the token has no access to it.
    """
    path = _resolve_directory(path)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.parquet"))
    files = {name: split_key for name in names if (split_key := parse_data_path(name))}
    sources = _read_column_sources(path, files)
    columns = features(sources)  # imports `datasets`, which two threads must not do at once
    findings = _Findings()
    for name in list_foreign_files(path):
        findings.add(Problem("unexpected file", name))
    for problem in _check_numbering(files):
        findings.add(problem)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding images releases the GIL
        for file_findings in pool.map(partial(_check_file, path, columns), files, files.values()):
            findings.merge(file_findings)
    for problem in [*_check_across_files(findings), *_check_card(path, set(files.values()), findings.rows, sources)]:
        findings.add(problem)
    if not findings.counts:  # the counts are only complete if every file and row is valid
        for problem in _check_card_text(path, files, findings, sources):
            findings.add(problem)
    return ValidationReport(tuple(findings.problems), dict(findings.counts), dict(findings.rows))


def _resolve_directory(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    ref = RepoRef.parse(str(path).removeprefix(HUB_PREFIX))
    if ref is None:
        raise UsageError(
            f"{path} is not a directory: give the directory of a release, or org/name[@revision] on the Hub"
        )
    return download_snapshot(ref.repo_id, repo_type="dataset", revision=ref.revision)


def _read_column_sources(root: Path, files: Mapping[str, SplitKey]) -> tuple[str, ...]:
    """Return the methods whose columns the first readable file has; all files should have the same schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in files:
        with suppress(OSError, pa.ArrowException):  # a file that cannot be read is reported when it is checked
            check_regular(root / name)
            return find_column_sources(pq.read_schema(root / name))
    return ()


def _check_numbering(files: Mapping[str, SplitKey]) -> Iterator[Problem]:
    """Check that the files of each split are numbered consecutively from 0, and that their names state their number."""
    if not files:
        yield Problem("no data files", "data")
    count = Counter(files.values())
    # The names that this number of files must have; a missing file shifts the total, so all files are then wrong.
    expected = {data_path(*split_key, index, total) for split_key, total in count.items() for index in range(total)}
    for name in sorted(files.keys() - expected):
        yield Problem("wrong number of data files", name, detail=f"found: {format_count(count[files[name]], 'file')}")


def _check_file(root: Path, columns: Any, name: str, split_key: SplitKey) -> _Findings:
    import pyarrow as pa

    findings = _Findings()
    try:
        _check_rows(root, columns, name, split_key, findings)
    # A damaged file is one problem; the other files are still checked.
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        findings.add(Problem("unreadable file", name, detail=" ".join(str(error).split())))
    return findings


def _check_rows(root: Path, columns: Any, name: str, split_key: SplitKey, findings: _Findings) -> None:
    """Check the schema of a file and each of its rows; valid rows are counted for the comparison with the card."""
    import pyarrow.parquet as pq

    subset, split = split_key
    check_regular(root / name)
    with pq.ParquetFile(root / name, pre_buffer=False) as file:
        findings.rows[split_key] += file.metadata.num_rows
        if difference := _schema_difference(file.schema_arrow, columns.arrow_schema):
            # The checks of rows need the columns of the schema, so none of its rows are checked.
            findings.add(Problem("schema differs", name, detail=difference))
            return
        for batch in file.iter_batches(batch_size=MAX_GROUP_ROWS):
            for record in batch.to_pylist():
                row_defects = list(iter_defects(record, columns=columns, subset=subset, split=split))
                for check, detail in row_defects:
                    findings.add(Problem(check, name, str(record["id"]), detail))
                if not row_defects:
                    findings.row_counter.add(record)
                # Ids and images of defective rows count too: they may repeat those of other rows.
                findings.ids.append(str(record["id"]))
                findings.image_ids[split].update(split_image_ids(record["image_id"]))


def _schema_difference(schema: Any, expected: Any) -> str:
    """Return how the schema of a file differs from the expected one, or an empty string if they are equal."""
    if set(COMMON_COLUMNS) <= set(schema.names) and (unknown := find_unknown_columns(schema.names)):
        return (
            f"no installed method has the column {', '.join(unknown)}: install the package of its method, or remove it"
        )
    if schema.names != expected.names:
        return f"the columns are {', '.join(schema.names)}; they should be {', '.join(expected.names)}"
    for name in expected.names:
        if schema.field(name).type != expected.field(name).type:
            return f"{name} is {schema.field(name).type}; it should be {expected.field(name).type}"
    # Without this metadata, `datasets` loads images as dicts of bytes and path.
    if (schema.metadata or {}).get(b"huggingface") != expected.metadata[b"huggingface"]:
        return "the metadata with the features for `datasets` is missing or differs"
    return ""


def _check_across_files(findings: _Findings) -> Iterator[Problem]:
    """Check that ids are unique, and that no image is in both splits."""
    for row_id, count in Counter(findings.ids).items():
        if count > 1:
            yield Problem("repeated id", "data", row_id, f"{count} times")
    for image_id in sorted(findings.image_ids["train"] & findings.image_ids["validation"]):
        yield Problem("image in both splits", "data", detail=f"image_id {image_id}")


def _check_card(
    path: Path, split_keys: Collection[SplitKey], rows: Mapping[SplitKey, int], sources: Collection[str]
) -> Iterator[Problem]:
    """Compare the YAML header of the card with the files and the numbers of rows."""
    try:
        header = read_header(path)
    except (OSError, ValueError) as error:
        yield Problem("card cannot be read", CARD, detail=str(error))
        return
    if not header:
        yield Problem("card cannot be read", CARD, detail="there is no card, or it has no header")
        return
    try:
        version = str(header["configs"][0]["version"])
        card_counts = _read_counts(header)
    except (KeyError, IndexError, TypeError) as error:
        yield Problem("card cannot be read", CARD, detail=f"configs or dataset_info lack {error}")
        return
    if header["configs"] != header_configs(split_keys, version):
        yield Problem("card's configs do not match the files", CARD)
    if any(info.get("features") != card_features(sources) for info in header["dataset_info"]):
        yield Problem("card's features differ", CARD)
    for name, subsets in configs_from_subsets(subset for subset, _ in split_keys).items():
        split_counts: Counter[str] = Counter()
        for (subset, split), count in rows.items():
            split_counts[split] += count if subset in subsets else 0
        # `+` drops splits without rows, which the header does not list. Configs that remain in `card_counts` have no
        # files.
        if +split_counts != Counter(card_counts.pop(name, {})):
            yield Problem("card's counts are wrong", CARD, detail=f"config {name} has {dict(+split_counts)}")
    for name in card_counts:
        yield Problem("card's counts are wrong", CARD, detail=f"config {name} has no files")


def _check_card_text(
    path: Path, files: Mapping[str, SplitKey], findings: _Findings, sources: tuple[str, ...]
) -> Iterator[Problem]:
    """Compare the text and the figures of the card with the counts from the rows."""
    file_bytes: Counter[SplitKey] = Counter()
    for name, split_key in files.items():
        file_bytes[split_key] += (path / name).stat().st_size
    file_counts = Counter(files.values())
    split_keys = sorted(findings.rows, key=lambda split_key: (subset_order(split_key[0]), split_key[1]))
    # 0 bytes as Arrow tables: that size is only in the header and is not compared.
    sizes = {
        split_key: SplitSize(findings.rows[split_key], file_counts[split_key], 0, file_bytes[split_key])
        for split_key in split_keys
    }
    text = read_regular_text(path / CARD)
    stats = DatasetStats(str(read_header(path)["configs"][0]["version"]), sizes, findings.row_counter, sources)
    for check, detail in iter_text_defects(text, stats):
        yield Problem(check, CARD, detail=detail)
    for check, name, detail in iter_figure_defects(path, text, stats):
        yield Problem(check, name, detail=detail)


def _read_counts(header: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the numbers of rows that the card states, by config and split."""
    return {
        info["config_name"]: {split["name"]: split["num_examples"] for split in info["splits"]}
        for info in header["dataset_info"]
    }
