"""`compact show`: a contact sheet, HTML and PNG, of samples of a run, a dataset or its repository.

    compact show run --k 3 --rejects

Outcomes of a run stream by, and images are read once they are chosen: a run may be larger than memory, and may still be
running. Of a dataset little is read: of each k's files, those for training first, row groups in an order by hash until
there are enough questions in them, and images only of those groups. Rows are ordered by their images' hashes, so that a
row group is as good a sample as any.
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
    """Choose among a dataset's rows, but for those of the instruction part.

    Raises:
        UsageError: there is nothing that is wanted.
        ReleaseError: there are no data files of a release, or one cannot be read.
        HubError: the Hub cannot be reached or refuses.
    """
    if not reader.file_hashes:
        raise ReleaseError(f"{reader.name} holds no data files of a release; give what `compact assemble` wrote")
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
        available = ", ".join(sorted(paths_by_subset, key=subset_order)) or "the instruction part only, which has no k"
        wanted = " ".join(filter(None, ("questions", _describe_filters(query))))
        raise UsageError(f"{reader.name} has no {wanted}; there is {available}")
    return sample_set


@dataclass(slots=True)
class _RowGroup:
    """A row group of a file. Images are read all at once, when the first is asked for, of the rows in `rows`."""

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
        column = file.read_row_group(self.index, columns=[_IMAGE_COLUMN])[_IMAGE_COLUMN]
        return {row: column[row].as_py()[0]["bytes"] for row in self.rows}


def _add_candidates(
    reader: DatasetReader, kind: type[RowKind], subset: str, paths: Iterable[str], reservoir: Reservoir
) -> None:
    """Offer what is wanted in the files of one subset, until there is enough of it."""
    query = reservoir.query

    def sort_key(path: str) -> tuple[bool, int]:
        return (parse_data_path(path) or ("", ""))[1] != "train", query.rank(path)

    for path in sorted(paths, key=sort_key):
        if reservoir.is_full(subset):
            return
        read_parquet(reader, path, partial(_add_row_groups, reader, path, kind, subset, reservoir))


def _add_row_groups(
    reader: DatasetReader, path: str, kind: type[RowKind], subset: str, reservoir: Reservoir, file: Any
) -> None:
    query = reservoir.query
    columns = [*COMMON_COLUMNS, *kind.columns()]
    if missing := set(columns) - set(file.schema_arrow.names):
        raise ReleaseError(f"{path} of {reader.name} lacks {', '.join(sorted(missing))}; it is no file of a release")
    columns.remove(_IMAGE_COLUMN)
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
    """Choose among a run's images.

    Args:
        run (`Path`): a run folder, or a folder that holds the shards of one.
        query (`SampleQuery`): which, and how many.
        rejects (`bool`): show drafts that were dropped instead of questions that were kept.

    Raises:
        UsageError: it makes no conversations, or there is nothing that is wanted.
        JournalError: it cannot be read.
        SourceError: an image is gone, or is another one now.
    """
    reservoir = Reservoir(query)
    sections: set[Section] = set()
    with ExitStack() as stack:
        for directory in find_runs(run):
            journal = stack.enter_context(Journal.read(directory))
            method = get_method(RunIdentity.of(journal).method)
            if not method.makes_rows:
                raise UsageError(
                    f"{run} is a run of {method.name}, which keeps no questions; give one of compact generate"
                )
            if method.describe_filters(query.filters) is None:
                continue
            for outcome in read_outcomes(journal):
                if (any_sample := method.make_outcome_sample(outcome, {}, rejects=rejects)) is None:
                    continue
                sections.add(any_sample.section)
                sample = (
                    method.make_outcome_sample(outcome, query.filters, rejects=rejects) if query.filters else any_sample
                )
                if sample is not None:
                    candidate = Candidate(sample, partial(_read_image, outcome))
                    reservoir.add(query.rank(outcome.image_id), candidate, sample.section)
        sample_set = reservoir.read_samples()
    if not sample_set.items:
        subject = "dropped drafts" if rejects else "kept questions"
        available = f"there are some of {_join_labels(sections)}" if sections else "there are none at all so far"
        raise UsageError(f"{run} has no {' '.join(filter(None, (subject, _describe_filters(query))))}; {available}")
    return sample_set


def _join_labels(sections: Iterable[Section]) -> str:
    """Return the sections' names, such as `k = 1, 2`."""
    first, *others = (section.label for section in sorted(sections))
    prefix = first.rpartition(" ")[0]
    return ", ".join([first, *(label.removeprefix(f"{prefix} ") for label in others)])


