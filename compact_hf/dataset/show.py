"""Writes a contact sheet, as HTML and PNG, with samples from a run, a release, or a dataset repository.

    compact show run --k 3 --rejects

The outcomes of a run are read as a stream, and only the images that were selected are read, so the run may be larger
than memory and may still be running. Of a release only a few row groups are read: for each subset, files of the
training split first, and row groups in an order by hash until there are enough questions. Images are read only from
these groups. Rows are ordered by the hashes of their images, so any row group is a random sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.examples import Candidate, Reservoir, SampleQuery, SampleSet
from compact_hf.dataset.reader import DatasetReader, open_dataset, read_parquet
from compact_hf.dataset.row_kinds import INSTRUCTION, get_row_kinds, get_subset_kind
from compact_hf.dataset.schema import COMMON_COLUMNS, parse_data_path, subset_order
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.address import HUB_PREFIX
from compact_hf.methods.assembly import FinishedOutcome, read_outcomes
from compact_hf.methods.registry import get_method
from compact_hf.methods.row_kind import RowKind
from compact_hf.records import ImageInfo
from compact_hf.reports import contact_sheet
from compact_hf.reports.contact_sheet import Section
from compact_hf.runs.identity import RunIdentity
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.shards import find_runs
from compact_hf.storage import translate_disk_errors, write_atomically

_IMAGE_COLUMN: Final = "images"


def read_dataset_samples(reader: DatasetReader, query: SampleQuery) -> SampleSet:
    """Select samples from the rows of a release, except the instruction part.

    Args:
        reader (`DatasetReader`): the release.
        query (`SampleQuery`): which samples, and how many.

    Returns:
        The selected images with their questions.

    Raises:
        UsageError: no row matches the query.
        ReleaseError: there are no data files of a release, or one cannot be read.
        HubError: the Hub cannot be reached or rejects the request.
    """
    if not reader.file_hashes:
        raise ReleaseError(
            f"{reader.name} has no data files of a dataset release: give the output of `compact assemble`"
        )
    paths_by_subset: dict[str, list[str]] = {}
    for path in reader.file_hashes:
        subset, _ = parse_data_path(path) or ("", "")
        kind = get_subset_kind(subset)
        if kind is not None and kind.name != INSTRUCTION:
            paths_by_subset.setdefault(subset, []).append(path)
    reservoir = Reservoir(query)
    for subset in sorted(paths_by_subset, key=subset_order):
        kind = get_subset_kind(subset)
        if (
            kind is not None
            and kind.describe_filters(query.filters) is not None
            and kind.may_match(subset, query.filters)
        ):
            _add_candidates(reader, kind, subset, paths_by_subset[subset], reservoir)
    sample_set = reservoir.read_samples()
    if not sample_set.items:
        available = ", ".join(sorted(paths_by_subset, key=subset_order)) or "only an instruction part, which has no k"
        wanted = " ".join(filter(None, ("questions", _describe_filters(query))))
        raise UsageError(f"{reader.name} has no {wanted}; it has {available}")
    return sample_set


@dataclass(slots=True)
class _RowGroup:
    """A row group of a file. The first `read_image` reads the images of all `rows` at once."""

    reader: DatasetReader
    path: str
    index: int
    rows: list[int] = field(default_factory=list)
    _images: dict[int, bytes] = field(default_factory=dict)

    def read_image(self, row: int) -> bytes:
        if not self._images:
            self._images = read_parquet(self.reader, self.path, self._read_images)
        return self._images[row]

    def _read_images(self, file: Any) -> dict[int, bytes]:
        # Parquet reads a column of a row group as a whole, so one read serves all chosen rows.
        column = file.read_row_group(self.index, columns=[_IMAGE_COLUMN])[_IMAGE_COLUMN]
        return {row: column[row].as_py()[0]["bytes"] for row in self.rows}


def _add_candidates(
    reader: DatasetReader, kind: type[RowKind], subset: str, paths: Iterable[str], reservoir: Reservoir
) -> None:
    """Add matching rows from the files of one subset to the reservoir, until it has enough of them."""
    query = reservoir.query

    def sort_key(path: str) -> tuple[bool, int]:
        # False sorts before True: the training split first, and inside a split by hash.
        return (parse_data_path(path) or ("", ""))[1] != "train", query.rank(path)

    for path in sorted(paths, key=sort_key):
        if reservoir.is_full(subset):
            return
        read_parquet(reader, path, partial(_add_row_groups, reader, path, kind, subset, reservoir))


def _add_row_groups(
    reader: DatasetReader, path: str, kind: type[RowKind], subset: str, reservoir: Reservoir, file: Any
) -> None:
    """Add matching rows of one file to the reservoir, row group by row group, without reading their images."""
    query = reservoir.query
    columns = [*COMMON_COLUMNS, *kind.columns()]
    if missing := set(columns) - set(file.schema_arrow.names):
        raise ReleaseError(
            f"{path} of {reader.name} is not a file of a release (no column {', '.join(sorted(missing))})"
        )
    columns.remove(_IMAGE_COLUMN)
    # Whole row groups: once one is read, all its rows compete by their ranks.
    for index in sorted(range(file.num_row_groups), key=partial(query.rank, path)):
        if reservoir.is_full(subset):
            return
        group = _RowGroup(reader, path, index)
        for row, record in enumerate(file.read_row_group(index, columns=columns).to_pylist()):
            caption = f"{record['image_source']}, {record['image_license']}, row {record['id'][:8]}"
            if record["image_id"] and (sample := kind.make_sample(record, caption, query.filters)) is not None:
                group.rows.append(row)
                reservoir.add(query.rank(record["id"]), Candidate(sample, partial(group.read_image, row)), subset)


def read_run_samples(run: Path, query: SampleQuery, *, rejects: bool) -> SampleSet:
    """Select samples from the images of a run.

    Args:
        run (`Path`): a run directory, or a directory that contains the shards of a run.
        query (`SampleQuery`): which samples, and how many.
        rejects (`bool`): show rejected drafts instead of accepted questions.

    Returns:
        The selected images with their questions or drafts.

    Raises:
        UsageError: the run makes no conversations, or nothing in it matches the query.
        JournalError: the run cannot be read.
        SourceError: an image cannot be read any more, or has changed.
    """
    reservoir = Reservoir(query)
    sections: set[Section] = set()
    with ExitStack() as stack:
        for directory in find_runs(run):
            journal = stack.enter_context(Journal.read(directory))
            method = get_method(RunIdentity.of(journal).method)
            if not method.makes_rows:
                raise UsageError(
                    f"{run} is a run of {method.name}, which makes no questions: give a run of compact generate"
                )
            # The method does not know the filter, such as `k`: nothing of this run can match.
            if method.describe_filters(query.filters) is None:
                continue
            for outcome in read_outcomes(journal):
                if (any_sample := method.make_outcome_sample(outcome, {}, rejects=rejects)) is None:
                    continue
                # Collected without the filters, for the message if nothing matches.
                sections.add(any_sample.section)
                sample = (
                    method.make_outcome_sample(outcome, query.filters, rejects=rejects) if query.filters else any_sample
                )
                if sample is not None:
                    candidate = Candidate(sample, partial(_read_image, outcome))
                    reservoir.add(query.rank(outcome.image_id), candidate, sample.section)
        # Inside the block: the images are found in the journals, which must still be open.
        sample_set = reservoir.read_samples()
    if not sample_set.items:
        subject = "rejected drafts" if rejects else "accepted questions"
        available = f"there are some for {_join_labels(sections)}" if sections else "there are none so far"
        raise UsageError(f"{run} has no {' '.join(filter(None, (subject, _describe_filters(query))))}; {available}")
    return sample_set


def _join_labels(sections: Iterable[Section]) -> str:
    """Return the names of the sections, such as `k = 1, 2`."""
    first, *others = (section.label for section in sorted(sections))
    prefix = first.rpartition(" ")[0]
    return ", ".join([first, *(label.removeprefix(f"{prefix} ") for label in others)])


def _read_image(outcome: FinishedOutcome) -> bytes:
    # Without an entry for the image (it was gone when the run last started), reading it raises the error.
    image = outcome.get_image() or ImageInfo(outcome.image_id, outcome.ref, 0, 0, "")
    return reread_verified(outcome.source, image)


def _describe_filters(query: SampleQuery) -> str:
    """Return the filters of a query in words.

    Raises:
        UsageError: no method knows one of the filters, or a value is out of range.
    """
    descriptions = [kind.describe_filters(query.filters) for kind in get_row_kinds()]
    return next(filter(None, descriptions), "")


PAGE_NAME: Final = "contact_sheet.html"
IMAGE_NAME: Final = "contact_sheet.png"

# Everything except letters, digits, underscores, dots and hyphens; for file names.
_UNSAFE_CHARS: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet. A notebook shows it as its image.

    Attributes:
        page (`Path`): a self-contained HTML file.
        image (`Path`): the same content as a PNG file.
        count (`int`): number of images on the sheet.
    """

    page: Path
    image: Path
    count: int

    def _repr_png_(self) -> bytes:
        return self.image.read_bytes()


def show(
    path: str | Path,
    out: str | Path | None = None,
    *,
    k: int | None = None,
    capability: str | None = None,
    rejects: bool = False,
    n: int = 12,
    seed: int = 0,
) -> Sheet:
    """Write a contact sheet: a few images with their questions, answers and capabilities, spread evenly over k.

    Images are selected by hash, so the same call shows the same images. A run may still be running, and may be larger
    than memory. Of a repository only the row groups that are needed are downloaded.

    Args:
        path (`str | Path`): a run directory (or a directory with the shards of a run), a release, or
            `org/name[@revision]` on the Hub, with or without the prefix `hf://datasets/`.
        out (`str | Path`, *optional*, defaults to `NAME-sheet` in the current directory): output directory for the two
            files; existing ones are replaced.
        k (`int`, *optional*): show only images with this k, 1 to 10.
        capability (`str`, *optional*): show only questions for which this capability was requested.
        rejects (`bool`, *optional*, defaults to False): show the rejected drafts of a run with the reasons, at most
            four per image, instead of the accepted questions.
        n (`int`, *optional*, defaults to 12): number of images, 1 to 120.
        seed (`int`, *optional*, defaults to 0): random seed of the selection.

    Returns:
        The paths of the two files, and the number of images.

    Raises:
        UsageError: an argument is out of range, or nothing matches.
        JournalError: the run cannot be read.
        SourceError: images of the run cannot be read any more.
        ReleaseError: the release is damaged, or `out` cannot be written.
        HubError: the Hub cannot be reached, or the repository was not found.
    """
    # Spellings such as "Text recognition" are accepted for text_recognition.
    capability_name = None if capability is None else re.sub(r"[\s-]+", "_", capability.strip().lower())
    filters = {"k": k, "capability": capability_name}
    query = SampleQuery({name: value for name, value in filters.items() if value is not None}, n, seed)
    _describe_filters(query)  # raises if a value is out of range
    is_run = _is_run(path)
    if rejects and not is_run:
        raise UsageError(f"{path} is not a run, and only runs contain rejected drafts: give a run directory")
    sample_set = (
        read_run_samples(Path(path), query, rejects=rejects)
        if is_run
        else read_dataset_samples(_open_dataset(path), query)
    )
    # Resolved, because `.` has no name.
    name = Path(path).resolve().name if Path(path).is_dir() else str(path).removeprefix(HUB_PREFIX)
    directory = Path(out) if out is not None else Path(f"{_UNSAFE_CHARS.sub('-', name)}-sheet")
    title = f"{name}: {'rejected drafts' if rejects else 'questions and answers'}"
    page = contact_sheet.render_page(
        sample_set.items, title=title, summary=list(_iter_summary(sample_set, query, rejects=rejects))
    )
    return _write_sheet(directory, page, contact_sheet.render_sheet(sample_set.items), len(sample_set.items))