def _read_image(outcome: FinishedOutcome) -> bytes:
    # Where the run's last start found it gone, reading it again says so.
    image = outcome.get_image() or ImageInfo(outcome.image_id, outcome.ref, 0, 0, "")
    return reread_verified(outcome.source, image)


def _describe_filters(query: SampleQuery) -> str:
    """Return in words what is wanted.

    Raises:
        UsageError: no method knows one of the filters, or a value is out of range.
    """
    descriptions = [kind.describe_filters(query.filters) for kind in get_row_kinds()]
    return next(filter(None, descriptions), "")


PAGE_NAME: Final = "contact_sheet.html"
IMAGE_NAME: Final = "contact_sheet.png"

_UNSAFE_CHARS: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet. A notebook shows it as its image.

    Attributes:
        page (`Path`): one HTML file that needs nothing beside it.
        image (`Path`): the same as a PNG file.
        count (`int`): how many images there are on it.
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
    """Write a contact sheet: a few images with their questions, answers and capabilities, as even over k as can be.

    Which ones is decided by hash, so that the same call shows the same. A run may still go on, and may be larger than
    memory; of a repository only the row groups that are looked into are fetched.

    Args:
        path (`str | Path`): a run folder (or one with the shards of a run), a release, or `org/name[@revision]` on the
            Hub, with or without `hf://datasets/` before it.
        out (`str | Path`, *optional*, defaults to `NAME-sheet` here): the folder for the two files, in place of
            earlier ones.
        k (`int`, *optional*): 1 to 10; only images of this k.
        capability (`str`, *optional*): only questions that were to need it.
        rejects (`bool`, *optional*, defaults to False): of a run: the drafts that were dropped, and why, at most four a
            image, instead of what was kept.
        n (`int`, *optional*, defaults to 12): 1 to 120 images.
        seed (`int`, *optional*, defaults to 0): another one shows other images.

    Raises:
        UsageError: an argument that is out of range, or nothing that could be shown.
        JournalError, SourceError: the run cannot be read, or its images are gone.
        ReleaseError: the release is damaged, or `out` cannot be written.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    capability_name = None if capability is None else re.sub(r"[\s-]+", "_", capability.strip().lower())
    filters = {"k": k, "capability": capability_name}
    query = SampleQuery({name: value for name, value in filters.items() if value is not None}, n, seed)
    _describe_filters(query)  # which refuses what is out of range
    is_run = _is_run(path)
    if rejects and not is_run:
        raise UsageError(f"{path} is no run, and only a run keeps what was dropped; give the folder of the run")
    sample_set = (
        read_run_samples(Path(path), query, rejects=rejects)
        if is_run
        else read_dataset_samples(_open_dataset(path), query)
    )
    name = Path(path).resolve().name if Path(path).is_dir() else str(path).removeprefix(HUB_PREFIX)
    directory = Path(out) if out is not None else Path(f"{_UNSAFE_CHARS.sub('-', name)}-sheet")
    title = f"{name}: {'what was dropped' if rejects else 'questions and answers'}"
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
            raise UsageError(f"{path} is neither a run (no {FILE_NAME}) nor a release (no folder data); give one")
    elif Path(path).exists() or Path(path).is_absolute() or str(path).removeprefix(HUB_PREFIX).count("/") != 1:
        raise UsageError(f"{path} is no folder; give a run, a release, or org/name[@revision] on the Hub")
    return open_dataset(path if Path(path).is_dir() else str(path).removeprefix(HUB_PREFIX), compute_hashes=False)


def _iter_summary(sample_set: SampleSet, query: SampleQuery, *, rejects: bool) -> Iterator[str]:
    images = f"{len(sample_set.items)} {'picture' if len(sample_set.items) == 1 else 'pictures'}"
    subject = f"{'dropped drafts' if rejects else 'questions'} {_describe_filters(query)}".strip()
    yield f"{images} with {subject}, chosen by hash (seed {query.seed})."
    if sample_set.teachers and sample_set.verifiers:
        yield f"Written by {', '.join(sample_set.teachers)}; checked by {', '.join(sample_set.verifiers)}."
    if rejects:
        yield "Below each draft stand why it was dropped, and the capabilities that it was to need: k of them."
    else:
        yield (
            "Below each answer stand the capabilities that were asked for: k of them. The verifier found the same, "
            "unless the line above them says otherwise."
        )


def _write_sheet(directory: Path, page: str, image: bytes, count: int) -> Sheet:
    sheet = Sheet(directory / PAGE_NAME, directory / IMAGE_NAME, count)
    with translate_disk_errors(ReleaseError, directory, "give another --out"):
        write_atomically(sheet.page, page)
        write_atomically(sheet.image, image)
    return sheet