def _is_run(path: str | Path) -> bool:
    directory = Path(path)
    return directory.is_dir() and any((run / FILE_NAME).is_file() for run in find_runs(directory))


def _open_dataset(path: str | Path) -> DatasetReader:
    if Path(path).is_dir():
        if not (Path(path) / "data").is_dir():
            raise UsageError(
                f"{path} is neither a run (no {FILE_NAME}) nor a dataset release (no directory data): give one"
            )
    elif Path(path).exists() or Path(path).is_absolute() or str(path).removeprefix(HUB_PREFIX).count("/") != 1:
        raise UsageError(f"{path} is not a directory: give a run, a dataset release, or org/name[@revision] on the Hub")
    return open_dataset(path if Path(path).is_dir() else str(path).removeprefix(HUB_PREFIX), compute_hashes=False)


def _iter_summary(sample_set: SampleSet, query: SampleQuery, *, rejects: bool) -> Iterator[str]:
    images = f"{len(sample_set.items)} {'image' if len(sample_set.items) == 1 else 'images'}"
    subject = f"{'rejected drafts' if rejects else 'questions'} {_describe_filters(query)}".strip()
    yield f"{images} with {subject}, selected by hash (seed {query.seed})."
    if sample_set.teachers and sample_set.verifiers:
        yield f"Written by {', '.join(sample_set.teachers)}; checked by {', '.join(sample_set.verifiers)}."
    if rejects:
        yield "Below each draft: the reason why it was rejected, and the k capabilities that were requested."
    else:
        yield (
            "Below each answer: the k capabilities that were requested. The verifier found the same ones, unless the "
            "line above them says otherwise."
        )


def _write_sheet(directory: Path, page: str, image: bytes, count: int) -> Sheet:
    sheet = Sheet(directory / PAGE_NAME, directory / IMAGE_NAME, count)
    with translate_disk_errors(ReleaseError, directory, "give another --out"):
        write_atomically(sheet.page, page)
        write_atomically(sheet.image, image)
    return sheet
